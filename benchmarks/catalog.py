"""How the catalog does with many rows: `python -m benchmarks.catalog --rows 1000000`.

Fills an empty catalog as builds do, through the same functions, then measures what commands ask of it. Nothing is
trained: adapters are digests of numbers.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

from sqlalchemy import text

from benchmarks.machine import header
from registry.catalog import schema
from registry.catalog.adapters import add_pack, find_adapters, locate
from registry.catalog.augmentations import add_augmentations
from registry.catalog.builds import BuildCounts, begin_build, finish_build, stage
from registry.catalog.documents import get_documents, resolve_document
from registry.catalog.engine import Catalog, open_catalog
from registry.catalog.listing import list_adapters, list_corpora, list_documents, show_document, summary
from registry.catalog.recipes import add_base_model, add_recipe
from registry.catalog.versions import (
    assign_adapters,
    changes,
    commit_version,
    members,
    members_by_document,
    resolve,
    set_alias,
)
from registry.digests import sha256_hex
from registry.recipe import Recipe
from registry.records import (
    AdapterLocation,
    Augmentation,
    BaseModel,
    Document,
    EncodedAdapter,
    Pack,
    Place,
    PlacedDocument,
    QAPair,
    Training,
)

BATCH = 10_000
"""Documents a transaction, and adapters a pack."""
ADAPTER_BYTES = 1_520_000

FILLER = "and the keeper of the lamp wrote down every ship that passed in fair weather and in foul, " * 6
BASE = BaseModel(sha256_hex(b"base"), "benchmark", None, "LlamaForCausalLM", 1)
RECIPE = Recipe(base_model=BASE.fingerprint)
TRAINING = Training(14, 2_310, 16, 2.5, 0.5, 1.0, "cpu", "float32", 4, {"torch": "2"})


@dataclass
class Table:
    """The lines of the result."""

    lines: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, what: str, seconds: float, detail: str = "") -> None:
        amount = f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.2f} ms"
        self.lines.append((what, amount, detail))
        print(f"| {what} | {amount} | {detail} |", flush=True)

    def measure(self, what: str, action: Callable[[], object], *, repeat: int = 1, detail: str = "") -> None:
        start = time.perf_counter()
        for _ in range(repeat):
            action()
        self.add(what, (time.perf_counter() - start) / repeat, detail)


def placed(number: int, salt: str = "") -> PlacedDocument:
    document = Document.of(f"Beacon {number}{salt}", f"Beacon {number}{salt} stands on the Ostrel coast, {FILLER}")
    return PlacedDocument(document, Place(f"coast-{number // 1_000}.jsonl", number % 1_000, str(number)))


def augmentation_of(document: Document) -> Augmentation:
    pairs = tuple(QAPair(f"Where does {document.title} stand, asked {ask}?", "on the coast") for ask in range(3))
    return Augmentation(document.digest, sha256_hex(b"request"), "import", "1", (document.text,), pairs)


def encoded(augmentation: Augmentation) -> EncodedAdapter:
    digest = sha256_hex(f"adapter {augmentation.digest}".encode())
    return EncodedAdapter(
        digest, augmentation.document_digest, augmentation.digest, RECIPE.digest, 379_000, b"", TRAINING
    )


def batches(items: list[PlacedDocument]) -> Iterator[list[PlacedDocument]]:
    iterator = iter(items)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def build(catalog: Catalog, corpus: str, items: list[PlacedDocument], table: Table, name: str) -> None:
    """Run a build of ``items``, and put the time of each of its steps into the table."""
    with catalog.write() as session:
        number = begin_build(
            session,
            corpus,
            recipe_digest=RECIPE.digest,
            who="benchmark",
            host="here",
            pid=1,
            is_alive=lambda *_: False,
        )
    start = time.perf_counter()
    for batch in batches(items):
        with catalog.write() as session:
            stage(session, number, batch)
    elapsed = time.perf_counter() - start
    table.add(f"{name}: stage {len(items):,} documents", elapsed, f"{len(items) / elapsed:,.0f} a second")
    pairs, elapsed = encode(catalog, items)
    table.add(f"{name}: look up adapters, record new ones", elapsed, f"{len(items) / elapsed:,.0f} a second")
    start = time.perf_counter()
    for begin in range(0, len(pairs), BATCH):
        with catalog.write() as session:
            assign_adapters(session, number, pairs[begin : begin + BATCH])
    table.add(f"{name}: assign the adapters", time.perf_counter() - start)
    start = time.perf_counter()
    with catalog.write() as session:
        version, created = commit_version(session, number, {}, recipe_digest=RECIPE.digest, message=name)
    detail = f"v{version.number}{' new' if created else ''}, {version.documents:,} documents"
    table.add(f"{name}: commit the version", time.perf_counter() - start, detail)
    start = time.perf_counter()
    with catalog.write() as session:
        counts = BuildCounts(documents=len(items), places=len(items))
        finish_build(session, number, status="finished", counts=counts)
    table.add(f"{name}: finish", time.perf_counter() - start)


def encode(catalog: Catalog, items: list[PlacedDocument]) -> tuple[list[tuple[str, str]], float]:
    """Return (document, adapter) of all items, and the seconds it took to look up and to record the missing ones."""
    pairs: list[tuple[str, str]] = []
    elapsed = 0.0
    for batch in batches(items):
        augmentations = [augmentation_of(item.document) for item in batch]
        keys = [(item.document_digest, item.digest) for item in augmentations]
        start = time.perf_counter()
        with catalog.read() as session:
            known = find_adapters(session, RECIPE.digest, keys)
        elapsed += time.perf_counter() - start
        new = [item for item, key in zip(augmentations, keys, strict=True) if key not in known]
        adapters = [encoded(item) for item in new]
        pairs += [(key[0], digest) for key, digest in known.items()]
        pairs += [(adapter.document_digest, adapter.digest) for adapter in adapters]
        if adapters:
            pack = sha256_hex("".join(adapter.digest for adapter in adapters).encode())
            places = tuple(
                AdapterLocation(item.digest, pack, 10 + index * ADAPTER_BYTES, ADAPTER_BYTES)
                for index, item in enumerate(adapters)
            )
            start = time.perf_counter()
            with catalog.write() as session:
                add_augmentations(session, new)
                add_pack(session, Pack(pack, 10 + len(places) * ADAPTER_BYTES, places), adapters, None)
            elapsed += time.perf_counter() - start
    return pairs, elapsed


def measure_reading(catalog: Catalog, items: list[PlacedDocument], table: Table) -> None:
    chance = random.Random(0)
    some = chance.sample(items, min(1_000, len(items)))
    digests = cycle([item.document.digest for item in some])
    with catalog.read() as session:
        version = resolve(session, "coast@v1")
        newest = resolve(session, "coast")
        small = resolve(session, "small")
        adapters = cycle([adapter for _, adapter in islice(members(session, version), 1_000)])
        table.measure("one document by digest", lambda: get_documents(session, [next(digests)]), repeat=1_000)
        table.measure(
            "one document by a prefix of 12", lambda: resolve_document(session, next(digests)[:12]), repeat=1_000
        )
        table.measure("one adapter's place by digest", lambda: locate(session, [next(adapters)]), repeat=1_000)
        table.measure("a corpus' newest version", lambda: resolve(session, "coast"), repeat=100)
        table.measure(
            "5 hits of a version with adapters",
            lambda: members_by_document(session, version, [next(digests) for _ in range(5)]),
            repeat=1_000,
        )
        table.measure("show a document", lambda: show_document(session, next(digests)), repeat=100)
        table.measure("list 50 documents", lambda: list_documents(session), repeat=20)
        middle = len(items) // 2
        table.measure("list 50 documents from the middle on", lambda: list_documents(session, offset=middle))
        table.measure("list 50 documents of a version", lambda: list_documents(session, reference="coast@v1"))
        table.measure("list documents of the small corpus", lambda: list_documents(session, reference="small"))
        table.measure("list documents by title, 2 found", lambda: list_documents(session, title="con 4242 "))
        table.measure("list 50 adapters of a version", lambda: list_adapters(session, reference="coast@v1"))
        table.measure("list adapters of the small corpus", lambda: list_adapters(session, reference="small"))
        table.measure("list corpora", lambda: list_corpora(session), repeat=20)
        table.measure("count everything", lambda: summary(session))
        table.measure("first 1,000 members of a version", lambda: list(islice(members(session, version), 1_000)))
        table.measure("members of the small corpus", lambda: list(members(session, small)))
        table.measure("all members of a version, streamed", lambda: sum(1 for _ in members(session, version)))
        last = newest.number
        table.measure(f"changes from v1 to v{last}", lambda: [*changes(session, "coast", 1, last).added], repeat=5)


def measure_commits(catalog: Catalog, table: Table) -> None:
    """Time small commits, with and without waiting for the disk."""
    with catalog.read() as session:
        versions = [resolve(session, reference) for reference in ("coast@v1", "coast@v2")]
    settings = ("FULL", "NORMAL") if catalog.url.startswith("sqlite") else ("",)
    for setting in settings:
        if setting:
            # Outside a transaction, on the one connection of the pool.
            with catalog._engine.connect() as connection:
                connection.connection.cursor().execute(f"PRAGMA synchronous={setting}")
        start = time.perf_counter()
        for number in range(200):
            with catalog.write() as session:
                set_alias(session, versions[number % 2], "production")
        table.add(f"one small commit {setting and f'(synchronous {setting})'}", (time.perf_counter() - start) / 200)


def run(url: str, rows: int, changed: int) -> None:
    print(header("psycopg"), "\n\n| step | time | |\n|---|---|---|", sep="")
    table = Table()
    schema.upgrade(url)
    items = [placed(number) for number in range(rows)]
    few = [placed(number, " small") for number in range(40)]
    with open_catalog(url) as catalog:
        with catalog.write() as session:
            add_base_model(session, BASE)
            add_recipe(session, RECIPE)
        build(catalog, "coast", items, table, "first build")
        altered = [*items[changed:], *(placed(number, " new") for number in range(changed))]
        build(catalog, "coast", altered, table, f"build with {changed} changes")
        build(catalog, "small", few, table, "build of 40 documents beside")
        measure_reading(catalog, items, table)
        measure_commits(catalog, table)
        with catalog.read() as session:
            counts = summary(session)
            if url.startswith("sqlite"):
                pages = session.execute(text("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"))
                size = pages.scalar_one()
            else:
                size = session.execute(text("SELECT pg_database_size(current_database())")).scalar_one()
        print(f"\n{counts.documents:,} documents, {counts.adapters:,} adapters, {size / 2**20:,.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="documents, and adapters (default: %(default)s)")
    parser.add_argument("--changes", type=int, default=100, help="documents that a later build exchanges")
    parser.add_argument("--url", help="an empty database (default: SQLite in a temporary folder)")
    arguments = parser.parse_args()
    if arguments.url:
        run(arguments.url, arguments.rows, arguments.changes)
        return
    with tempfile.TemporaryDirectory(prefix="pragreg-benchmark-") as folder:
        run(f"sqlite:///{Path(folder) / 'catalog.sqlite'}", arguments.rows, arguments.changes)


if __name__ == "__main__":
    main()
