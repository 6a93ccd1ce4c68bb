"""The entries of the root manifest, between their records and JSON. Readers raise ValueError."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from registry.catalog.names import is_corpus_name
from registry.digests import json_digest
from registry.errors import UsageError
from registry.hub.manifest.limits import MOST_QUESTIONS, MOST_VERSIONS, NAME_LENGTH, PACK_LIMIT_BYTES
from registry.hub.manifest.strict_json import Fields, is_digest, moment_text
from registry.hub.manifest.text import is_plain
from registry.published import FileRef, PublishedTaskAdapter, PublishedVersion
from registry.recipe import Recipe, from_canonical
from registry.records import BaseModel, TaskAdapter, Training

_SETTING_LENGTH = 128
_MODULE = re.compile(r"[A-Za-z0-9_]{1,64}")
_REVISION = re.compile(r"[0-9a-f]{40}|sha256:[0-9a-f]{64}")
_MOST_RANK = 4096
_MOST_SCALE = 65536
_MOST_ITEMS = 64
_MOST_SETTING = 2**63 - 1


def base_model_of(value: Any) -> BaseModel:
    """Return a base model."""
    fields = Fields(value, "a base model")
    model = BaseModel(
        fingerprint=fields.digest("fingerprint"),
        reference=fields.text("reference", NAME_LENGTH),
        revision=fields.take("revision"),
        architecture=fields.text("architecture", NAME_LENGTH),
        parameters=fields.integer("parameters"),
    )
    fields.end()
    if model.revision is not None and not (isinstance(model.revision, str) and _REVISION.fullmatch(model.revision)):
        raise ValueError("the revision of a base model is neither a commit nor the digest of a file")
    return model


def recipe_of(digest: str, value: Any) -> Mapping[str, Any]:
    """Return a recipe's canonical settings, which have this digest and mean something."""
    what = f"the recipe {digest[:12]!r}"
    if not is_digest(digest) or not isinstance(value, dict):
        raise ValueError(f"{what} is none")
    if not all(_is_setting(setting) for setting in value.values()):
        raise ValueError(f"{what} has a setting that is none")
    try:
        recipe = from_canonical(value)
    except (UsageError, TypeError, ValueError) as error:
        raise ValueError(f"{what} is none: {error}") from error
    if json_digest(value) != digest or recipe.digest != digest:
        raise ValueError(f"{what} has another digest than its settings")
    if problem := _recipe_problem(recipe):
        raise ValueError(f"{what} has {problem}")
    return value


def version_values(version: PublishedVersion) -> dict[str, Any]:
    """Return a version as JSON values."""
    return {**asdict(version), "created_at": moment_text(version.created_at)}


def version_of(value: Any) -> PublishedVersion:
    """Return a version."""
    fields = Fields(value, "a version")
    parent = fields.take("parent")
    version = PublishedVersion(
        number=fields.integer("number", 1, MOST_VERSIONS),
        digest=fields.digest("digest"),
        parent=parent,
        recipe_digest=fields.digest("recipe_digest"),
        message=fields.text("message", least=0),
        created_at=fields.moment("created_at"),
        documents=fields.integer("documents"),
        size_bytes=fields.integer("size_bytes"),
        is_complete=fields.truth("is_complete"),
    )
    fields.end()
    if parent is not None and type(parent) is not int:
        raise ValueError("the parent of a version is no number")
    return version


def task_adapter_values(published: PublishedTaskAdapter) -> dict[str, Any]:
    """Return a task adapter as JSON values."""
    values = asdict(published.task_adapter)
    values["created_at"] = moment_text(published.task_adapter.created_at)
    pack = published.pack
    return {**values, "pack": pack.digest, "pack_bytes": pack.size_bytes, "offset": published.offset}


def task_adapter_of(value: Any) -> PublishedTaskAdapter:
    """Return a task adapter and where it lies."""
    fields = Fields(value, "a task adapter")
    questions = fields.items("question_digests", MOST_QUESTIONS)
    task_adapter = TaskAdapter(
        digest=fields.digest("digest"),
        recipe_digest=fields.digest("recipe_digest"),
        name=fields.text("name", NAME_LENGTH, least=0),
        questions_digest=fields.digest("questions_digest"),
        question_digests=tuple(questions),
        questions=fields.integer("questions", 1),
        parameters=fields.integer("parameters", 1),
        size_bytes=fields.integer("size_bytes", 1, PACK_LIMIT_BYTES),
        training=_training_of(fields.take("training")),
        created_at=fields.moment("created_at"),
    )
    pack = FileRef(fields.digest("pack"), fields.integer("pack_bytes", 1, PACK_LIMIT_BYTES))
    offset = fields.integer("offset", 8, PACK_LIMIT_BYTES)
    fields.end()
    if task_adapter.name and not is_corpus_name(task_adapter.name):
        raise ValueError(f"a task adapter is called {task_adapter.name[:64]!r}")
    if not all(map(is_digest, questions)) or questions != sorted(set(questions)) or not questions:
        raise ValueError("the questions of a task adapter are not given by their digests, in order")
    if len(questions) > task_adapter.questions or offset + task_adapter.size_bytes > pack.size_bytes:
        raise ValueError("the numbers of a task adapter contradict each other")
    return PublishedTaskAdapter(task_adapter, pack, offset)


def _training_of(value: Any) -> Training:
    fields = Fields(value, "the training of a task adapter")
    training = Training(
        examples=fields.integer("examples"),
        tokens=fields.integer("tokens"),
        steps=fields.integer("steps"),
        first_loss=fields.number("first_loss"),
        last_loss=fields.number("last_loss"),
        elapsed_seconds=fields.number("elapsed_seconds"),
        device=fields.text("device", NAME_LENGTH),
        dtype=fields.text("dtype", NAME_LENGTH),
        group_size=fields.integer("group_size", 1),
        library_versions=_library_versions(fields.mapping("library_versions", _MOST_ITEMS)),
    )
    fields.end()
    if training.elapsed_seconds < 0:
        raise ValueError("the training of a task adapter took less than no time")
    return training


def _library_versions(value: Mapping[str, Any]) -> dict[str, str]:
    if not all(is_plain(name, NAME_LENGTH) for name in value):
        raise ValueError("a library of a task adapter has no name")
    fields = Fields(value, "the libraries of a task adapter")
    return {name: fields.text(name, NAME_LENGTH) for name in value}


def _is_setting(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) <= _MOST_ITEMS and all(
            type(one) is str and _MODULE.fullmatch(one.replace("-", "_")) for one in value
        )
    if isinstance(value, str):
        return len(value) <= _SETTING_LENGTH and value.isprintable()
    return isinstance(value, (int, float)) and abs(value) <= _MOST_SETTING


def _recipe_problem(recipe: Recipe) -> str | None:
    if not is_digest(recipe.base_model) or (recipe.task_adapter and not is_digest(recipe.task_adapter)):
        return "a base model or task adapter that is no digest"
    if recipe.rank > _MOST_RANK or recipe.scale > _MOST_SCALE:
        return f"the rank {recipe.rank} and the scale {recipe.scale}"
    if not all(_MODULE.fullmatch(target) for target in recipe.targets):
        return "a target that is no name of a module"
    return None
