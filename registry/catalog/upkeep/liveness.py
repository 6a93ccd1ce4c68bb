"""Which adapters are alive, as garbage collection sees it.

An adapter is alive if a version has it that was not collected (or that an alias or a pin names all the same), if its
recipe is a running build's or a running build has given it to a document, or if it is young: made lately, or received
lately from a repository, by a pull that has yet to make its versions. So is one that was imported by itself. What is
alive is put into a temporary table: a million adapters take a few seconds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Column, ColumnElement, MetaData, Select, Table, and_, delete, func, insert, or_, select, union
from sqlalchemy.orm import Session

from registry.catalog.builds import IsAlive
from registry.catalog.chunks import chunked
from registry.catalog.dialect import refresh_statistics
from registry.catalog.imported import is_kept
from registry.catalog.models import (
    AdapterInputRow,
    AdapterLocationRow,
    AdapterRow,
    AliasRow,
    BuildAdapterRow,
    BuildRow,
    CorpusRow,
    MembershipRow,
    PackRow,
    PinRow,
    VersionRow,
)
from registry.catalog.models.base import BigInt

ENDLESS = 2**62
_METADATA = MetaData()


def _temporary(name: str, *columns: str) -> Table:
    keys = (Column(column, BigInt, primary_key=True, autoincrement=False) for column in columns)
    return Table(name, _METADATA, *keys, prefixes=["TEMPORARY"])


ROOTS = _temporary("gc_roots", "corpus_id", "number")
LIVE = _temporary("gc_live", "adapter_id")
GOING = _temporary("gc_going", "pack_id")
LOST = _temporary("gc_lost", "adapter_id")


@dataclass(frozen=True, slots=True)
class Protection:
    """What is kept besides what versions have: what running builds may use, and adapters made ``since`` then.

    A build that is recorded as running protects nothing where ``is_alive`` says that its process is gone.
    """

    is_alive: IsAlive
    since: datetime


@contextmanager
def scratch_tables(session: Session) -> Iterator[None]:
    """Have the temporary tables for the time of a block; if it raises, they go with the transaction."""
    connection = session.connection()
    _METADATA.create_all(connection, checkfirst=False)
    yield
    _METADATA.drop_all(connection, checkfirst=False)


def fill(session: Session, table: Table, numbers: Iterable[int]) -> None:
    """Put numbers into a temporary table of one column."""
    (column,) = table.c
    for chunk in chunked(numbers, 10_000):
        session.execute(insert(table), [{column.name: number} for number in chunk])
    refresh_statistics(session, table)


def find_roots(session: Session, without: Collection[tuple[str, int]] = ()) -> None:
    """Fill the table of versions whose adapters are alive, as if those ``without`` (corpus, number) were collected."""
    names = (
        select(row.version).where(row.corpus_id == VersionRow.corpus_id, row.version == VersionRow.number).exists()
        for row in (AliasRow, PinRow)
    )
    roots = select(VersionRow.corpus_id, VersionRow.number).where(or_(VersionRow.collected_at.is_(None), *names))
    session.execute(insert(ROOTS).from_select(["corpus_id", "number"], roots))
    corpora = (
        {name: number for number, name in session.execute(select(CorpusRow.id, CorpusRow.name))} if without else {}
    )
    for corpus, number in without:
        session.execute(delete(ROOTS).where(ROOTS.c.corpus_id == corpora[corpus], ROOTS.c.number == number))
    refresh_statistics(session, ROOTS)


def find_live_in(session: Session, protection: Protection, packs: Collection[int]) -> None:
    """Fill the table of living adapters with those that lie in ``packs``."""
    find_roots(session)
    fill(session, GOING, packs)
    inside = select(AdapterLocationRow.adapter_id).join(GOING, GOING.c.pack_id == AdapterLocationRow.pack_id)
    find_live(session, protection, inside)


def find_live(session: Session, protection: Protection, among: Select[int] | None = None) -> None:
    """Fill the table of living adapters, or of those ``among`` which are."""
    root = select(ROOTS.c.number).where(
        ROOTS.c.corpus_id == MembershipRow.corpus_id,
        ROOTS.c.number >= MembershipRow.from_version,
        ROOTS.c.number < func.coalesce(MembershipRow.to_version, ENDLESS),
    )
    builds = _living_builds(session, protection.is_alive)
    recipes = select(BuildRow.recipe_id).where(BuildRow.id.in_(builds))
    ways = [
        (MembershipRow.adapter_id, root.exists()),
        (AdapterInputRow.adapter_id, AdapterInputRow.recipe_id.in_(recipes)),
        (BuildAdapterRow.adapter_id, BuildAdapterRow.build_id.in_(builds)),
        (AdapterRow.id, AdapterRow.created_at >= protection.since),
        (AdapterLocationRow.adapter_id, _is_received_since(protection.since)),
        (AdapterRow.id, is_kept()),
    ]
    if among is not None:
        ways = [(column, and_(column.in_(among), is_alive)) for column, is_alive in ways]
    alive = union(*(select(column).where(is_alive) for column, is_alive in ways))
    session.execute(insert(LIVE).from_select(["adapter_id"], alive))
    refresh_statistics(session, LIVE)


def _is_received_since(moment: datetime) -> ColumnElement[bool]:
    """Return the condition that no build here made an adapter, and that a pack which holds it came since then."""
    young = select(PackRow.id).where(PackRow.created_at >= moment)
    received = select(AdapterRow.id).where(
        AdapterRow.id == AdapterLocationRow.adapter_id, AdapterRow.build_id.is_(None)
    )
    return and_(AdapterLocationRow.pack_id.in_(young), received.exists())


def _living_builds(session: Session, is_alive: IsAlive) -> list[int]:
    query = select(BuildRow.id, BuildRow.host, BuildRow.pid, BuildRow.started_at).where(BuildRow.status == "running")
    return [number for number, host, pid, started_at in session.execute(query).all() if is_alive(host, pid, started_at)]
