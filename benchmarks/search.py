"""How long retrieval takes: `python -m benchmarks.search [--documents N...] [--postgres URL] [--folder FOLDER]`.

Homes with 100,000 and 1,000,000 invented passages in their catalogs and indexes. First in a process that stays, as a
server asks: from a question to hits with documents and adapters, the index and the catalog apart, every question a new
one. Then as a process of its own, as a person or a script starts it. Nothing is trained: adapters are digests of
numbers. With ``--postgres`` (a role that may create databases) the catalog is also copied to PostgreSQL and asked
there; with ``--folder`` the homes are kept, and used again.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, make_url

from benchmarks.catalog import BASE, RECIPE, Table, build
from benchmarks.index import Invented
from benchmarks.machine import header
from registry.catalog import schema
from registry.catalog.adapters import find_locations
from registry.catalog.engine import open_catalog
from registry.catalog.recipes import add_base_model, add_recipe
from registry.catalog.transfer.copying import copy_catalog
from registry.pipeline.opened import Registry, Retriever, opened
from registry.pipeline.search import search
from registry.progress import Silent
from registry.records import Hit, Match, Place, PlacedDocument
from registry.settings import DEFAULT_CORPUS, Home, create_home, open_home

SIZES = (100_000, 1_000_000)
HITS = 3
WARM_UP = 100
RUNS = 10
PRAGREG = [sys.executable, "-c", "from cli.main import main; main()"]


class Quiet(Table):
    """How long it took to fill the catalog is another benchmark's."""

    def add(self, what: str, seconds: float, detail: str = "") -> None:
        """Say nothing."""


class Times:
    """How long one thing took, many times: as the clock has it, and of this thread's own work."""

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._worked: list[float] = []

    @contextmanager
    def measured(self) -> Iterator[None]:
        worked, begin = time.thread_time(), time.perf_counter()
        yield
        self._seconds.append(time.perf_counter() - begin)
        self._worked.append(time.thread_time() - worked)

    def row(self, what: str) -> str:
        shown = [quantile(self._seconds, share) for share in (0.5, 0.9, 0.99)] + [quantile(self._worked, 0.99)]
        return f"| {what} | " + " | ".join(f"{1000 * seconds:.2f} ms" for seconds in shown) + " |"


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def fill(home: Home, invented: Invented, count: int) -> None:
    """Build a version of ``count`` passages, and its index."""
    schema.upgrade(home.catalog_url)
    items = [
        PlacedDocument(document, Place(f"part-{number // 1_000}.jsonl", number % 1_000, str(number)))
        for number, document in enumerate(invented.documents(0, count))
    ]
    with open_catalog(home.catalog_url) as catalog:
        with catalog.write() as session:
            add_base_model(session, BASE)
            add_recipe(session, RECIPE)
        build(catalog, DEFAULT_CORPUS, items, Quiet(), "build")
    with opened(home) as registry:
        registry.index(registry.version(DEFAULT_CORPUS))


def ask(registry: Registry, database: str, questions: list[str]) -> None:
    """Print how long the steps from a question to its hits take, and the look-up of where their adapters lie."""
    version = registry.version(DEFAULT_CORPUS)
    index, retriever = registry.index(version), Retriever(registry, version)
    for question in questions[:WARM_UP]:
        retriever.hits([question], HITS)
    apart, together = questions[WARM_UP::2], questions[WARM_UP + 1 :: 2]
    searched, joined, whole, located = Times(), Times(), Times(), Times()
    matches: list[Match] = []
    hits: tuple[Hit, ...] = ()
    for question in apart:
        with searched.measured():
            matches = index.search(question, HITS)
        with joined.measured():
            (hits,) = retriever.join([matches])
        with located.measured(), registry.catalog.read() as session:
            find_locations(session, [hit.adapter_digest for hit in hits])
    for question in together:
        with whole.measured():
            retriever.hits([question], HITS)
    print(f"\n| {version.documents:,} passages, {database} | p50 | p90 | p99 | p99 of processor time |")
    print("|---|---:|---:|---:|---:|")
    print(searched.row(f"the index: {HITS} best of a question"))
    print(joined.row("the catalog: their texts and adapters"))
    print(whole.row("question to hits"))
    print(located.row(f"where {HITS} adapters lie"), flush=True)


def start(home: Home, questions: list[str]) -> None:
    """Print how long whole processes take."""
    print("\n| a process of its own | median | at worst |\n|---|---:|---:|")

    def run(command: list[str]) -> Callable[[str], object]:
        environment = {**os.environ, "PRAGREG_HOME": str(home.path)}
        return lambda question: subprocess.run(
            [*command, question], env=environment, check=True, stdout=subprocess.DEVNULL
        )

    ways: dict[str, Callable[[str], object]] = {
        "python alone": run([sys.executable, "-c", "pass"]),
        "pragreg search": run([*PRAGREG, "search"]),
        "the same without a new process": lambda question: search(home, DEFAULT_CORPUS, question, 5),
    }
    for what, way in ways.items():
        seconds = []
        for question in questions:
            begin = time.perf_counter()
            way(question)
            seconds.append(time.perf_counter() - begin)
        print(f"| {what} | {statistics.median(seconds):.3f} s | {max(seconds):.3f} s |", flush=True)


@contextmanager
def copied(home: Home, url: str) -> Iterator[Registry]:
    """Copy the catalog of a home to a new database of the server at ``url``, for the time of a block."""
    name = f"pragreg_benchmark_{os.getpid()}"
    target = make_url(url).set(drivername="postgresql+psycopg")
    server = create_engine(target, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
        try:
            address = target.set(database=name).render_as_string(hide_password=False)
            copy_catalog(home.catalog_url, address, Silent())
            with open_catalog(address) as catalog, opened(home) as registry:
                yield Registry(home, catalog, registry.packs)
        finally:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    server.dispose()


def measure(folder: Path, count: int, asked: int, postgres: str | None) -> None:
    """Print all tables of one size."""
    invented = Invented()
    path = folder / f"passages-{count}"
    is_new = not path.exists()
    home = create_home(path) if is_new else open_home(path)
    if is_new:
        fill(home, invented, count)
    numbers = ((number * 7919 + 1) % count for number in range(asked + WARM_UP))
    questions = [invented.question(number) for number in numbers]
    with opened(home) as registry:
        ask(registry, "SQLite", questions)
    if postgres is not None:
        with copied(home, postgres) as registry:
            ask(registry, "PostgreSQL", questions)
    start(home, questions[:RUNS])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=list(SIZES), metavar="N")
    parser.add_argument("--questions", type=int, default=2_000, metavar="N")
    parser.add_argument("--postgres", metavar="URL", help="a PostgreSQL server, with a role that may create databases")
    parser.add_argument("--folder", type=Path, help="where homes are kept and used again")
    options = parser.parse_args()
    print(header("psycopg"))
    with tempfile.TemporaryDirectory(prefix="pragreg-benchmark-") as temporary:
        folder = options.folder or Path(temporary)
        for count in options.documents:
            measure(folder, count, options.questions, options.postgres)


if __name__ == "__main__":
    main()
