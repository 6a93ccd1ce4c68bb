"""How long ``pragreg search`` takes as a whole: `python -m benchmarks.search [--documents N]`.

A home with 100,000 invented passages in its catalog and its index; every run is a process of its own, as a person or a
script starts it. Nothing is trained: adapters are digests of numbers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.catalog import BASE, RECIPE, Table, build
from benchmarks.index import Invented
from benchmarks.machine import header
from registry.catalog import schema
from registry.catalog.engine import open_catalog
from registry.catalog.recipes import add_base_model, add_recipe
from registry.pipeline.opened import opened
from registry.pipeline.search import search
from registry.records import Place, PlacedDocument
from registry.settings import DEFAULT_CORPUS, Home, create_home

RUNS = 10
PRAGREG = [sys.executable, "-c", "from cli.main import main; main()"]


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
        build(catalog, DEFAULT_CORPUS, items, Table(), "build")
    with opened(home) as registry:
        registry.index(registry.version(DEFAULT_CORPUS))


def measure(home: Home, what: str, command: list[str], questions: list[str]) -> None:
    """Run ``command`` once with every question, and print the median and the longest time."""
    environment = {**os.environ, "PRAGREG_HOME": str(home.path)}
    seconds = []
    for question in questions:
        begin = time.perf_counter()
        subprocess.run([*command, question], env=environment, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - begin)
    print(f"| {what} | {statistics.median(seconds):.3f} s | {max(seconds):.3f} s at worst, {len(seconds)} runs |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    count = parser.parse_args().documents
    print(header())
    print("\n| what | time | |\n|---|---:|---|")
    invented = Invented()
    questions = [invented.question(number * 97 % count) for number in range(RUNS)]
    with tempfile.TemporaryDirectory(prefix="pragreg-benchmark-") as folder:
        home = create_home(Path(folder) / "home")
        fill(home, invented, count)
        measure(home, "python alone", [sys.executable, "-c", "pass"], questions)
        measure(home, "pragreg search", [*PRAGREG, "search"], questions)
        begin = time.perf_counter()
        for question in questions:
            search(home, DEFAULT_CORPUS, question, 5)
        print(f"| the same without a new process | {(time.perf_counter() - begin) / RUNS:.3f} s | |")


if __name__ == "__main__":
    main()
