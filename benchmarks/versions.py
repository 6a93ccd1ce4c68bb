"""How a corpus with a long history does: `python -m benchmarks.versions --versions 1000 --documents 100000`.

Every version edits, removes and adds documents that no other version touched, so that the first and the last differ in
as much as there can be. The first version and the last are built as `pragreg build` does; those between are written as
the rows that so many builds leave, which would take hours. Nothing is trained: adapters are digests of numbers.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import bindparam, func, insert, select, text, update
from sqlalchemy.orm import Session

from benchmarks.catalog import ADAPTER_BYTES, BASE, RECIPE, Table, build, encode, placed
from benchmarks.machine import header
from registry.catalog import schema
from registry.catalog.builds import BuildCounts, begin_build, finish_build, stage
from registry.catalog.chunks import chunked
from registry.catalog.differences import compare, list_changes
from registry.catalog.engine import Catalog, open_catalog
from registry.catalog.history import list_version_lines, show_version
from registry.catalog.identifiers import ids_by_digest
from registry.catalog.models import AdapterRow, DocumentRow, MembershipRow, PlaceRow, SourceRow, VersionRow
from registry.catalog.recipes import add_base_model, add_recipe
from registry.catalog.references import corpus_id
from registry.catalog.versions import members_by_document, resolve
from registry.digests import sha256_hex
from registry.records import PlacedDocument

CORPUS = "coast"
SHARES = (0.8, 0.1, 0.1)
"""Of the changes of a version: edits, removals, additions."""


@dataclass(frozen=True)
class Step:
    """What one version changes; ``edits`` are the old document and the new one at its place."""

    number: int
    edits: list[tuple[PlacedDocument, PlacedDocument]]
    removed: list[PlacedDocument]
    added: list[PlacedDocument]


def history(first: list[PlacedDocument], versions: int, changes: int) -> list[Step]:
    """Return what versions 2 and on change."""
    edits, removals, additions = (round(share * changes) for share in SHARES)
    order = list(first)
    random.Random(0).shuffle(order)
    untouched = iter(order)
    steps = []
    next_document = len(first)
    for number in range(2, versions + 1):
        old = [next(untouched) for _ in range(edits)]
        new = [PlacedDocument(placed(int(item.place.record_id or 0), " edited").document, item.place) for item in old]
        added = [placed(next_document + index) for index in range(additions)]
        next_document += additions
        removed = [next(untouched) for _ in range(removals)]
        steps.append(Step(number, list(zip(old, new, strict=True)), removed, added))
    return steps


def record(catalog: Catalog, steps: list[Step]) -> dict[str, str]:
    """Record the documents and adapters of all steps, as a build does that stops before its commit."""
    items = [item for step in steps for item in (*(new for _, new in step.edits), *step.added)]
    with catalog.write() as session:
        number = begin_build(
            session,
            CORPUS,
            recipe_digest=RECIPE.digest,
            who="benchmark",
            host="here",
            pid=1,
            is_alive=lambda *_: False,
        )
    for batch in chunked(items, 10_000):
        with catalog.write() as session:
            stage(session, number, batch)
    pairs, _ = encode(catalog, items)
    with catalog.write() as session:
        finish_build(session, number, status="interrupted", counts=BuildCounts())
    return dict(pairs)


def write_history(catalog: Catalog, first: list[PlacedDocument], steps: list[Step], adapters: dict[str, str]) -> None:
    """Write the rows that builds of the steps would leave."""
    with catalog.write() as session:
        corpus = corpus_id(session, CORPUS)
        documents = ids_by_digest(session, DocumentRow, [*adapters, *(item.document.digest for item in first)])
        numbers = ids_by_digest(session, AdapterRow, adapters.values())
        sources = {uri: number for uri, number in session.execute(select(SourceRow.uri, SourceRow.id))}
        base = session.execute(select(VersionRow).where(VersionRow.corpus_id == corpus)).scalar_one()
        shared = {"corpus_id": corpus, "recipe_id": base.recipe_id, "build_id": base.build_id, "message": "history"}
        count = base.documents
        versions = []
        for step in steps:
            count += len(step.added) - len(step.removed)
            row = {"number": step.number, "parent": step.number - 1, "digest": sha256_hex(f"v{step.number}".encode())}
            moment = base.created_at + timedelta(seconds=step.number)
            versions.append(
                shared | row | {"documents": count, "size_bytes": count * ADAPTER_BYTES, "created_at": moment}
            )
        _insert(session, VersionRow, versions)
        gone = [(step.number, item) for step in steps for item in (*(old for old, _ in step.edits), *step.removed)]
        _close(session, corpus, gone, documents, sources)
        new = [
            (step.number, item, documents[origin.document.digest])
            for step in steps
            for origin, item in (*step.edits, *((item, item) for item in step.added))
        ]
        _open(session, corpus, new, documents, numbers, sources, adapters)


def _close(
    session: Session,
    corpus: int,
    gone: list[tuple[int, PlacedDocument]],
    documents: dict[str, int],
    sources: dict[str, int],
) -> None:
    membership = update(MembershipRow).where(
        MembershipRow.corpus_id == corpus, MembershipRow.document_id == bindparam("document")
    )
    place = update(PlaceRow).where(
        PlaceRow.corpus_id == corpus, PlaceRow.source_id == bindparam("source"), PlaceRow.ordinal == bindparam("at")
    )
    rows: list[dict[str, Any]] = [
        {
            "version": number,
            "document": documents[item.document.digest],
            "source": sources[item.place.source_uri],
            "at": item.place.ordinal,
        }
        for number, item in gone
    ]
    for statement, names in ((membership, ("document",)), (place, ("source", "at"))):
        closing = statement.values(to_version=bindparam("version"))
        session.connection().execute(closing, [{name: row[name] for name in ("version", *names)} for row in rows])


def _open(
    session: Session,
    corpus: int,
    new: list[tuple[int, PlacedDocument, int]],
    documents: dict[str, int],
    numbers: dict[str, int],
    sources: dict[str, int],
    adapters: dict[str, str],
) -> None:
    memberships, places = [], []
    for number, item, line in new:
        digest = item.document.digest
        row = {"corpus_id": corpus, "document_id": documents[digest], "from_version": number}
        memberships.append(row | {"adapter_id": numbers[adapters[digest]], "line_id": line})
        place = {"source_id": sources[item.place.source_uri], "ordinal": item.place.ordinal}
        places.append(row | place | {"record_id": item.place.record_id})
    _insert(session, MembershipRow, memberships)
    _insert(session, PlaceRow, places)


def _insert(session: Session, model: type[Any], rows: Iterable[dict[str, Any]]) -> None:
    for chunk in chunked(rows, 10_000):
        session.connection().execute(insert(model), chunk)


def measure(catalog: Catalog, what: str, action: Callable[[Session], object], repeat: int) -> None:
    """Print the median and the longest time of an action, every time in a transaction of its own.

    What this process computed is all there is to SQLite, whoever else uses the machine; a server's time is not in it.
    """
    seconds, computed = [], []
    for _ in range(repeat):
        start, worked = time.perf_counter(), time.process_time()
        with catalog.read() as session:
            action(session)
        seconds.append(time.perf_counter() - start)
        computed.append(time.process_time() - worked)
    figures = (statistics.median(seconds), max(seconds), statistics.median(computed))
    print(f"| {what} | {' | '.join(f'{figure * 1e3:.1f}' for figure in figures)} | {repeat} |", flush=True)


def measure_all(catalog: Catalog, first: list[PlacedDocument], last: int) -> None:
    chance = random.Random(1)

    def name(number: int) -> str:
        return f"{CORPUS}@v{number}"

    def opened(session: Session) -> object:
        version = resolve(session, name(chance.randint(1, last)))
        some = chance.sample(first, 5)
        return version.documents, members_by_document(session, version, [item.document.digest for item in some])

    def differ(session: Session, one: int, other: int) -> object:
        found = compare(session, resolve(session, name(one)), resolve(session, name(other)))
        return found, list_changes(session, found, limit=50)

    def neighbours(session: Session) -> object:
        number = chance.randrange(1, last)
        return differ(session, number, number + 1)

    print("\n| what | median, ms | longest, ms | computed here, median, ms | times |\n|---|---|---|---|---|")
    measure(catalog, "open a random version: 5 documents with adapters", opened, 200)
    measure(catalog, "difference of neighbours, with 50 changes", neighbours, 100)
    pair = lambda session: differ(session, *chance.sample(range(1, last + 1), 2))  # noqa: E731
    measure(catalog, "difference of a random pair, with 50 changes", pair, 100)
    measure(catalog, f"v1 to v{last}, with 50 changes", lambda session: differ(session, 1, last), 20)
    measure(catalog, f"v{last} to v1, with 50 changes", lambda session: differ(session, last, 1), 20)
    measure(catalog, "`versions`: the newest 50", lambda session: list_version_lines(session, CORPUS), 20)
    measure(catalog, "`versions`: all", lambda session: list_version_lines(session, CORPUS, limit=None), 10)
    measure(catalog, f"`show {name(last)}`", lambda session: show_version(session, name(last)), 10)


def describe(catalog: Catalog, last: int) -> None:
    """Print how many rows there are and what they take."""
    with catalog.read() as session:
        rows = session.scalar(select(func.count()).select_from(MembershipRow)) or 0
        first = session.scalar(select(func.count()).where(MembershipRow.from_version == 1)) or 0
        found = compare(session, resolve(session, f"{CORPUS}@v1"), resolve(session, f"{CORPUS}@v{last}"))
        if catalog.url.startswith("sqlite"):
            size = session.execute(text("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"))
            part = session.execute(text("SELECT sum(pgsize) FROM dbstat WHERE name LIKE '%memberships%'"))
        else:
            size = session.execute(text("SELECT pg_database_size(current_database())"))
            part = session.execute(text("SELECT pg_total_relation_size('memberships')"))
        total, memberships = size.scalar_one(), part.scalar_one()
    print(f"\n{last:,} versions of {found.new.documents:,} documents, {total / 2**20:,.0f} MiB.")
    print(f"{rows:,} memberships ({first:,} of v1), {memberships / 2**20:,.0f} MiB with their indexes.")
    print(f"v1 to v{last}: {found.changed:,} changed, {found.added:,} added, {found.removed:,} removed.")


def fill(catalog: Catalog, first: list[PlacedDocument], versions: int, changes: int) -> None:
    """Make all versions, and print how long the builds took."""
    print("\n| step | time | |\n|---|---|---|")
    table = Table()
    steps = history(first, versions, changes)
    with catalog.write() as session:
        add_base_model(session, BASE)
        add_recipe(session, RECIPE)
    build(catalog, CORPUS, first, table, "v1")
    start = time.perf_counter()
    write_history(catalog, first, steps[:-1], record(catalog, steps[:-1]))
    table.add(f"v2 to v{versions - 1}: written", time.perf_counter() - start)
    there = {item.place: item for item in first}
    for step in steps:
        for item in step.removed:
            del there[item.place]
        there |= {item.place: item for item in (*(new for _, new in step.edits), *step.added)}
    with catalog.write() as session:
        # The alias is where the builds would have left it.
        session.execute(text(f"UPDATE aliases SET version = {versions - 1}"))
    build(catalog, CORPUS, list(there.values()), table, f"v{versions}")
    if not catalog.url.startswith("sqlite"):
        # What autovacuum does some minutes later.
        with catalog._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))


def run(url: str, documents: int, versions: int, changes: int, is_filled: bool) -> None:
    print(header("psycopg"))
    first = [placed(number) for number in range(documents)]
    schema.upgrade(url)
    with open_catalog(url) as catalog:
        if not is_filled:
            fill(catalog, first, versions, changes)
        measure_all(catalog, first, versions)
        describe(catalog, versions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000, help="documents of a version (default: %(default)s)")
    parser.add_argument("--versions", type=int, default=1_000, help="versions (default: %(default)s)")
    parser.add_argument("--changes", type=int, default=100, help="changes of a version (default: %(default)s)")
    parser.add_argument("--url", help="an empty database (default: SQLite in a temporary folder)")
    parser.add_argument("--filled", action="store_true", help="the database was filled by an earlier run: only measure")
    arguments = parser.parse_args()
    given = (arguments.documents, arguments.versions, arguments.changes)
    if arguments.url:
        run(arguments.url, *given, arguments.filled)
        return
    with tempfile.TemporaryDirectory(prefix="pragreg-benchmark-") as folder:
        run(f"sqlite:///{Path(folder) / 'catalog.sqlite'}", *given, False)


if __name__ == "__main__":
    main()
