"""From what a user asks for to the recipe of a build: complete, identified, and catalogued."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from registry.augmentation import PROMPTS_VERSION, parse_augmenter
from registry.base_model import (
    ModelFiles,
    block_count_of,
    choose_dtype,
    fingerprint,
    locate,
)
from registry.catalog.recipes import add_base_model, add_recipe, get_base_model, get_recipe, recipe_of_corpus
from registry.catalog.task_adapters import get_task_adapter, locate_task_adapter
from registry.digests import short
from registry.errors import UsageError
from registry.pipeline.base_models import files_of
from registry.pipeline.opened import Registry
from registry.progress import Progress
from registry.recipe import HALF, Recipe, override, preset, read_recipe_file
from registry.records import BaseModel
from registry.store.layout import read_layout

SHAPE = ("base_model", "rank", "alpha", "targets", "first_layer", "adapter_dtype")
"""Settings that a recipe and its task adapter must have in common."""


@dataclass(frozen=True)
class RecipeRequest:
    """What a user says of the recipe; what is left out is the corpus' last recipe's, or the default preset's.

    ``settings`` are single settings that go over ``file``, which goes over ``preset``.
    """

    preset: str | None = None
    file: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    base_model: str | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Chosen:
    """A complete recipe, the files of its base model, and the body of its task adapter if it has one."""

    recipe: Recipe
    base_model: BaseModel
    files: ModelFiles
    start: bytes | None = None


def choose_recipe(
    registry: Registry, corpus: str, request: RecipeRequest, augmenter: str | None, progress: Progress
) -> Chosen:
    """Complete the recipe for a build of ``corpus`` and record it in the catalog; raises as ``complete_recipe``."""
    chosen = complete_recipe(registry, corpus, request, augmenter, progress)
    record_recipe(registry, chosen)
    return chosen


def complete_recipe(
    registry: Registry, corpus: str, request: RecipeRequest, augmenter: str | None, progress: Progress
) -> Chosen:
    """Complete the recipe for a build of ``corpus``; the catalog is only read.

    Raises:
        UsageError, InputError: the recipe's settings are wrong.
        BaseModelError: the base model cannot be had, or is not the one that the corpus' recipe names.
    """
    with registry.catalog.read() as session:
        last = recipe_of_corpus(session, corpus)
        known = get_base_model(session, last.base_model) if last else None
    start = preset(request.preset or "default") if request.preset or last is None else last
    recipe = read_recipe_file(request.file, start) if request.file else start
    recipe = override(recipe, request.settings, origin="--set")
    if request.base_model is None and known is not None:
        files = files_of(registry, known, progress)
        base_model = known
    else:
        reference = request.base_model or registry.home.base_model
        files = locate(reference, models_path=registry.home.models_path, notify=progress.say)
        base_model = fingerprint(files)
    recipe = replace(
        recipe,
        base_model=base_model.fingerprint,
        # Who writes decides the bytes, where an import file lies does not: what came is in the augmentation's digest.
        augmenter=parse_augmenter(augmenter).kind if augmenter else recipe.augmenter,
        prompts_version=PROMPTS_VERSION,
        dtype=_dtype(request, recipe),
        first_layer=block_count_of(files) // 2 if recipe.first_layer == HALF else recipe.first_layer,
    )
    if not recipe.task_adapter:
        return Chosen(recipe, base_model, files)
    digest, body = read_task_adapter(registry, recipe)
    return Chosen(replace(recipe, task_adapter=digest), base_model, files, start=body)


def read_task_adapter(registry: Registry, recipe: Recipe) -> tuple[str, bytes]:
    """Return the digest and the body of a recipe's task adapter, which the recipe names by name or digest.

    Raises:
        NotFoundError: there is none of that name or digest.
        UsageError: it is of another shape than the recipe's adapters.
        IntegrityError: its bytes are lost or damaged.
    """
    with registry.catalog.read() as session:
        task_adapter = get_task_adapter(session, recipe.task_adapter)
        trained = get_recipe(session, task_adapter.recipe_digest)
        location = locate_task_adapter(session, task_adapter.digest)
    for name in SHAPE:
        if getattr(trained, name) != getattr(recipe, name):
            raise UsageError(
                f"the task adapter {short(task_adapter.digest)} was trained with {name} {getattr(trained, name)}, "
                f"and this recipe has {getattr(recipe, name)}",
                hint="pragreg warmup QUESTIONS.jsonl, with the options of this recipe",
            )
    data = registry.packs.read(location)
    return task_adapter.digest, bytes(read_layout(data).body(data))


def record_recipe(registry: Registry, chosen: Chosen) -> None:
    """Record a recipe and its base model in the catalog."""
    with registry.catalog.write() as session:
        add_base_model(session, chosen.base_model)
        add_recipe(session, chosen.recipe)


def _dtype(request: RecipeRequest, recipe: Recipe) -> Any:
    wanted = request.dtype or recipe.dtype
    if wanted != "auto":
        return wanted
    return choose_dtype("auto")
