"""The encoding step of a build: which adapters are missing, training them, and putting them into packs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

from registry.augmentation import AugmentationReport, Augmenter
from registry.catalog.adapters import (
    add_pack,
    find_adapters,
    forget_covered,
    forget_packs,
    pack_digests,
    packs_of_corpus,
)
from registry.catalog.augmentations import find_augmentations_by_request, find_withheld
from registry.catalog.builds import staged_counts, staged_documents
from registry.catalog.chunks import chunked
from registry.catalog.dialect import lock_packs
from registry.catalog.versions import assign_adapters
from registry.encoding.pool import Group, encode_groups
from registry.errors import IntegrityError, NotFoundError, StorageError
from registry.pipeline.opened import Registry
from registry.pipeline.recipes import Chosen
from registry.pipeline.sizing import Wanted, size_groups
from registry.progress import Progress
from registry.records import AdapterLocation, EncodedAdapter, EncodingInput, Pack
from registry.upkeep.gc.collect import delete_unnamed

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

CHUNK_DOCUMENTS = 1000
SAMPLE_DOCUMENTS = 32
"""Of how many documents, evenly spread over the sizes, the examples are looked at before training."""
WRITES_BEHIND = 2
"""Finished groups that may wait to be written; a worker that has more waits."""
SMALL_PACK_SHARE = 0.25
"""Packs of a corpus below this share of the pack size are combined at the end of a build."""


@dataclass
class AdapterPlan:
    """What a build finds before it trains: what is missing, and what the catalog has already.

    ``missing`` are the documents without an adapter and their places among all ``documents``, which are in order of
    their size; ``sample`` are some of all documents whose augmentations are not withheld.
    """

    documents: int = 0
    missing: list[tuple[int, str]] = field(default_factory=list)
    sample: list[str] = field(default_factory=list)
    augmentations: AugmentationReport = field(default_factory=AugmentationReport)

    @property
    def reused(self) -> int:
        """How many documents have an adapter."""
        return self.documents - len(self.missing)

    def groups(self, size: int) -> list[tuple[str, ...]]:
        """Cut all documents into groups of ``size``, and return of each what is missing, if anything is.

        So a build that was interrupted trains the same groups when it goes on.
        """
        cut = groupby(self.missing, key=lambda item: item[0] // size)
        return [tuple(document for _, document in group) for _, group in cut]


@dataclass
class EncodingTotals:
    """Sums over the adapters that a build trained."""

    trained: int = 0
    size_bytes: int = 0
    examples: int = 0
    tokens: int = 0
    first_loss: float = 0.0
    last_loss: float = 0.0

    def add(self, adapters: Sequence[EncodedAdapter], size_bytes: int) -> None:
        """Count a finished group, whose adapters have so many bytes together."""
        self.size_bytes += size_bytes
        for adapter in adapters:
            self.trained += 1
            self.examples += adapter.training.examples
            self.tokens += adapter.training.tokens
            self.first_loss += adapter.training.first_loss
            self.last_loss += adapter.training.last_loss


def plan_adapters(registry: Registry, build_id: int, augmenter: Augmenter, recipe_digest: str) -> AdapterPlan:
    """Look up every staged document's adapter, give the build those that are there, and list the others."""
    plan = AdapterPlan()
    with registry.catalog.read() as session:
        apart = max(1, staged_counts(session, build_id).documents // SAMPLE_DOCUMENTS)
    found: list[tuple[str, str]] = []
    with registry.catalog.read() as session:
        for staged in chunked(staged_documents(session, build_id), CHUNK_DOCUMENTS):
            requests = {item.document.digest: augmenter.request_digest(item) for item in staged}
            augmentations = find_augmentations_by_request(session, requests)
            left = {digest: request for digest, request in requests.items() if digest not in augmentations}
            withheld = find_withheld(session, left)
            pairs = [(document, (augmentations.get(document) or withheld[document]).digest) for document in requests]
            adapters = find_adapters(session, recipe_digest, pairs)
            for place, pair in enumerate(pairs, plan.documents):
                if pair in adapters:
                    found.append((pair[0], adapters[pair]))
                else:
                    plan.missing.append((place, pair[0]))
                if place % apart == 0 and pair[0] in augmentations:
                    plan.sample.append(pair[0])
            for augmentation in augmentations.values():
                plan.augmentations.add(augmentation)
            for document, known in withheld.items():
                plan.augmentations.count(
                    document,
                    rewrites=known.rewrites,
                    dropped_rewrites=known.dropped_rewrites,
                    pairs=known.pairs,
                    dropped_pairs=known.dropped_pairs,
                    tokens=known.tokens,
                    elapsed_seconds=known.elapsed_seconds,
                )
            plan.documents += len(pairs)
    if not plan.sample:  # all that were looked at are withheld
        plan.sample = [digest for _, digest in plan.missing[:: max(1, len(plan.missing) // SAMPLE_DOCUMENTS)]]
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
    """Let the catalog forget packs that are not in the store, so that what they held is trained again.

    Raises:
        StorageError: the store is bare, as where a disk is not mounted.
    """
    if not (lost := lost_packs(registry)):
        return
    if registry.packs.is_bare():
        raise StorageError(
            f"there is nothing at all in {registry.home.packs_url}, where {len(lost)} packs should be",
            hint="mount it; if they are lost for good, `pragreg repair` encodes again what they held",
        )
    with registry.catalog.write() as session:
        lock_packs(session)
        # A build beside this one may have moved what they held before they were listed, or written them anew.
        lost = {digest for digest in lost & pack_digests(session) if not registry.packs.exists(digest)}
        forget_packs(session, lost)
    if lost:
        progress.say(f"{len(lost)} packs are gone from {registry.home.packs_url}; what they held is encoded again")


def encode(
    registry: Registry,
    build_id: int,
    chosen: Chosen,
    augmenter: Augmenter,
    plan: AdapterPlan,
    wanted: Wanted,
    progress: Progress,
) -> EncodingTotals:
    """Train the missing adapters; each finished group is put into a pack and into the catalog behind the training."""
    totals = EncodingTotals()
    if not plan.missing:
        return totals
    progress.start("encoding", len(plan.missing))
    sample = _inputs(registry, build_id, augmenter, plan.sample)
    sizing = size_groups(chosen, wanted, sample, len(plan.missing), progress)
    groups = (_inputs(registry, build_id, augmenter, group) for group in plan.groups(sizing.group_size))
    writes: deque[Future[tuple[list[EncodedAdapter], int]]] = deque()

    def report() -> None:
        adapters, size_bytes = writes.popleft().result()
        totals.add(adapters, size_bytes)
        progress.advance(len(adapters), note=f"loss {totals.last_loss / totals.trained:.2f}")

    with (
        ThreadPoolExecutor(1, thread_name_prefix="writing") as writer,
        closing(encode_groups(sizing.work, groups, len(sizing.devices), sizing.devices)) as finished,
    ):
        for adapters in finished:
            writes.append(writer.submit(_write, registry, build_id, adapters))
            while writes and (len(writes) > WRITES_BEHIND or writes[0].done()):
                report()
        while writes:
            report()
    progress.done()
    return totals


def _write(registry: Registry, build_id: int, adapters: Sequence[EncodedAdapter]) -> tuple[list[EncodedAdapter], int]:
    """Put a finished group into a pack, and then into the catalog; return it without its bytes, and their number."""
    known = [replace(adapter, data=b"") for adapter in adapters]

    def write() -> Pack:
        return registry.packs.write((adapter.digest, adapter.data) for adapter in adapters)

    def record(session: Session, pack: Pack) -> None:
        add_pack(session, pack, known, build_id)
        assign_adapters(session, build_id, {item.document_digest: item.digest for item in known})

    registry.store(write, record)
    return known, sum(len(adapter.data) for adapter in adapters)


def _inputs(registry: Registry, build_id: int, augmenter: Augmenter, group: Sequence[str]) -> Group:
    with registry.catalog.read() as session:
        staged = {item.document.digest: item for item in staged_documents(session, build_id, group)}
        requests = {digest: augmenter.request_digest(item) for digest, item in staged.items()}
        augmentations = find_augmentations_by_request(session, requests)
    if augmentations.keys() != staged.keys() or len(staged) != len(group):
        raise NotFoundError(f"build {build_id} lost its staged documents", hint="run the build again")
    return [EncodingInput(staged[digest].document, augmentations[digest]) for digest in group]


def combine_packs(registry: Registry, corpus: str, build_id: int) -> None:
    """Move the adapters of a corpus' small packs, in order of their digests, into packs of the wanted size.

    Other builds and gc may move adapters meanwhile: a small pack that then holds one of its own stays.
    """
    small = _small_packs(registry, corpus)
    while len(small) > 1:
        try:
            _combine(registry, small, build_id)
        except IntegrityError:
            known, small = small, _small_packs(registry, corpus)
            if small == known:  # nothing was moved, so it is damaged
                raise
        else:
            break


def _small_packs(registry: Registry, corpus: str) -> list[Pack]:
    with registry.catalog.read() as session:
        limit_bytes = int(registry.home.pack_size_bytes * SMALL_PACK_SHARE)
        return packs_of_corpus(session, corpus, below_bytes=limit_bytes)


def _combine(registry: Registry, small: Sequence[Pack], build_id: int) -> None:
    locations = sorted(
        {item.adapter_digest: item for pack in small for item in pack.adapters}.values(),
        key=lambda item: item.adapter_digest,
    )
    combined: set[str] = set()
    for part in _cut(locations, registry.home.pack_size_bytes):
        # First added, then the small ones are forgotten: in between an adapter lies in two packs, never in none.
        pack = registry.store(
            partial(registry.packs.combine, part), lambda session, pack: add_pack(session, pack, (), build_id)
        )
        combined.add(pack.digest)
    with registry.catalog.write() as session:
        forgotten = forget_covered(session, [pack.digest for pack in small if pack.digest not in combined])
    delete_unnamed(registry.catalog, registry.packs, forgotten)


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
