"""What garbage collection asks and changes about packs.

A pack's rows always say what is in its file: they go when the file goes, never before in part. So an adapter that no
version needs stays findable, and may be used again, for as long as the pack that it lies in stays.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, case, cast, delete, func, insert, or_, select
from sqlalchemy.orm import Session

from registry.catalog.adapters import add_pack, delete_packs, in_repository
from registry.catalog.dialect import BULK, lock_builds_and_packs, lock_packs, refresh_statistics
from registry.catalog.models import (
    AdapterLocationRow,
    AdapterRow,
    BuildAdapterRow,
    BuildItemRow,
    BuildRow,
    CorpusRow,
    MembershipRow,
    PackRow,
    TaskAdapterRow,
    VersionRow,
)
from registry.catalog.models.base import BigInt
from registry.catalog.upkeep.liveness import (
    ENDLESS,
    GOING,
    LIVE,
    LOST,
    Protection,
    fill,
    find_live,
    find_live_in,
    find_roots,
    scratch_tables,
)
from registry.records import AdapterLocation, Pack

SPARSE = 4
"""A pack of which more than one in so many bytes is dead is written anew without them."""


@dataclass(frozen=True, slots=True)
class PackUse:
    """A pack of which something is dead; ``corpus`` is that of the build ``build_id`` that wrote it."""

    pack_id: int
    digest: str
    size_bytes: int
    corpus: int | None
    build_id: int | None
    adapters: int
    live: int
    dead_bytes: int


@dataclass(frozen=True, slots=True)
class PackPlan:
    """What is to become of packs: those that are ``dead`` go, those that are ``sparse`` are written anew.

    ``losing`` are the versions (corpus and number) of which adapters lie nowhere afterwards. ``resting_bytes`` are
    dead, but stay in packs that are not sparse.
    """

    dead: tuple[PackUse, ...]
    sparse: tuple[PackUse, ...]
    resting_bytes: int
    losing: frozenset[tuple[str, int]]


def plan_packs(session: Session, protection: Protection, without: Collection[tuple[str, int]] = ()) -> PackPlan:
    """Say what is to become of packs if the versions ``without`` (corpus and number) were collected.

    Needs a scratch session.
    """
    with scratch_tables(session):
        find_roots(session, without)
        find_live(session, protection)
        uses = _uses(session)
        dead = tuple(use for use in uses if not use.live)
        sparse = tuple(use for use in uses if use.live and use.dead_bytes * SPARSE > use.size_bytes)
        fill(session, GOING, (use.pack_id for use in (*dead, *sparse)))
        resting = sum(use.dead_bytes for use in uses) - sum(use.dead_bytes for use in (*dead, *sparse))
        _find_lost(session)
        losing = _losing(session)
    return PackPlan(dead, sparse, resting, losing)


def live_locations(session: Session, protection: Protection, packs: Collection[int]) -> list[AdapterLocation]:
    """Return where the living adapters of packs (row ids) lie in them, each once, in order of the digests.

    Needs a scratch session.
    """
    with scratch_tables(session):
        find_live_in(session, protection, packs)
        query = (
            select(AdapterRow.digest, PackRow.digest, AdapterLocationRow.offset, AdapterLocationRow.size_bytes)
            .join(AdapterLocationRow, AdapterLocationRow.adapter_id == AdapterRow.id)
            .join(PackRow, PackRow.id == AdapterLocationRow.pack_id)
            .join(LIVE, LIVE.c.adapter_id == AdapterRow.id)
            .where(PackRow.id.in_(packs))
        )
        found = {row[0]: AdapterLocation(*row) for row in session.execute(query)}
    return [found[digest] for digest in sorted(found)]


def forget_dead(session: Session, protection: Protection, packs: Collection[int]) -> list[str]:
    """Forget those of ``packs`` (row ids) in which nothing is alive now, and return their digests."""
    lock_builds_and_packs(session)
    with scratch_tables(session):
        find_live_in(session, protection, packs)
        alive = select(AdapterLocationRow.pack_id).join(LIVE, LIVE.c.adapter_id == AdapterLocationRow.adapter_id)
        dead = and_(PackRow.id.in_(packs), PackRow.id.not_in(alive), ~_holds_task_adapter())
        found = {number: digest for number, digest in session.execute(select(PackRow.id, PackRow.digest).where(dead))}
    delete_packs(session, found)
    return list(found.values())


def replace_sparse(
    session: Session, protection: Protection, new: Pack, packs: Collection[int], build_id: int | None
) -> bool:
    """Record ``new`` in place of ``packs`` (row ids), unless it lacks something that is alive or one of them is gone.

    Return whether it was done. ``build_id`` is recorded as the build that wrote it.
    """
    lock_builds_and_packs(session)
    here = session.scalars(select(PackRow.id).where(PackRow.id.in_(packs), ~_holds_task_adapter())).all()
    if set(here) != set(packs):
        return False
    with scratch_tables(session):
        find_live_in(session, protection, packs)
        living = set(session.scalars(select(AdapterRow.digest).join(LIVE, LIVE.c.adapter_id == AdapterRow.id)))
    if not living <= {item.adapter_digest for item in new.adapters}:
        return False
    add_pack(session, new, (), build_id)
    delete_packs(session, packs)
    return True


def unnamed_packs(session: Session, digests: Collection[str]) -> list[str]:
    """Return those of ``digests`` that no pack of the catalog has; that stays so until this transaction ends."""
    lock_packs(session)
    named = set(session.scalars(select(PackRow.digest).where(PackRow.digest.in_(digests))))
    return [digest for digest in digests if digest not in named]


def left_staging(session: Session) -> int:
    """Count the staging rows of builds that are over."""
    return sum(session.scalar(select(func.count()).select_from(row).where(_is_over(row))) or 0 for row in _STAGING)


def clear_left_staging(session: Session) -> None:
    """Delete the staging rows of builds that are over."""
    for row in _STAGING:
        session.execute(delete(row).where(_is_over(row)), execution_options=BULK)


_STAGING: tuple[type[BuildItemRow] | type[BuildAdapterRow], ...] = (BuildItemRow, BuildAdapterRow)


def _is_over(row: type[BuildItemRow] | type[BuildAdapterRow]) -> ColumnElement[bool]:
    return row.build_id.not_in(select(BuildRow.id).where(BuildRow.status == "running"))


def _uses(session: Session) -> list[PackUse]:
    """Return the packs of which something is dead, those of a corpus together, in order of creation."""
    is_dead = LIVE.c.adapter_id.is_(None)
    size = AdapterLocationRow.size_bytes
    counted = (
        select(
            AdapterLocationRow.pack_id,
            func.count().label("adapters"),
            func.count(LIVE.c.adapter_id).label("live"),
            cast(func.sum(case((is_dead, size), else_=0)), BigInt).label("dead_bytes"),
        )
        .outerjoin(LIVE, LIVE.c.adapter_id == AdapterLocationRow.adapter_id)
        .group_by(AdapterLocationRow.pack_id)
        .subquery()
    )
    adapters, live = func.coalesce(counted.c.adapters, 0), func.coalesce(counted.c.live, 0)
    dead_bytes = func.coalesce(counted.c.dead_bytes, 0)
    query = (
        select(
            PackRow.id,
            PackRow.digest,
            PackRow.size_bytes,
            BuildRow.corpus_id,
            PackRow.build_id,
            adapters,
            live,
            dead_bytes,
        )
        .outerjoin(counted, counted.c.pack_id == PackRow.id)
        .outerjoin(BuildRow, BuildRow.id == PackRow.build_id)
        .where(or_(live == 0, dead_bytes > 0), ~_holds_task_adapter())
        .order_by(func.coalesce(BuildRow.corpus_id, 0), PackRow.id)
    )
    return [PackUse(*row) for row in session.execute(query)]


def _find_lost(session: Session) -> None:
    """Fill the table of adapters that lie only in packs that go or are written anew, and are not alive.

    One that lies in a repository too is not lost.
    """
    going = select(AdapterLocationRow.adapter_id).join(GOING, GOING.c.pack_id == AdapterLocationRow.pack_id)
    staying = select(AdapterLocationRow.pack_id).where(
        AdapterLocationRow.adapter_id == AdapterRow.id, AdapterLocationRow.pack_id.not_in(select(GOING.c.pack_id))
    )
    is_alive = select(LIVE.c.adapter_id).where(LIVE.c.adapter_id == AdapterRow.id)
    lost = select(AdapterRow.id).where(
        AdapterRow.id.in_(going), ~is_alive.exists(), ~staying.exists(), ~in_repository(AdapterRow.id)
    )
    session.execute(insert(LOST).from_select(["adapter_id"], lost))
    refresh_statistics(session, LOST)


def _losing(session: Session) -> frozenset[tuple[str, int]]:
    """Return the versions, by corpus and number, that have adapters of the table of lost ones."""
    ranges = (
        select(MembershipRow.corpus_id, MembershipRow.from_version, MembershipRow.to_version)
        .join(LOST, LOST.c.adapter_id == MembershipRow.adapter_id)
        .distinct()
        .subquery()
    )
    covered = and_(
        ranges.c.corpus_id == VersionRow.corpus_id,
        ranges.c.from_version <= VersionRow.number,
        VersionRow.number < func.coalesce(ranges.c.to_version, ENDLESS),
    )
    query = select(CorpusRow.name, VersionRow.number).join(CorpusRow).join(ranges, covered).distinct()
    return frozenset((name, number) for name, number in session.execute(query))


def _holds_task_adapter() -> ColumnElement[bool]:
    return select(TaskAdapterRow.id).where(TaskAdapterRow.pack_id == PackRow.id).exists()
