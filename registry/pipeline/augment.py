"""The augmentation step of a build: ask only for what the catalog has not, and keep each answer at once."""

from __future__ import annotations

from collections.abc import Iterator

from registry.augmentation import (
    AugmentationSettings,
    Augmenter,
    deferred_self_augmenter,
    endpoint_augmenter,
    import_augmenter,
    none_augmenter,
    parse_augmenter,
)
from registry.base_model import load
from registry.catalog.adapters import find_adapters
from registry.catalog.augmentations import add_augmentations, answered_requests, find_withheld
from registry.catalog.builds import staged_documents
from registry.catalog.chunks import chunked
from registry.errors import UsageError
from registry.pipeline.opened import Registry
from registry.pipeline.recipes import Chosen
from registry.progress import Progress
from registry.records import Augmentation, StagedDocument

BATCH_DOCUMENTS = 256
"""Documents whose texts are in memory at one time while they are augmented."""
STORE_COUNT = 500
"""Augmentations that cost nothing to get again are put into the catalog so many at a time, others one by one."""


def make_augmenter(chosen: Chosen, named: str | None, device: str) -> Augmenter:
    """Return the augmenter that was named, or else the recipe's.

    Raises:
        UsageError: the recipe's augmentations were imported, and no file is named now.
        InputError: the import file is wrong.
        AugmentationError: the endpoint has no key or model.
    """
    recipe = chosen.recipe
    if named is None and recipe.augmenter == "import":
        raise UsageError(
            "this corpus' augmentations were imported, and no file is named", hint="add --augmenter import:FILE"
        )
    spec = parse_augmenter(named or recipe.augmenter)
    settings = AugmentationSettings(rewrites=recipe.rewrites, pairs=recipe.pairs, seed=recipe.seed)
    if spec.kind == "none":
        return none_augmenter()
    if spec.path is not None:
        return import_augmenter(spec.path, settings)
    if spec.kind == "openai":
        return endpoint_augmenter(settings)
    return deferred_self_augmenter(
        chosen.base_model, lambda: load(chosen.files, device=device, dtype=recipe.dtype), settings
    )


def augment(registry: Registry, build_id: int, augmenter: Augmenter, recipe_digest: str, progress: Progress) -> None:
    """Have every staged document augmented that is not, storing each augmentation as it comes.

    Where the content of an augmentation is withheld, the document's adapter under the recipe will do.
    """
    missing: list[str] = []
    with registry.catalog.read() as session:
        for staged in chunked(staged_documents(session, build_id)):
            requests = {item.document.digest: augmenter.request_digest(item) for item in staged}
            answered = answered_requests(session, requests)
            left = {digest: request for digest, request in requests.items() if digest not in answered}
            pairs = ((digest, known.digest) for digest, known in find_withheld(session, left).items())
            encoded = {digest for digest, _ in find_adapters(session, recipe_digest, pairs)}
            missing += [digest for digest in left if digest not in encoded]
    if missing:
        progress.start("augmenting", len(missing))
        at_once = 1 if augmenter.is_costly else STORE_COUNT
        _store(registry, augmenter, _batches(registry, build_id, missing), at_once, progress)
        progress.done()
    augmenter.finish()


def _batches(registry: Registry, build_id: int, digests: list[str]) -> Iterator[list[StagedDocument]]:
    for part in chunked(digests, BATCH_DOCUMENTS):
        with registry.catalog.read() as session:
            staged = list(staged_documents(session, build_id, part))
        yield staged


def _store(
    registry: Registry, augmenter: Augmenter, batches: Iterator[list[StagedDocument]], at_once: int, progress: Progress
) -> None:
    waiting: list[Augmentation] = []
    try:
        for batch in batches:
            for augmentation in augmenter.augment(batch):
                waiting.append(augmentation)
                progress.advance()
                if len(waiting) >= at_once:
                    _flush(registry, waiting)
    finally:
        _flush(registry, waiting)


def _flush(registry: Registry, waiting: list[Augmentation]) -> None:
    if waiting:
        with registry.catalog.write() as session:
            add_augmentations(session, waiting)
        waiting.clear()
