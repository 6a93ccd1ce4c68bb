"""Base models that the catalog knows; apart from recipes, so that a query imports nothing that builds."""

from __future__ import annotations

from threading import Lock

from registry.base_model import LoadedModel, ModelFiles, fingerprint, load, locate, require_same
from registry.base_model.location import PUBLISHED
from registry.catalog.recipes import get_base_model
from registry.pipeline.opened import Registry
from registry.progress import Progress
from registry.recipe import Recipe
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


class BaseModels:
    """The base models that a process answers with, each loaded once in every dtype that is asked for.

    Threads may share it.
    """

    def __init__(self, registry: Registry, *, device: str, dtype: str, progress: Progress) -> None:
        """Load none yet; a ``dtype`` of "auto" is that of the recipe, or what suits the device where that is mps."""
        self._registry, self._device, self._dtype, self._progress = registry, device, dtype, progress
        self._loaded: dict[tuple[str, str], LoadedModel] = {}
        self._lock = Lock()

    def get(self, recipe: Recipe) -> LoadedModel:
        """Return the base model of a recipe, which is loaded the first time.

        Raises:
            BaseModelError: it is not to be had, or is another one now.
        """
        dtype = recipe.dtype if self._dtype == "auto" and self._device != "mps" else self._dtype
        key = recipe.base_model, dtype
        with self._lock:
            if key not in self._loaded:
                with self._registry.catalog.read() as session:
                    base_model = get_base_model(session, recipe.base_model)
                files = files_of(self._registry, base_model, self._progress)
                self._loaded[key] = load(files, device=self._device, dtype=dtype)
            return self._loaded[key]

    def clear(self) -> None:
        """Let all of them go."""
        with self._lock:
            self._loaded.clear()


def token_limit(loaded: LoadedModel) -> int | None:
    """Return how many tokens a prompt and its answer may have together; None where the model sets no limit."""
    limit = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    return None if limit is None else int(limit)
