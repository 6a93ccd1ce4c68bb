"""How long backups and copies of a catalog take: `python -m benchmarks.backup --rows 100000 --packs 8`.

Nothing is trained: the catalog is that of `benchmarks.catalog`, and the packs hold random bytes. With ``--url`` (an
empty PostgreSQL database) the catalog is copied there and back.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.catalog import BASE, RECIPE, Table, build, placed
from benchmarks.machine import header
from registry.catalog import schema
from registry.catalog.adapters import forget_packs, pack_digests
from registry.catalog.engine import open_catalog
from registry.catalog.models import PackRow, utc_now
from registry.catalog.recipes import add_base_model, add_recipe
from registry.catalog.transfer.copying import copy_catalog
from registry.digests import sha256_hex
from registry.pipeline.restore import restore
from registry.progress import Silent
from registry.settings import Home, create_home
from registry.store.packs import PackStore
from registry.upkeep.backup.backup import back_up

ADAPTER_BYTES = 1_520_000
PACK_BYTES = 256 * 1024 * 1024


def adapters(seed: int) -> Iterator[tuple[str, bytes]]:
    chance = random.Random(seed)
    for _ in range(PACK_BYTES // ADAPTER_BYTES):
        data = chance.randbytes(ADAPTER_BYTES)
        yield sha256_hex(data), data


def fill(home: Home, rows: int, packs: int) -> None:
    """Make a catalog of so many documents, and so many packs in place of those that it invents."""
    schema.upgrade(home.catalog_url)
    store = PackStore(home.packs_url)
    with open_catalog(home.catalog_url) as catalog:
        with catalog.write() as session:
            add_base_model(session, BASE)
            add_recipe(session, RECIPE)
        build(catalog, "coast", [placed(number) for number in range(rows)], Table(), "fill")
        with catalog.write() as session:
            forget_packs(session, list(pack_digests(session)))
        for seed in range(packs):
            pack = store.write(adapters(seed))
            with catalog.write() as session:
                session.add(PackRow(digest=pack.digest, size_bytes=pack.size_bytes, created_at=utc_now()))


def plain_sha256(folder: Path) -> None:
    for path in sorted(folder.rglob("*.safetensors")):
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")


def timed(table: Table, what: str, action: object, size_bytes: int = 0) -> None:
    start = time.perf_counter()
    assert callable(action)
    action()
    elapsed = time.perf_counter() - start
    table.add(what, elapsed, f"{size_bytes / elapsed / 1e6:,.0f} MB/s" if size_bytes else "")


def run(folder: Path, rows: int, packs: int, url: str | None) -> None:
    home = create_home(folder / "home")
    fill(home, rows, packs)
    size_bytes = sum(path.stat().st_size for path in Path(home.packs_url).rglob("*.safetensors"))
    print(header("psycopg"))
    print(f"- {rows:,} documents, packs of {size_bytes / 1e9:.2f} GB\n\n| what | time | |\n|---|---|---|")
    table = Table()
    timed(table, "sha256 of the packs, one after the other", lambda: plain_sha256(Path(home.packs_url)), size_bytes)
    backup = folder / "backup"
    timed(table, "backup, first time", lambda: back_up(home, backup, Silent()), size_bytes)
    timed(table, "backup, nothing new", lambda: back_up(home, backup, Silent()))
    timed(table, "backup --check, nothing new", lambda: back_up(home, backup, Silent(), check=True), size_bytes)
    timed(table, "restore", lambda: restore(backup, folder / "new", Silent()), size_bytes)
    copied = f"sqlite:///{folder / 'copied.sqlite'}"
    if url is None:
        timed(table, "catalog copy, SQLite to SQLite", lambda: copy_catalog(home.catalog_url, copied, Silent()))
        return
    timed(table, "catalog copy, SQLite to PostgreSQL", lambda: copy_catalog(home.catalog_url, url, Silent()))
    timed(table, "catalog copy, PostgreSQL to SQLite", lambda: copy_catalog(url, copied, Silent()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="documents of the catalog (default: %(default)s)")
    parser.add_argument("--packs", type=int, default=8, help="packs of 256 MiB (default: %(default)s)")
    parser.add_argument("--url", help="an empty PostgreSQL database to copy the catalog to and back")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pragreg-benchmark-") as folder:
        run(Path(folder), arguments.rows, arguments.packs, arguments.url)


if __name__ == "__main__":
    main()
