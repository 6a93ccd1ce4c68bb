"""How fast `verify --deep` reads packs, beside plain sha256 of the same bytes.

Run it with ``python -m benchmarks.verify [--gigabytes 2] [--folder DIR] [--cold]``. A registry of packs is written
whose adapters have the shape of rank 2 on the feed-forward modules of all 30 blocks of SmolLM2-135M (1.5 MB each) and
random bodies; nothing is trained. Then, in turn and three times over, all packs are hashed by hashlib alone and
verified, each with one thread and with two; the medians are printed. The packs are read once before, so that the page
cache is warm. With ``--cold`` they are dropped from it before every run, by ``posix_fadvise``, which the system is free
to ignore: the share that was then read from the disk is printed. Seconds of the processor say what the work costs where
others share the machine.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil

from benchmarks.machine import header
from registry.catalog import schema
from registry.catalog.adapters import add_pack
from registry.catalog.augmentations import add_augmentations
from registry.catalog.builds import BuildCounts, begin_build, finish_build, stage
from registry.catalog.engine import Catalog, open_catalog
from registry.catalog.recipes import add_base_model, add_recipe
from registry.catalog.versions import assign_adapters, commit_version
from registry.digests import sha256_hex
from registry.index import VersionIndex
from registry.progress import Silent
from registry.recipe import Recipe
from registry.records import (
    Augmentation,
    BaseModel,
    Document,
    EncodedAdapter,
    Place,
    PlacedDocument,
    Training,
    Version,
)
from registry.settings import Home, create_home
from registry.store import AdapterLayout, PackStore
from registry.upkeep.verify.run import VerifyRequest, verify

PACK_BYTES = 256 * 2**20
ROUNDS = 3
JOBS = (1, 2)
MODULES = (("gate_proj", (1536, 576)), ("up_proj", (1536, 576)), ("down_proj", (576, 1536)))
SHAPES = {f"model.layers.{block}.mlp.{name}": shape for block in range(30) for name, shape in MODULES}
BASE = BaseModel(sha256_hex(b"invented"), "invented", None, "LlamaForCausalLM", 134_515_008)
TRAINING = Training(1, 1, 1, 1.0, 0.5, 1.0, "cpu", "float32", 1)
_CHUNK_BYTES = 8 * 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    parser.add_argument("--cold", action="store_true", help="drop the packs from the page cache before every run")
    options = parser.parse_args()
    print(header("numpy"))
    with tempfile.TemporaryDirectory(prefix="pragreg-benchmark-", dir=options.folder) as place:
        home = create_home(Path(place) / "home")
        schema.upgrade(home.catalog_url)
        with open_catalog(home.catalog_url) as catalog:
            paths = _fill(home, catalog, int(options.gigabytes * 1e9))
            size_bytes = sum(path.stat().st_size for path in paths)
            print(
                f"- {len(paths)} packs, {size_bytes / 1e6:,.0f} MB; page cache {'cold' if options.cold else 'warm'}\n"
            )
            _measure(home, catalog, paths, cold=options.cold)


def _measure(home: Home, catalog: Catalog, paths: list[Path], *, cold: bool) -> None:
    runs: dict[str, Callable[[], None]] = {}
    for jobs in JOBS:
        runs[f"sha256, {jobs} thread{'s' * (jobs > 1)}"] = lambda jobs=jobs: _hash(paths, jobs)  # type: ignore[misc]
        runs[f"verify --deep --jobs {jobs}"] = lambda jobs=jobs: _verify(home, catalog, jobs)  # type: ignore[misc]
    size_bytes = sum(path.stat().st_size for path in paths)
    rates: dict[str, list[float]] = {name: [] for name in runs}
    costs: dict[str, list[float]] = {name: [] for name in runs}
    read: dict[str, list[float]] = {name: [] for name in runs}
    _hash(paths, 1)
    for _ in range(ROUNDS):
        for name, run in runs.items():
            if cold:
                _drop(paths)
            before, begin, cpu = _disk_bytes(), time.perf_counter(), time.process_time()
            run()
            rates[name].append(size_bytes / (time.perf_counter() - begin) / 1e6)
            costs[name].append((time.process_time() - cpu) / size_bytes * 1e9)
            read[name].append((_disk_bytes() - before) / size_bytes)
    print("| what | MB/s | of sha256 | processor, s/GB | of sha256 | from the disk |")
    print("|---|---:|---:|---:|---:|---:|")
    for jobs in JOBS:
        plain, deep = (name for name in runs if name.split()[-1 if name.startswith("verify") else 1] == str(jobs))
        for name in (plain, deep):
            rate, cost = statistics.median(rates[name]), statistics.median(costs[name])
            beside = rate / statistics.median(rates[plain]), cost / statistics.median(costs[plain])
            print(f"| {name} | {rate:,.0f} | {beside[0]:.2f} ", end="")
            print(f"| {cost:.2f} | {beside[1]:.2f} | {statistics.median(read[name]):.0%} |")


def _hash(paths: list[Path], jobs: int) -> None:
    with ThreadPoolExecutor(jobs) as threads:
        for path, digest in zip(paths, threads.map(_digest, paths), strict=True):
            assert path.name.startswith(digest)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _verify(home: Home, catalog: Catalog, jobs: int) -> None:
    packs = PackStore(home.packs_url)
    report = verify(home, catalog, packs, VerifyRequest(deep=True, jobs=jobs), Silent())
    packs.close()
    assert not report.findings, report.findings


def _drop(paths: list[Path]) -> None:
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _disk_bytes() -> int:
    counters = psutil.disk_io_counters()
    return counters.read_bytes if counters else 0


def _fill(home: Home, catalog: Catalog, size_bytes: int) -> list[Path]:
    """Make a registry with one version whose adapters take ``size_bytes``, and return its packs."""
    layout = AdapterLayout.of(SHAPES, 2, "float32")
    recipe = Recipe(base_model=BASE.fingerprint, rank=2, first_layer=0, dtype="float32")
    count = max(1, size_bytes // layout.size_bytes)
    documents = [Document.of(f"Beacon {n}", f"Beacon {n} is lit by keeper {n}.") for n in range(count)]
    packs = PackStore(home.packs_url)
    with catalog.write() as session:
        add_base_model(session, BASE)
        add_recipe(session, recipe)
        build = begin_build(
            session, "bench", recipe_digest=recipe.digest, who="", host="", pid=1, is_alive=lambda *_: False
        )
        stage(session, build, (PlacedDocument(document, Place("bench", n)) for n, document in enumerate(documents)))
    paths = []
    step = max(1, PACK_BYTES // layout.size_bytes)
    for start in range(0, count, step):
        part = documents[start : start + step]
        made = list(_adapters(part, layout, recipe, start))
        pack = packs.write((adapter.digest, adapter.data) for adapter in made)
        paths.append(Path(packs.path_of(pack.digest)))
        with catalog.write() as session:
            add_augmentations(session, [_augmentation(document) for document in part])
            add_pack(session, pack, made, build)
            assign_adapters(session, build, {adapter.document_digest: adapter.digest for adapter in made})
    with catalog.write() as session:
        version, _ = commit_version(session, build, {}, recipe_digest=recipe.digest, message="")
        finish_build(session, build, status="finished", counts=BuildCounts())
    _index(home, version, documents)
    packs.close()
    return paths


def _adapters(documents: list[Document], layout: AdapterLayout, recipe: Recipe, seed: int) -> Iterator[EncodedAdapter]:
    numbers = np.random.default_rng(seed)
    for document in documents:
        data = layout.serialise(numbers.standard_normal(layout.elements, dtype=np.float32).tobytes())
        augmentation = _augmentation(document).digest
        yield EncodedAdapter(
            sha256_hex(data), document.digest, augmentation, recipe.digest, layout.elements, data, TRAINING
        )


def _augmentation(document: Document) -> Augmentation:
    return Augmentation(document.digest, "0" * 64, "invented", "1")


def _index(home: Home, version: Version, documents: list[Document]) -> None:
    VersionIndex.build(home.index_folder(version), "en", documents)


if __name__ == "__main__":
    main()
