"""The encoding step of a build: which adapters are missing, training them, and putting them into packs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from registry.augmentation import AugmentationReport, Augmenter
from registry.base_model import shapes_from_config
from registry.catalog.adapters import (
    add_pack,
    find_adapters,
    forget_packs,
    pack_digests,
    packs_of_corpus,
    replace_packs,
)
from registry.catalog.augmentations import find_augmentations_by_request
from registry.catalog.builds import staged_counts, staged_documents
from registry.catalog.chunks import chunked
from registry.catalog.versions import assign_adapters
from registry.encoding.pool import Group, Work, default_workers, encode_groups
from registry.errors import NotFoundError
from registry.pipeline.opened import Registry
from registry.pipeline.progress import Progress
from registry.pipeline.recipes import Chosen
from registry.records import AdapterLocation, EncodedAdapter, EncodingInput
from registry.store.layout import AdapterLayout

CHUNK_DOCUMENTS = 1000
SMALL_PACK_SHARE = 0.25
"""Packs of a corpus below this share of the pack size are combined at the end of a build."""


@dataclass
class AdapterPlan:
    """What a build finds before it trains: groups of missing documents, and what the catalog has already.

    Groups are cut from all documents in order of their size, and only then are those that are there left out, so that
    a build that was interrupted trains the same groups when it goes on.
    """

    groups: list[tuple[str, ...]] = field(default_factory=list)
    reused: int = 0
    missing: int = 0
    augmentations: AugmentationReport = field(default_factory=AugmentationReport)


@dataclass
class EncodingTotals:
    """Sums over the adapters that a build trained."""

    trained: int = 0
    size_bytes: int = 0
    examples: int = 0
    tokens: int = 0
    first_loss: float = 0.0
    last_loss: float = 0.0

    def add(self, adapters: Sequence[EncodedAdapter]) -> None:
        """Count a finished group."""
        for adapter in adapters:
            self.trained += 1
            self.size_bytes += len(adapter.data)
            self.examples += adapter.training.examples
            self.tokens += adapter.training.tokens
            self.first_loss += adapter.training.first_loss
            self.last_loss += adapter.training.last_loss


def plan_adapters(
    registry: Registry, build_id: int, augmenter: Augmenter, recipe_digest: str, group_size: int
) -> AdapterPlan:
    """Look up every staged document's adapter, give the build those that are there, and group the rest."""
    plan = AdapterPlan()
    with registry.catalog.read() as session:
        documents = staged_counts(session, build_id).documents
    chunk = max(1, CHUNK_DOCUMENTS // group_size) * group_size  # groups never straddle two chunks
    found: list[tuple[str, str]] = []
    with registry.catalog.read() as session:
        for staged in chunked(staged_documents(session, build_id), chunk):
            requests = {item.document.digest: augmenter.request_digest(item) for item in staged}
            augmentations = find_augmentations_by_request(session, requests)
            pairs = [(document, augmentations[document].digest) for document in requests]
            adapters = find_adapters(session, recipe_digest, pairs)
            found += [
                (document, adapters[document, digest]) for document, digest in pairs if (document, digest) in adapters
            ]
            for augmentation in augmentations.values():
                plan.augmentations.add(augmentation)
            for group in chunked(pairs, group_size):
                missing = tuple(pair[0] for pair in group if pair not in adapters)
                if missing:
                    plan.groups.append(missing)
    plan.reused = len(found)
    plan.missing = documents - plan.reused
    for part in chunked(found, 10 * CHUNK_DOCUMENTS):
        with registry.catalog.write() as session:
            assign_adapters(session, build_id, part)
    return plan


def lost_packs(registry: Registry) -> set[str]:
    """Return the digests of packs that the catalog knows and the store has not."""
    with registry.catalog.read() as session:
        known = pack_digests(session)
    return known - {pack.digest for pack in registry.packs.list()}


def forget_lost_packs(registry: Registry, progress: Progress) -> None:
    """Let the catalog forget packs that are not in the store, so that what they held is trained again."""
    if lost := lost_packs(registry):
        progress.say(f"{len(lost)} packs are gone from {registry.home.packs_url}; what they held is encoded again")
        with registry.catalog.write() as session:
            forget_packs(session, lost)


def encode(
    registry: Registry,
    build_id: int,
    chosen: Chosen,
    augmenter: Augmenter,
    plan: AdapterPlan,
    device: str,
    workers: int | None,
    progress: Progress,
) -> EncodingTotals:
    """Train the missing adapters; each finished group is in a pack and in the catalog before the next is waited for."""
    totals = EncodingTotals()
    if not plan.groups:
        return totals
    recipe = chosen.recipe
    shapes = shapes_from_config(chosen.files.folder, recipe.targets, recipe.first_layer)
    work = Work(chosen.files, recipe, AdapterLayout.of(shapes, recipe.rank, recipe.adapter_dtype), device)
    count = workers if workers is not None else min(default_workers(device), len(plan.groups))
    progress.start("encoding", plan.missing)
    groups = (_inputs(registry, build_id, augmenter, group) for group in plan.groups)
    with closing(encode_groups(work, groups, count)) as finished:
        for adapters in finished:
            pack = registry.packs.write((adapter.digest, adapter.data) for adapter in adapters)
            with registry.catalog.write() as session:
                add_pack(session, pack, [replace(adapter, data=b"") for adapter in adapters], build_id)
                assign_adapters(session, build_id, {item.document_digest: item.digest for item in adapters})
            totals.add(adapters)
            progress.advance(len(adapters), note=f"loss {totals.last_loss / totals.trained:.2f}")
    progress.done()
    return totals


def _inputs(registry: Registry, build_id: int, augmenter: Augmenter, group: Sequence[str]) -> Group:
    with registry.catalog.read() as session:
        staged = {item.document.digest: item for item in staged_documents(session, build_id, group)}
        requests = {digest: augmenter.request_digest(item) for digest, item in staged.items()}
        augmentations = find_augmentations_by_request(session, requests)
    if augmentations.keys() != staged.keys() or len(staged) != len(group):
        raise NotFoundError(f"build {build_id} lost its staged documents", hint="run the build again")
    return [EncodingInput(staged[digest].document, augmentations[digest]) for digest in group]


def combine_packs(registry: Registry, corpus: str, build_id: int) -> None:
    """Move the adapters of a corpus' small packs, in order of their digests, into packs of the wanted size."""
    limit = registry.home.pack_size_bytes
    with registry.catalog.read() as session:
        small = packs_of_corpus(session, corpus, below_bytes=int(limit * SMALL_PACK_SHARE))
    if len(small) < 2:
        return
    locations = sorted(
        {item.adapter_digest: item for pack in small for item in pack.adapters}.values(),
        key=lambda item: item.adapter_digest,
    )
    combined = [registry.packs.combine(part) for part in _cut(locations, limit)]
    with registry.catalog.write() as session:
        for pack in combined:
            add_pack(session, pack, (), build_id)
        replaced = {pack.digest for pack in small} - {pack.digest for pack in combined}
        replace_packs(session, combined[0], sorted(replaced))
    for digest in replaced:
        registry.packs.delete(digest)


def _cut(locations: Sequence[AdapterLocation], limit_bytes: int) -> Iterator[list[AdapterLocation]]:
    part: list[AdapterLocation] = []
    size = 0
    for location in locations:
        if part and size + location.size_bytes > limit_bytes:
            yield part
            part, size = [], 0
        part.append(location)
        size += location.size_bytes
    if part:
        yield part
