from __future__ import annotations

import gzip
import json

import pytest

from registry.documents import ReadOptions, read_documents
from registry.errors import InputError
from registry.records import Skipped
from tests.documents.reader import Reader, shown

GOOD = b'{"id": "a", "text": "The lamp is green."}\n'
BROKEN_LINES = [
    (b'{"text": "half', "is not JSON"),
    (b"[1, 2]", "is not a JSON object"),
    (b"12", "is not a JSON object"),
    (b"{}", "has no text"),
    (b'{"title": "x"}', "'title'"),
    (b'{"text": "  \\n "}', "is empty"),
    (b'{"text": "\\u0000"}', "is empty"),
    (b'{"text": null}', "is null"),
    (b'{"text": 12}', "is a number"),
    (b'{"text": ["x"]}', "is a list"),
    (b'{"text": "x", "title": {}}', "is an object"),
    (b'{"text": "x", "id": true}', "is true or false"),
    (b'{"text": "x", "id": "\\ud800"}', "surrogate"),
    (b'{"text": "x \\udc00"}', "surrogate"),
    (b'{"text": "caf\xe9"}', r"is not UTF-8 \(byte 14 of the line\)"),
    (b'{"text": "x\0"}', "NUL"),
    (b"[" * 100_000, "is not JSON"),
    (b'{"text": "x", "n": ' + b"1" * 5000 + b"}", "is not JSON"),
    (b'{"text": "x", "title": NaN}', "is not JSON: NaN"),
]


@pytest.mark.parametrize(("line", "reason"), BROKEN_LINES)
def test_a_broken_line_is_an_error_with_file_and_line(reader: Reader, line: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=rf"^a\.jsonl:3: .*{reason}"):
        reader.read_content("a.jsonl", GOOD + b"\n" + line + b"\n" + GOOD)


@pytest.mark.parametrize(("line", "reason"), BROKEN_LINES)
def test_a_broken_line_can_be_skipped(reader: Reader, line: bytes, reason: str) -> None:
    documents, skipped = reader.read_skipping(reader.write("a.jsonl", GOOD + b"\n" + line + b"\n" + GOOD))
    assert [placed.place.source_uri for placed in documents] == ["a.jsonl#L1", "a.jsonl#L4"]
    assert [(skip.source_uri, skip.line) for skip in skipped] == [("a.jsonl", 3)]


@pytest.mark.parametrize(
    ("row", "line", "reason"),
    [
        (b"2,Lamp\n", 3, "has 2 columns, the header has 3"),
        (b"2,Lamp,Green, or not.\n", 3, "has 4 columns, the header has 3"),
        (b"2,Lamp,  \n", 3, "column 'text' is empty"),
        (b'2,"Lamp" oil,Green.\n', 3, "is not a row of a table"),
        (b"2,Lamp,caf\xe9\n", 3, "is not UTF-8"),
        (b"2,Lamp,x\0y\n", 3, "NUL"),
        (b'2,Lamp,"Two\nlines."\n3,Oil\n', 5, "has 2 columns"),
    ],
)
def test_a_broken_row_is_an_error_and_can_be_skipped(reader: Reader, row: bytes, line: int, reason: str) -> None:
    name = reader.write("a.csv", b"id,title,text\n1,One,First.\n" + row + b"9,Nine,Last.\n")
    with pytest.raises(InputError, match=rf"^a\.csv:{line}: .*{reason}"):
        reader.read(name)
    documents, skipped = reader.read_skipping(name)
    assert (documents[0].place.record_id, documents[-1].place.record_id) == ("1", "9")
    assert [(skip.source_uri, skip.line) for skip in skipped] == [("a.csv", line)]


def test_carriage_returns_alone_end_no_rows(reader: Reader) -> None:
    with pytest.raises(InputError, match=r"^a\.csv:1: .*a carriage return stands alone") as caught:
        reader.read_content("a.csv", "id,text\r1,One.\r")
    assert "tr " in str(caught.value.hint)


def test_a_quote_that_is_never_closed_is_an_error_where_it_opens(reader: Reader) -> None:
    with pytest.raises(InputError, match=r"^a\.tsv:3: is not a row") as caught:
        reader.read_content("a.tsv", 'id\ttext\n1\tOne.\n2\t"Two.\n3\tThree.\n')
    assert "doubled" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", b"", "a.txt: is empty"),
        ("a.jsonl", b"", "a.jsonl: is empty"),
        ("a.txt.gz", b"", "a.txt.gz: is empty"),
        ("a.txt.gz", gzip.compress(b""), "a.txt.gz: is empty"),
        ("a.txt", b" \n\t\n", "a.txt: holds no text"),
        ("a.jsonl", b"\n\n", "a.jsonl: holds no text"),
        ("a.csv", b"id,text\n", "a.csv: holds no text"),
        ("a.csv", b"\n\n", "a.csv:1: the header has no text"),
        ("a.md", b"---\ntitle: x\n---\n", "a.md: holds no text"),
        ("a.html", b"<title>x</title><script>y</script>", "a.html: holds no text"),
        ("a.txt", b"\x89PNG\r\n\x1a\n\0\0\0", "a.txt: is a binary file"),
        ("b.jsonl", b"\x89PNG\r\n\x1a\n\0\0\0", "b.jsonl: is a binary file"),
        ("a.txt", b"\0\0\0\0", "a.txt:1: holds a NUL byte"),
        ("photo.bin", b"\x89PNG\r\n\x1a\n\0\0\0", "photo.bin: is a binary file"),
        ("a.txt", "Grün".encode("utf-16"), "a.txt: is UTF-16, not UTF-8"),
        ("a.txt", b"One.\nTwo caf\xe9.\n", r"a.txt:2: is not UTF-8 \(byte 8 of the line\)"),
        ("a.md", b"# One\n\ncaf\xe9.\n", "a.md:3: is not UTF-8"),
        ("a.html", b"<p>\n\xff\n", "a.html:2: is not UTF-8"),
        ("a.txt", b"One.\n" * 20_000 + b"Two.\0\n", "a.txt:20001: holds a NUL byte"),
        ("a.txt.gz", b"not compressed", "a.txt.gz: is named as gzip but is not compressed"),
        ("a.txt.gz", gzip.compress(b"One.")[:-6], "a.txt.gz: cannot be read: Compressed file ended"),
        ("a.txt.gz", b"\x1f\x8b" + b"x" * 50, "a.txt.gz: cannot be read"),
    ],
)
def test_an_unusable_file_is_refused_or_skipped(reader: Reader, name: str, content: bytes, reason: str) -> None:
    reader.write(name, content)
    with pytest.raises(InputError, match=f"^{reason}"):
        reader.read(name)
    documents, skipped = reader.read_skipping(name, reader.write("good.jsonl", GOOD))
    assert shown(documents) == [("", "The lamp is green.")]
    assert [skip.source_uri for skip in skipped] == [name]


def test_a_text_with_an_invalid_end_is_left_out_whole(reader: Reader) -> None:
    reader.write("a.txt", b"The lamp is green. " * 100_000 + b"\n\xff")
    reader.write("b.txt", "The oil is old.")
    documents, skipped = reader.read_skipping("a.txt", "b.txt")
    assert shown(documents) == [("b", "The oil is old.")]
    assert [(skip.source_uri, skip.line) for skip in skipped] == [("a.txt", 2)]


def test_records_before_a_break_in_the_file_are_kept_when_skipping(reader: Reader) -> None:
    content = b"".join(
        json.dumps({"id": n, "text": f"Ship {n * 7919 % 10007} came."}).encode() + b"\n" for n in range(20_000)
    )
    name = reader.write("a.jsonl.gz", gzip.compress(content)[:60_000])
    documents, (skip,) = reader.read_skipping(name)
    assert len(documents) > 1000
    assert skip.line == len(documents) + 1
    with pytest.raises(InputError, match=rf"^a\.jsonl\.gz:{skip.line}: .*nothing after it was read"):
        reader.read(name)


def test_a_missing_source_can_be_skipped(reader: Reader) -> None:
    reader.write("a.jsonl", GOOD)
    (reader.folder / "empty").mkdir()
    documents, skipped = reader.read_skipping("nowhere.txt", "a.jsonl", "empty", "nosuch://x")
    assert len(documents) == 1
    assert skipped[0] == Skipped("nowhere.txt", None, "does not exist")
    assert [skip.source_uri for skip in skipped] == ["nowhere.txt", "empty", "nosuch://x"]


def test_when_all_is_skipped_it_is_an_error(reader: Reader) -> None:
    reader.write("a.jsonl", "broken\nbroken\n")
    with pytest.raises(InputError, match="2 invalid inputs were skipped"):
        reader.read_skipping("a.jsonl")


def test_skipping_needs_no_listener(reader: Reader) -> None:
    reader.write("a.jsonl", b"broken\n" + GOOD)
    assert len(list(read_documents(["a.jsonl"], ReadOptions(), skip_invalid=True))) == 1


def test_no_source_is_an_error(reader: Reader) -> None:
    with pytest.raises(InputError, match="no source was named"):
        reader.read()
