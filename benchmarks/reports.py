"""How fast the reports are: `python -m benchmarks.reports --documents 1000000 [--url URL] [--folder FOLDER]`.

Fills an empty catalog (an SQLite file in the folder, or the PostgreSQL database of the url) with invented rows, then
runs every report with its default parameters as the command does, in this process, so the start of an interpreter
(about 0.3 s) is not counted. Prints the median of the seconds of five runs, and of the processor time on SQLite, where
the query runs in this process; with --plans, SQLite's plans too. What the indexes for the reports cost is measured by
filling a catalog of the schema before them as well.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
from sqlalchemy import make_url

from benchmarks.machine import header
from benchmarks.reports_rows import Row, Size, tables
from registry.catalog import schema
from registry.reports.definitions import Report, read_report, report_names
from registry.reports.running import parameter_values, run_report

RUNS = 5
GIVEN = {"lineage": {"query": 77}, "never-retrieved": {"corpus": "encyclopedia"}}
"""What reports need that have no default here."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--url", help="an empty PostgreSQL database; without, a new SQLite file")
    parser.add_argument("--folder", type=Path, help="where the SQLite files are made, and kept; without, nowhere")
    parser.add_argument("--plans", action="store_true", help="print SQLite's plans")
    parser.add_argument("--indexes", action="store_true", help="measure what the indexes cost, on SQLite")
    options = parser.parse_args()
    print(header("psycopg"), flush=True)
    size = Size(options.documents, options.documents // 10)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if options.indexes:
            cost_of_indexes(folder, size)
        url = options.url or f"sqlite:///{folder / 'reports.sqlite'}"
        if options.url or not (folder / "reports.sqlite").exists():
            seconds = fill(url, size)
            print(f"- filled in {seconds:.0f} s: {size.documents:,} documents, {size.queries:,} queries", flush=True)
        measure(url, plans=options.plans)


def measure(url: str, *, plans: bool) -> None:
    print("\n| report | rows | seconds | processor seconds |\n|---|---|---|---|", flush=True)
    for name in report_names():
        report = read_report(name)
        seconds, used, count = [], [], 0
        for _ in range(RUNS):
            start, started = time.perf_counter(), time.process_time()
            with run_report(url, report, GIVEN.get(name, {})) as rows:
                count = len(list(rows))
            seconds.append(time.perf_counter() - start)
            used.append(time.process_time() - started)
        print(f"| {name} | {count} | {statistics.median(seconds):.2f} | {statistics.median(used):.2f} |", flush=True)
    if plans and url.startswith("sqlite"):
        for name in report_names():
            print(f"\n{name}:\n")
            print("\n".join(f"    {line}" for line in plan(url, read_report(name))))


def plan(url: str, report: Report) -> list[str]:
    """Return SQLite's plan of a report, indented as it is nested."""
    values = parameter_values(report, GIVEN.get(report.name, {}))
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database:
        depths, lines = {0: -1}, []
        for number, parent, _, detail in database.execute(f"EXPLAIN QUERY PLAN {report.sql}", values):
            depths[number] = depths[parent] + 1
            lines.append("  " * depths[number] + detail)
    return lines


def fill(url: str, size: Size, revision: str = "head") -> float:
    """Migrate an empty database to ``revision`` and fill it; return the seconds that the rows took, indexes and all."""
    schema.upgrade(url, revision)
    start = time.perf_counter()
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as database:
            database.execute("PRAGMA synchronous = OFF")
            database.execute("PRAGMA cache_size = -262144")
            for table, columns, rows in tables(size):
                known = {str(row[1]) for row in database.execute(f"PRAGMA table_info({table})")}
                fill_sqlite(database, table, columns, rows(), known)
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    else:
        address = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(address) as connection:
            for table, columns, rows in tables(size):
                names = ", ".join(f'"{column}"' for column in columns)
                with connection.cursor() as cursor, cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy:
                    for row in rows():
                        copy.write_row(row)
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
    return time.perf_counter() - start


def fill_sqlite(
    database: sqlite3.Connection, table: str, columns: tuple[str, ...], rows: Iterator[Row], known: set[str]
) -> None:
    """Insert rows; a column that an older schema does not know is left out."""
    kept = [index for index, column in enumerate(columns) if column in known]
    names = ", ".join(f'"{columns[index]}"' for index in kept)
    values = rows if len(kept) == len(columns) else ([row[index] for index in kept] for row in rows)
    database.execute("BEGIN")
    database.executemany(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(kept))})", values)
    database.execute("COMMIT")


def cost_of_indexes(folder: Path, size: Size) -> None:
    found = {}
    for revision in ("0003_upkeep", "0004_views"):
        path = folder / f"{revision}.sqlite"
        started = time.process_time()
        fill(f"sqlite:///{path}", size, revision)
        found[revision] = (path.stat().st_size / size.documents, time.process_time() - started)
        path.unlink()
    (before, slow), (after, slower) = found.values()
    print(f"- bytes a document: {before:.0f} before, {after:.0f} with key and indexes: {after - before:.0f} more")
    print(f"- processor seconds to insert all: {slow:.1f} before, {slower:.1f} with key and indexes", flush=True)


if __name__ == "__main__":
    main()
