"""What repair does about rows as such: those that refer to nothing, and what builds that are over left behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKeyConstraint, RowMapping, Table, and_, delete, exists, func, select, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.catalog.builds import IsAlive
from registry.catalog.chunks import chunked
from registry.catalog.dialect import BULK, insert_new
from registry.catalog.models import AdapterInputRow, AdapterRow, Base, BuildAdapterRow, BuildItemRow, BuildRow, utc_now
from registry.catalog.upkeep.checks import running_builds, staging_left

Row = dict[str, Any]

DISPENSABLE = frozenset(
    {
        "adapter_inputs",
        "adapter_locations",
        "augmentation_requests",
        "build_adapters",
        "build_items",
        "evaluation_results",
        "evaluation_scores",
        "query_hits",
        "remote_locations",
        "remote_names",
        "remote_packs",
    }
)
"""Tables whose rows are derived, staged, or parts of a log: what dangles there can be done without."""

_KEYS = 300


def remove_dangling(session: Session, keep: Callable[[str, Row], None]) -> dict[str, int]:
    """Remove the dangling rows of ``DISPENSABLE`` tables, each after it was given to ``keep``; count them by table.

    Rows of such tables that refer to a removed one go before it.
    """
    removed: Counter[str] = Counter()
    for table, key in _keys():
        if table.name in DISPENSABLE:
            rows = session.execute(select(table).where(_dangles(table, key))).mappings().all()
            _remove(session, table, rows, keep, removed)
    return dict(removed)


def _remove(
    session: Session,
    table: Table,
    rows: Sequence[RowMapping],
    keep: Callable[[str, Row], None],
    removed: Counter[str],
) -> None:
    for part in chunked(rows, _KEYS):
        for other, key in _keys():
            if key.referred_table is table and other.name in DISPENSABLE:
                targets = {tuple(row[element.column.name] for element in key.elements) for row in part}
                refers = tuple_(*(element.parent for element in key.elements)).in_(sorted(targets))
                _remove(session, other, session.execute(select(other).where(refers)).mappings().all(), keep, removed)
        for row in part:
            keep(table.name, {name: _plain(value) for name, value in row.items()})
        columns = list(table.primary_key.columns)
        keys = [tuple(row[column.name] for column in columns) for row in part]
        session.execute(delete(table).where(tuple_(*columns).in_(keys)))
        removed[table.name] += len(part)


def derive_inputs(session: Session) -> int:
    """Give every adapter's augmentation and recipe the adapter that they gave, where no row says which; count them."""
    given = exists().where(
        AdapterInputRow.augmentation_id == AdapterRow.augmentation_id, AdapterInputRow.recipe_id == AdapterRow.recipe_id
    )
    newest = (
        select(AdapterRow.augmentation_id, AdapterRow.recipe_id, func.max(AdapterRow.id))
        .where(~given)
        .group_by(AdapterRow.augmentation_id, AdapterRow.recipe_id)
    )
    rows = [
        {"augmentation_id": augmentation, "recipe_id": recipe, "adapter_id": adapter}
        for augmentation, recipe, adapter in session.execute(newest)
    ]
    insert_new(session, AdapterInputRow, rows)
    return len(rows)


def clear_dangling_builds(session: Session, keep: Callable[[str, Row], None]) -> dict[str, int]:
    """Let no row name a build that is not there, where a table knows of rows without a build; count them by table."""
    changed: dict[str, int] = {}
    for table, key in _keys():
        (column, *others) = key.columns
        if others or not column.nullable or key.referred_table.name != BuildRow.__tablename__:
            continue
        rows = session.execute(select(table).where(_dangles(table, key))).mappings().all()
        for row in rows:
            keep(table.name, {name: _plain(value) for name, value in row.items()})
        if rows:
            session.execute(update(table).where(_dangles(table, key)).values({column.name: None}))
            changed[table.name] = len(rows)
    return changed


def fetch_missing(session: Session, backup: Session) -> dict[str, int]:
    """Add rows that others refer to and that a backup of this catalog has, under their numbers; count them by table.

    A row is left out where another one took its place (its number, or its digest or name) meanwhile.
    """
    added: dict[str, int] = {}
    for _ in Base.metadata.tables:  # a row that was added may refer to a missing one itself
        before = sum(added.values())
        for table, key in _keys():
            wanted = {
                tuple(row[element.parent.name] for element in key.elements)
                for row in session.execute(select(table).where(_dangles(table, key))).mappings()
            }
            target = [element.column for element in key.elements]
            for part in chunked(sorted(wanted), _KEYS):
                rows = backup.execute(select(key.referred_table).where(tuple_(*target).in_(part))).mappings().all()
                count = _add(session, key.referred_table, rows)
                if count:
                    added[key.referred_table.name] = added.get(key.referred_table.name, 0) + count
        if sum(added.values()) == before:
            break
    return added


def end_abandoned(session: Session, is_alive: IsAlive) -> list[tuple[int, str]]:
    """End, as interrupted, the builds that are recorded as running but whose process is gone; number and corpus."""
    ended: list[tuple[int, str]] = []
    for build in running_builds(session):
        if is_alive(build.host, build.pid, build.started_at):
            continue
        over = {"status": "interrupted", "finished_at": utc_now(), "error": "its process is gone"}
        running = (BuildRow.id == build.build_id, BuildRow.status == "running")
        session.execute(update(BuildRow).where(*running).values(over), execution_options=BULK)
        _clear(session, [build.build_id])
        ended.append((build.build_id, build.corpus))
    return ended


def clear_staging(session: Session) -> int:
    """Remove the staging rows of builds that are over, and return of how many builds."""
    builds = [left.build_id for left in staging_left(session)]
    _clear(session, builds)
    return len(builds)


def _clear(session: Session, builds: Iterable[int]) -> None:
    for chunk in chunked(builds):
        for model in (BuildItemRow, BuildAdapterRow):
            session.execute(delete(model).where(model.build_id.in_(chunk)), execution_options=BULK)


def _keys() -> Iterator[tuple[Table, ForeignKeyConstraint]]:
    for table in Base.metadata.sorted_tables:
        for key in sorted(table.foreign_key_constraints, key=lambda key: str(key.name)):
            yield table, key


def _dangles(table: Table, key: ForeignKeyConstraint) -> Any:
    """Return the condition that a row of ``table`` has a whole key and that no row has it."""
    target = key.referred_table.alias("target")
    pairs = [(element.parent, target.c[element.column.name]) for element in key.elements]
    there = exists().where(and_(*(own == other for own, other in pairs))).select_from(target).correlate(table)
    return and_(*(own.is_not(None) for own, _ in pairs), ~there)


def _add(session: Session, table: Table, rows: Iterable[Mapping[Any, Any]]) -> int:
    model = next(mapper.class_ for mapper in Base.registry.mappers if mapper.local_table is table)
    own = list(table.primary_key.columns)
    count = 0
    for row in rows:
        # One that refers to a missing row itself is refused, and the others are not.
        with suppress(IntegrityError), session.begin_nested():
            insert_new(session, model, [dict(row)])
        there = session.execute(select(table).where(*(column == row[column.name] for column in own))).first()
        count += there is not None
    return count


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
