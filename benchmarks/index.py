"""How fast the index is: 100,000 invented passages built, changed and searched.

Run it with ``python -m benchmarks.index [--documents N]``. Words are syllables drawn by Zipf's law from a fixed seed,
with English stop words as the most frequent ones, so every run indexes the same text.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path

from benchmarks.machine import header
from registry.index import VersionIndex
from registry.index.analysis import STOP_WORDS
from registry.records import Document

WORDS = 60_000
PASSAGE_WORDS = 97
TITLE_WORDS = 3
CHANGES = 100
QUESTIONS = 1000
COLD_STARTS = 5
COLD_START = """
import sys
from pathlib import Path
from registry.index import VersionIndex
print(len(VersionIndex.open(Path(sys.argv[1])).search(sys.argv[2], 3)))
"""


class Invented:
    """An endless source of passages and of questions about them; the n-th is always the same."""

    def __init__(self) -> None:
        source = random.Random(0)
        syllables = [first + second for first in "bcdfghjklmnprstvz" for second in "aeiou"]
        endings = ["", "", "s", "n", "ing", "ed"]
        lengths = [1, 2, 2, 3, 3, 3, 4, 5]
        words = {
            "".join(source.choices(syllables, k=source.choice(lengths))) + source.choice(endings)
            for _ in range(3 * WORDS)
        }
        # Short words are frequent in every language.
        by_length = sorted(sorted(words), key=lambda word: len(word) + 3 * source.random())
        self._words = [*STOP_WORDS.split(), *by_length[:WORDS]]
        self._weights = list(accumulate(1 / (rank + 2.7) for rank in range(len(self._words))))

    def document(self, number: int) -> Document:
        words = random.Random(number).choices(self._words, cum_weights=self._weights, k=PASSAGE_WORDS + TITLE_WORDS)
        return Document.of(" ".join(words[:TITLE_WORDS]), " ".join(words[TITLE_WORDS:]))

    def documents(self, begin: int, end: int) -> Iterator[Document]:
        return map(self.document, range(begin, end))

    def question(self, number: int) -> str:
        """Ask with words that stand in the passage of that number.

        As long as people's questions: half have 9 words or more, one in ten 15, one in a hundred 25.
        """
        source = random.Random(-1 - number)
        words = self.document(number).text.split()
        return " ".join(source.sample(words, min(len(words), max(3, round(source.lognormvariate(2.15, 0.45))))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=100_000)
    count = parser.parse_args().documents
    print(header())
    invented = Invented()
    documents = list(invented.documents(0, count))
    megabytes = sum(len(document.title) + len(document.text) for document in documents) / 1e6
    print(f"{count:,} passages, {megabytes:.1f} MB of text")
    with tempfile.TemporaryDirectory(prefix="pragreg-benchmark-") as place:
        parent, child = Path(place) / "v1", Path(place) / "v2"
        begin = time.perf_counter()
        VersionIndex.build(parent, "en", documents)
        elapsed_seconds = time.perf_counter() - begin
        print(f"build            {elapsed_seconds:8.2f} s   {count / elapsed_seconds:,.0f} passages/s")
        print(f"size             {_size_bytes(parent) / 1e6:8.1f} MB")
        _derive(invented, documents, parent, child)
        asked = [invented.question(number % count) for number in range(QUESTIONS)]
        for name, folder in (("built", parent), ("derived", child)):
            _search(name, folder, asked)
        _cold_start(parent, asked[0])


def _derive(invented: Invented, documents: list[Document], parent: Path, child: Path) -> None:
    half = CHANGES // 2
    added = list(invented.documents(len(documents), len(documents) + half))
    removed = [document.digest for document in documents[:half]]
    before = _size_bytes(parent)
    begin = time.perf_counter()
    VersionIndex.derive(parent, child, added, removed)
    elapsed_seconds = time.perf_counter() - begin
    linked = sum(path.stat().st_size for path in child.iterdir() if path.stat().st_nlink > 1)
    print(f"derive           {elapsed_seconds:8.3f} s   {half} added, {half} removed, ", end="")
    print(f"{(_size_bytes(child) - linked) / 1e3:,.0f} kB new beside {before / 1e6:.1f} MB linked")


def _search(name: str, folder: Path, questions: list[str]) -> None:
    index = VersionIndex.open(folder)
    index.search_many(questions[:50], 3)
    times = [time.perf_counter()]
    for question in questions:
        index.search(question, 3)
        times.append(time.perf_counter())
    milliseconds = sorted(1000 * (after - before) for before, after in pairwise(times))
    p50, p99 = statistics.median(milliseconds), milliseconds[int(0.99 * len(milliseconds))]
    print(f"search {name:9} {p50:8.2f} ms  p50, {p99:.2f} ms p99, k = 3, {len(questions)} questions")


def _cold_start(folder: Path, question: str) -> None:
    seconds = []
    for _ in range(COLD_STARTS):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", COLD_START, str(folder), question], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - begin)
    print(
        f"cold start       {statistics.median(seconds):8.3f} s   new process to answer, {max(seconds):.3f} s at worst"
    )


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


if __name__ == "__main__":
    main()
