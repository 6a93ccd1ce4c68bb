"""Packs of which much is dead are written anew without it, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from registry.catalog.engine import Catalog
from registry.catalog.upkeep.collecting import PackUse, live_locations, replace_sparse
from registry.catalog.upkeep.liveness import Protection
from registry.digests import short
from registry.errors import IntegrityError
from registry.store.packs import PackStore

ATTEMPTS = 5
"""So often a batch is tried while builds begin to use what was dead, or another gc takes the new file away."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What came of a batch: the ``old`` packs that were replaced (none if it was given up) and by how much they shrank.

    ``unneeded`` are the packs whose files can be deleted, unless something names them meanwhile. ``problem`` says in
    words what hindered.
    """

    old: tuple[PackUse, ...] = ()
    freed_bytes: int = 0
    unneeded: tuple[str, ...] = ()
    problem: str | None = None


def batches(sparse: Sequence[PackUse], limit_bytes: int) -> Iterator[tuple[PackUse, ...]]:
    """Put packs of one corpus together as long as what is alive in them makes one pack of ``limit_bytes`` at most."""
    for _, uses in groupby(sparse, key=lambda use: use.corpus):
        batch: list[PackUse] = []
        size = 0
        for use in uses:
            alive = use.size_bytes - use.dead_bytes
            if batch and size + alive > limit_bytes:
                yield tuple(batch)
                batch, size = [], 0
            batch.append(use)
            size += alive
        yield tuple(batch)


def rewrite(catalog: Catalog, packs: PackStore, protection: Protection, batch: Sequence[PackUse]) -> Rewritten:
    """Copy what is alive in the packs of a batch into a new one, and let the catalog name that instead.

    A batch is given up where another process changed its packs, or one of them is damaged.

    Raises:
        StorageError: the disk is full, or the store or the catalog refuses.
    """
    numbers = [use.pack_id for use in batch]
    builds = [use.build_id for use in batch if use.build_id is not None]
    written: list[str] = []
    for _ in range(ATTEMPTS):
        with catalog.scratch() as session:
            locations = live_locations(session, protection, numbers)
        if not 0 < len(locations) <= sum(use.live for use in batch):
            break  # more is alive than when this was planned, or nothing: the next gc judges anew
        try:
            new = packs.combine(locations)
        except IntegrityError as error:
            return Rewritten(problem=f"{error.message}, so {_named(batch)} stay as they are")
        written.append(new.digest)
        with catalog.write() as session:
            replaced = replace_sparse(session, protection, new, numbers, max(builds, default=None))
            # With its row written, nobody can begin to delete the file before this transaction ends.
            if not (replaced and packs.exists(new.digest)):
                session.rollback()
                continue
        before = sum(use.size_bytes for use in batch)
        return Rewritten(tuple(batch), before - new.size_bytes, tuple(use.digest for use in batch))
    return Rewritten(unneeded=tuple(written))


def _named(batch: Sequence[PackUse]) -> str:
    return ", ".join(f"pack {short(use.digest)}" for use in batch)
