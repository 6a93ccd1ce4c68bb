"""What `pragreg verify` asks of the table of packs: what should lie where, and which versions need it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import Exists, SQLColumnExpression, exists, func, select
from sqlalchemy.orm import Session

from registry.catalog.adapters import has_place
from registry.catalog.models import (
    AdapterLocationRow,
    AdapterRow,
    BuildAdapterRow,
    BuildRow,
    MembershipRow,
    PackRow,
    RecipeRow,
    TaskAdapterRow,
    VersionRow,
)
from registry.catalog.recipes import get_recipe
from registry.catalog.upkeep.version_checks import ENDLESS
from registry.errors import IntegrityError, UsageError
from registry.recipe import Recipe
from registry.records import AdapterLocation


@dataclass(frozen=True, slots=True)
class TableEntry:
    """An adapter in a pack, as the catalog has it; ``parameters`` are its numbers, ``recipe_digest`` what made it."""

    location: AdapterLocation
    recipe_digest: str
    parameters: int


@dataclass(frozen=True, slots=True)
class PackTable:
    """What the catalog says of a pack; ``entries`` are in the order in which they lie."""

    digest: str
    size_bytes: int
    entries: tuple[TableEntry, ...]


@dataclass(frozen=True, slots=True)
class TaskPlace:
    """The name of a task adapter, and whether it lies in a pack."""

    name: str
    has_place: bool


@dataclass(frozen=True, slots=True)
class Unused:
    """Adapters in packs that no version has: how many, in how many packs, and their bytes."""

    adapters: int
    packs: int
    size_bytes: int


def pack_tables(session: Session, digests: Iterable[str]) -> list[PackTable]:
    """Return what the catalog says of packs, in this order; one that it does not know is passed over."""
    tables = []
    for digest in digests:
        found = session.execute(select(PackRow.id, PackRow.size_bytes).where(PackRow.digest == digest)).one_or_none()
        if found is None:
            continue
        number, size_bytes = found
        rows = [
            *session.execute(
                select(
                    AdapterRow.digest,
                    AdapterLocationRow.offset,
                    AdapterLocationRow.size_bytes,
                    RecipeRow.digest,
                    AdapterRow.parameters,
                )
                .join(AdapterRow, AdapterRow.id == AdapterLocationRow.adapter_id)
                .join(RecipeRow, RecipeRow.id == AdapterRow.recipe_id)
                .where(AdapterLocationRow.pack_id == number)
            ),
            *session.execute(
                select(
                    TaskAdapterRow.digest,
                    TaskAdapterRow.offset,
                    TaskAdapterRow.size_bytes,
                    RecipeRow.digest,
                    TaskAdapterRow.parameters,
                )
                .join(RecipeRow, RecipeRow.id == TaskAdapterRow.recipe_id)
                .where(TaskAdapterRow.pack_id == number)
            ),
        ]
        entries = (
            TableEntry(AdapterLocation(adapter, digest, offset or 0, size), recipe, parameters)
            for adapter, offset, size, recipe, parameters in sorted(rows, key=lambda row: (row[1] or 0, row[0]))
        )
        tables.append(PackTable(digest, size_bytes, tuple(entries)))
    return tables


def adapters_without_place(session: Session) -> list[str]:
    """Return the adapters that a version (not collected) has, but that lie neither in a pack nor in a repository.

    What a build has given to a document is not asked for: its process may be gone, and gc have taken it. One that lives
    checks before it commits.
    """
    query = select(AdapterRow.digest).where(~has_place(AdapterRow.id), _in_version(session, AdapterRow.id))
    return list(session.scalars(query.order_by(AdapterRow.digest)))


def task_adapters(session: Session) -> dict[str, TaskPlace]:
    """Return all task adapters by digest."""
    query = select(TaskAdapterRow.digest, TaskAdapterRow.name, TaskAdapterRow.pack_id.is_not(None))
    return {digest: TaskPlace(name, placed) for digest, name, placed in session.execute(query)}


def known_recipes(session: Session) -> dict[str, Recipe]:
    """Return the recipes by digest; those that cannot be read are left out."""
    found = {}
    for digest in session.scalars(select(RecipeRow.digest)).all():
        with suppress(IntegrityError, UsageError, ValueError):
            found[digest] = get_recipe(session, digest)
    return found


def unused_adapters(session: Session) -> Unused:
    """Return what lies in packs and is of no version, not even a running build's."""
    adapter = AdapterLocationRow.adapter_id
    adapters, packs, size_bytes = session.execute(
        select(
            func.count(adapter.distinct()),
            func.count(AdapterLocationRow.pack_id.distinct()),
            func.coalesce(func.sum(AdapterLocationRow.size_bytes), 0),
        ).where(~_in_version(session, adapter), ~_in_build(adapter))
    ).one()
    return Unused(adapters, packs, int(size_bytes))


def _in_version(session: Session, adapter: SQLColumnExpression[int]) -> Exists:
    """Return the condition that a version which is not collected has an adapter."""
    has = exists().where(MembershipRow.adapter_id == adapter)
    if session.scalar(select(VersionRow.number).where(VersionRow.collected_at.is_not(None)).limit(1)) is None:
        return has
    # The last version that is there, before the range ends; of an open range that is the newest, found at once.
    last = (
        select(VersionRow.number)
        .where(VersionRow.corpus_id == MembershipRow.corpus_id, VersionRow.collected_at.is_(None))
        .where(VersionRow.number < func.coalesce(MembershipRow.to_version, ENDLESS))
        .order_by(VersionRow.number.desc())
        .limit(1)
        .correlate(MembershipRow)
        .scalar_subquery()
    )
    return has.where(last >= MembershipRow.from_version)


def _in_build(adapter: SQLColumnExpression[int]) -> Exists:
    return exists().where(
        BuildAdapterRow.adapter_id == adapter,
        BuildRow.id == BuildAdapterRow.build_id,
        BuildRow.status == "running",
    )
