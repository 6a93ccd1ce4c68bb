"""Garbage collection: what no version, alias, pin, running build or reader needs any more is found, and freed.

History stays: versions, documents and the rows of adapters are never deleted, only bytes. It goes in this order:

1. The versions that are not kept are judged, and those of which adapters will go are marked as collected. The mark is
   the decision: from then on nobody begins to read them, and what follows only carries it out.
2. Packs in which nothing is alive are forgotten, and their files deleted.
3. Files of the store that no row names go, and indexes that no version needs.
4. Packs of which more than a quarter is dead are written anew, one at a time.

Each transaction judges anew, under the locks of the catalog, that what it takes away is dead. Killed anywhere, gc
leaves a registry in which every version that is not marked is whole, and at most files without a row, which the next
one finds.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from registry.catalog.chunks import KEYS, chunked
from registry.catalog.engine import Catalog
from registry.catalog.upkeep.collecting import (
    PackPlan,
    PackUse,
    clear_left_staging,
    forget_dead,
    left_staging,
    plan_packs,
    unnamed_packs,
)
from registry.catalog.upkeep.liveness import Protection
from registry.catalog.upkeep.retention import (
    JudgedVersion,
    Retention,
    indexed_digests,
    judge_versions,
    lock_versions,
    mark_collected,
)
from registry.progress import Progress
from registry.records import Version
from registry.settings import Home
from registry.store.packs import PackStore
from registry.upkeep.gc.collection import ADAPTERS, CollectReport, CollectRequest, Freed, KeptVersion
from registry.upkeep.gc.rewriting import batches, rewrite
from registry.upkeep.gc.sweeping import incoming_files, partial_files, sweep_indexes, unknown_packs
from registry.upkeep.processes import is_alive
from registry.upkeep.readers import being_read, no_new_readers

DELETIONS = 16
"""Files deleted in one transaction: other writers wait for its end, and object storages need 0.1 s for one."""
FORGOTTEN_ADAPTERS = 20_000
"""About so many rows are deleted in one transaction, which takes some tenths of a second."""

Key = tuple[str, int]


@dataclass(frozen=True)
class _Run:
    """One run of gc, with what does not change in it."""

    home: Home
    catalog: Catalog
    packs: PackStore
    request: CollectRequest
    retention: Retention
    protection: Protection


@dataclass(frozen=True, slots=True)
class _Decision:
    """Which versions stay, lose nothing, and are or would be collected; and what is to become of the packs."""

    kept: tuple[KeptVersion, ...]
    spared: tuple[Version, ...]
    collected: tuple[Version, ...]
    plan: PackPlan

    @property
    def keys(self) -> frozenset[Key]:
        """The corpora and numbers of the collected versions."""
        return frozenset((version.corpus, version.number) for version in self.collected)


def collect(
    home: Home, catalog: Catalog, packs: PackStore, request: CollectRequest, progress: Progress
) -> CollectReport:
    """Free what nothing needs any more, or only tell what that is.

    Safe beside builds, readers and other runs of it.

    Raises:
        NotFoundError: there is no corpus of a name that the request has.
        BusyError: another process is writing to the catalog and does not finish.
        StorageError: the catalog, the store or an index cannot be read or written, or the disk is full.
    """
    started = time.perf_counter()
    since = datetime.now(UTC) - timedelta(seconds=request.grace_seconds)
    retention = Retention(since, request.keep_last, request.keep_since, request.corpora)
    run = _Run(home, catalog, packs, request, retention, Protection(is_alive, since))
    progress.start("looking", None)
    decision = _decide(run)
    if request.yes:
        decision = _mark(run, decision)
    freed, young, notes = _free(run, decision, progress)
    progress.done()
    return CollectReport(
        done=request.yes,
        collected=tuple(version.reference for version in decision.collected),
        spared=tuple(version.reference for version in decision.spared),
        kept=decision.kept,
        freed=tuple(freed),
        young=young,
        resting_bytes=decision.plan.resting_bytes,
        notes=tuple(notes),
        elapsed_seconds=time.perf_counter() - started,
    )


def delete_unnamed(catalog: Catalog, packs: PackStore, digests: Iterable[str]) -> list[str]:
    """Delete those of the pack files ``digests`` that no row of the catalog names, and return their digests.

    The only place where pack files are deleted. While it looks and deletes, nobody can add a row, and who adds one
    looks whether the file is there before that counts. So no row ever names a file that was deleted here.

    Raises:
        BusyError: another process is writing to the catalog and does not finish.
        StorageError: the catalog cannot be written, or a file cannot be deleted.
    """
    deleted: list[str] = []
    for chunk in chunked(digests, DELETIONS):
        with catalog.write() as session:
            deleted += [digest for digest in unnamed_packs(session, chunk) if packs.delete(digest)]
    return deleted


def _decide(run: _Run) -> _Decision:
    with run.catalog.scratch() as session:
        judged = judge_versions(session, run.retention)
        kept, dropped = _parted(run.home, judged)
        plan = plan_packs(session, run.protection, frozenset(item.key for item in dropped))
        collected = tuple(item.version for item in dropped if item.key in plan.losing)
        spared = tuple(item.version for item in dropped if item.key not in plan.losing)
        decision = _Decision(kept, spared, collected, plan)
        if spared:  # what they have stays, so it counts as alive
            plan = plan_packs(session, run.protection, decision.keys)
            decision = replace(decision, plan=replace(plan, resting_bytes=decision.plan.resting_bytes))
    return decision


def _parted(home: Home, judged: Sequence[JudgedVersion]) -> tuple[tuple[KeptVersion, ...], tuple[JudgedVersion, ...]]:
    """Part versions into those that are kept and those that are not."""
    kept, dropped = [], []
    for item in judged:
        reasons = item.reasons or (("being read",) if being_read(home, item.version) else ())
        if reasons:
            kept.append(KeptVersion(item.version.reference, reasons))
        else:
            dropped.append(item)
    return tuple(kept), tuple(dropped)


def _mark(run: _Run, decision: _Decision) -> _Decision:
    """Mark the versions that lose adapters, but for those that somebody began to name or to read meanwhile."""
    if not decision.collected:
        return decision
    with ExitStack() as after_commit, run.catalog.write() as session:
        lock_versions(session)
        after_commit.enter_context(no_new_readers(run.home))
        kept, dropped = _parted(run.home, judge_versions(session, run.retention))
        marked = tuple(item.version for item in dropped if item.key in decision.keys)
        mark_collected(session, marked, datetime.now(UTC))
    if marked == decision.collected:
        return replace(decision, kept=kept)
    with run.catalog.scratch() as session:
        plan = plan_packs(session, run.protection)
    plan = replace(plan, resting_bytes=decision.plan.resting_bytes)
    return replace(decision, kept=kept, collected=marked, plan=plan)


def _free(run: _Run, decision: _Decision, progress: Progress) -> tuple[list[Freed], int, list[str]]:
    """Free all that goes, or count it; return it by kind, how many files are too young, and notes."""
    yes, grace = run.request.yes, run.request.grace_seconds
    dead = _forget(run, decision.plan.dead, progress) if yes else _deleted(decision.plan.dead)
    unknown, sizes = unknown_packs(run.catalog, run.packs, grace)
    partial = partial_files(run.packs, grace)
    incoming = incoming_files(run.home.incoming_path, grace, delete=yes)
    if yes:
        gone = delete_unnamed(run.catalog, run.packs, sizes)
        unknown.count, unknown.size_bytes = len(gone), sum(sizes[digest] for digest in gone)
        run.packs.clean_partials(grace)

    def wanted() -> dict[str, set[str]]:
        with run.catalog.read() as session:
            return indexed_digests(session, decision.keys)

    indexes, busy = sweep_indexes(run.home.index_path, wanted, delete=yes)
    notes = [f"an index of {corpus} is being built: the others of that corpus are left as they are" for corpus in busy]
    rewritten = _rewrite(run, decision.plan.sparse, notes, progress) if yes else _rewritten(decision.plan.sparse)
    adapters = [*dead.packs, *rewritten.packs]
    freed = [
        Freed(ADAPTERS, sum(use.adapters - use.live for use in adapters), sum(use.dead_bytes for use in adapters)),
        Freed("packs deleted", len(dead.packs), dead.size_bytes),
        Freed("packs rewritten", len(rewritten.packs), rewritten.size_bytes),
        Freed("unknown packs", unknown.count, unknown.size_bytes),
        Freed("partial files", partial.count + incoming.count, partial.size_bytes + incoming.size_bytes),
        Freed("indexes", indexes.count, indexes.size_bytes),
        Freed("staging rows", _staging(run), 0),
    ]
    return freed, unknown.young + partial.young + incoming.young, notes


@dataclass
class _Gone:
    """Packs of the catalog that go, and the bytes that this frees."""

    packs: list[PackUse] = field(default_factory=list)
    size_bytes: int = 0


def _deleted(dead: Sequence[PackUse]) -> _Gone:
    return _Gone(list(dead), sum(use.size_bytes for use in dead))


def _rewritten(sparse: Sequence[PackUse]) -> _Gone:
    return _Gone(list(sparse), sum(use.dead_bytes for use in sparse))


def _forget(run: _Run, dead: Sequence[PackUse], progress: Progress) -> _Gone:
    """Forget packs in which nothing is alive, and delete their files; return those of which that is still so."""
    gone = _Gone()
    progress.start("deleting packs", len(dead))
    for batch in _of_about(dead, FORGOTTEN_ADAPTERS):
        with run.catalog.write() as session:
            forgotten = set(forget_dead(session, run.protection, [use.pack_id for use in batch]))
        deleted = set(delete_unnamed(run.catalog, run.packs, sorted(forgotten)))
        gone.packs += [use for use in batch if use.digest in forgotten]
        gone.size_bytes += sum(use.size_bytes for use in batch if use.digest in deleted)
        progress.advance(len(batch))
    return gone


def _of_about(uses: Sequence[PackUse], adapters: int) -> Iterator[list[PackUse]]:
    """Cut packs into batches that hold about so many adapters."""
    batch: list[PackUse] = []
    for use in uses:
        batch.append(use)
        if sum(each.adapters for each in batch) >= adapters or len(batch) == KEYS:
            yield batch
            batch = []
    if batch:
        yield batch


def _rewrite(run: _Run, sparse: Sequence[PackUse], notes: list[str], progress: Progress) -> _Gone:
    """Write packs anew without what is dead, and delete the old ones; return those that were, and add to ``notes``."""
    gone = _Gone()
    progress.start("rewriting packs", len(sparse))
    for batch in batches(sparse, run.home.pack_size_bytes):
        result = rewrite(run.catalog, run.packs, run.protection, batch)
        gone.packs += result.old
        gone.size_bytes += result.freed_bytes
        if result.problem is not None:
            notes.append(result.problem)
        delete_unnamed(run.catalog, run.packs, result.unneeded)
        progress.advance(len(batch))
    return gone


def _staging(run: _Run) -> int:
    with run.catalog.read() as session:
        count = left_staging(session)
    if count and run.request.yes:
        with run.catalog.write() as session:
            clear_left_staging(session)
    return count
