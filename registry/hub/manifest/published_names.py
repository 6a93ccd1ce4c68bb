"""Under which names others find a base model; a local path is nobody's business."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import PurePath

from registry.base_model.location import DEFAULT_ALIAS, DEFAULT_REPOSITORY, PUBLISHED
from registry.hub.manifest.text import plain
from registry.records import BaseModel

_HUB_ID = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@\w[\w./-]*)?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILE = re.compile(r"sha256:[0-9a-f]{64}")


def published_base_model(model: BaseModel) -> BaseModel:
    """Return a base model as it is published: its Hub id where it came from the Hub, else the last part of its path."""
    revision = model.revision or ""
    is_commit, is_file = _COMMIT.fullmatch(revision), _FILE.fullmatch(revision)
    return replace(model, reference=_name(model, bool(is_commit)), revision=revision if is_commit or is_file else None)


def hub_id(model: BaseModel) -> str | None:
    """Return the repository in which others find a published base model; None where only its maker has it."""
    published = published_base_model(model)
    return published.reference if "/" in published.reference else None


def _name(model: BaseModel, is_commit: bool) -> str:
    reference = model.reference.removeprefix(PUBLISHED)
    if reference in (DEFAULT_ALIAS, DEFAULT_REPOSITORY):
        return DEFAULT_REPOSITORY
    named = _HUB_ID.fullmatch(reference)
    if named and is_commit:
        return named["repository"]
    return plain(PurePath(reference.replace("\\", "/")).name)[:100] or "unnamed"
