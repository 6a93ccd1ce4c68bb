from __future__ import annotations

import gzip
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from typing import IO

import pytest

from registry.documents import ReadOptions, read_documents
from registry.errors import InputError
from tests.documents.reader import Reader


def write_jsonl(file: IO[bytes], count: int) -> None:
    for number in range(count):
        file.write(b'{"id": %d, "title": "Lamp", "text": "Lamp number %d is lit."}\n' % (number, number))


def write_tsv(file: IO[bytes], count: int) -> None:
    file.write(b"id\ttext\ttitle\n")
    for number in range(count):
        file.write(b'%d\t"Lamp number ""%d"" is lit."\tLamp\n' % (number, number))


def write_text(file: IO[bytes], count: int) -> None:
    for number in range(count):
        file.write(b"The %d ship %b came to the old harbour of Orrinsay.\n" % (number, b"of-oil-and-rope-" * 60))


def peak_bytes(reader: Reader, name: str, write: Callable[[IO[bytes], int], None], count: int) -> int:
    with gzip.open(reader.folder / name, "wb", compresslevel=1) as file:
        write(file, count)
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_documents([name], ReadOptions())) > count / 100
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "write", "count"),
    [
        ("a.jsonl.gz", write_jsonl, 3_000),
        ("a.tsv.gz", write_tsv, 3_000),
        # Larger than what is kept in memory before a temporary file is used.
        ("a.txt.gz", write_text, 4_500),
    ],
)
def test_memory_does_not_grow_with_the_file(
    reader: Reader, name: str, write: Callable[[IO[bytes], int], None], count: int
) -> None:
    peak_bytes(reader, name, write, 10)  # whatever is imported or cached on first use
    small, large = peak_bytes(reader, name, write, count), peak_bytes(reader, name, write, 2 * count)
    assert large < small + 64 * 1024
    assert large < 12 * 1024 * 1024


@pytest.mark.slow
def test_memory_is_small_for_many_lines(reader: Reader) -> None:
    assert peak_bytes(reader, "a.jsonl.gz", write_jsonl, 200_000) < 4 * 1024 * 1024


def test_no_document_comes_before_all_has_been_read(reader: Reader) -> None:
    name = reader.write("a.jsonl", '{"text": "One."}\n' * 10_000 + "broken\n")
    with pytest.raises(InputError, match=r"a\.jsonl:10001"):
        next(read_documents([name], ReadOptions()))


def test_importing_the_reader_is_light() -> None:
    code = "import sys, registry.documents; print({'torch', 'bs4', 'markdown_it', 'fsspec'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
