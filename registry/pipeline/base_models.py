"""The files of a base model that the catalog knows; apart from recipes, so that a query imports nothing that builds."""

from __future__ import annotations

from registry.base_model import ModelFiles, fingerprint, locate, require_same
from registry.base_model.location import PUBLISHED
from registry.pipeline.opened import Registry
from registry.progress import Progress
from registry.records import BaseModel


def files_of(registry: Registry, base_model: BaseModel, progress: Progress) -> ModelFiles:
    """Return the files of a catalogued base model, checked to be the same model.

    Where only a repository named it, those of the home's own are returned if they are that model's.

    Raises:
        BaseModelError: they are not to be had, or are another model's now.
    """
    is_ours = not base_model.reference.startswith(PUBLISHED)
    files = locate(
        base_model.reference if is_ours else registry.home.base_model,
        models_path=registry.home.models_path,
        revision=base_model.revision if is_ours else None,
        notify=progress.say,
    )
    require_same(fingerprint(files), base_model)
    return files
