"""Files of records: read back as written, with every digest computed anew."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from registry.digests import document_digest, sha256_hex
from registry.errors import IntegrityError
from registry.hub.manifest import record_checks, records
from registry.hub.manifest.records import in_files, read_records, write_records
from registry.published import AnsweredRequest, FileRef, MemberRecord
from tests.hub.manifests import digest, record


def read(data: bytes) -> list[MemberRecord]:
    """Read a file as if a shard named it."""
    return list(read_records(data, FileRef(sha256_hex(data), len(data))))


def in_order(found: Sequence[MemberRecord]) -> list[MemberRecord]:
    return sorted(found, key=lambda one: (one.document_digest, one.adapter_digest))


def test_records_are_read_back_in_order(tmp_path: Path) -> None:
    found = [record(number, pairs=number % 3, withheld=number % 5 == 0) for number in range(40)]
    found.append(replace(found[1], adapter_digest=digest("another"), requests=()))
    found.append(replace(found[2], adapter_digest=digest("third"), payload=None))  # its augmentation alone is withheld
    two = (AnsweredRequest(digest("b"), 1, 2, 3, 4.5), AnsweredRequest(digest("a"), 0, 0, 0, 0.0))
    found[3] = replace(found[3], requests=tuple(sorted(two, key=lambda one: one.request_digest)))
    data = write_records(found)
    assert read(data) == in_order(found)
    assert write_records(found[::-1]) == data
    path = tmp_path / "records.parquet"
    path.write_bytes(data)
    assert list(read_records(path, FileRef(sha256_hex(data), len(data)))) == in_order(found)


def test_requests_are_put_in_order() -> None:
    requests = tuple(AnsweredRequest(digest(number), 1, 2, 3, 4.5) for number in range(5))
    (found,) = read(write_records([replace(record(), requests=requests)]))
    assert sorted(requests, key=lambda one: one.request_digest) == list(found.requests)


def test_what_is_withheld_is_not_in_the_file() -> None:
    told, withheld = (write_records([record(number, withheld=hidden) for number in range(50)]) for hidden in (0, 1))
    assert len(withheld) < len(told)
    assert all((one.title, one.text, one.payload) == (None, None, None) for one in read(withheld))
    assert [one.document_digest for one in read(withheld)] == [one.document_digest for one in read(told)]


def test_a_record_costs_little_more_than_its_digests_and_what_its_text_compresses_to() -> None:
    draw = random.Random(5)
    found = [record(number, rng=draw) for number in range(1000)]
    hidden = [replace(one, title=None, text=None, payload=None) for one in found]
    assert len(write_records(hidden)) / len(found) < 130  # 96 of them are three digests
    texts = "".join(f"{one.title}{one.text}{one.payload}" for one in in_order(found))
    packed = pa.compress(texts.encode(), codec="zstd", asbytes=True)
    assert len(write_records(found)) - len(write_records(hidden)) < 1.1 * len(packed)


def test_what_nobody_could_read_back_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "SHAPE", replace(records.SHAPE, most_bytes=10_000))
    with pytest.raises(IntegrityError, match="was to be written is malformed: more than 10000 bytes"):
        write_records([record(number) for number in range(100)])
    assert len(read(write_records([record(1)]))) == 1


def test_files_hold_about_as_much_text_as_they_should(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "RECORDS_FILE_BYTES", 10_000)
    found = [record(number) for number in range(100)]
    files = list(in_files(found))
    assert [one for file in files for one in file] == found
    assert 5 < len(files) < 20
    assert list(in_files([])) == []


TRAINED = record().training
CHANGES: list[tuple[str, dict[str, Any], str]] = [
    ("another text", {"text": "Another text."}, "a text of another digest"),
    ("another title", {"title": "Another title"}, "a text of another digest"),
    ("a text that is not normalised", {"text": "e\u0301"}, "a text that is not normalised"),
    ("a NUL", {"text": "a\x00b"}, "a text that is not normalised"),
    ("a title without its text", {"text": None, "payload": None}, "a part of its text withheld"),
    ("an augmentation without its text", {"title": None, "text": None}, "a part of its text withheld"),
    ("another payload", {"payload": {"rewrites": ["x"], "qa": []}, "pairs": 0}, "an augmentation of another digest"),
    ("another generator", {"generator": "gpt"}, "an augmentation of another digest"),
    ("another count of pairs", {"pairs": 3}, "other counts of rewrites and pairs"),
    ("a payload of other parts", {"payload": {"rewrites": []}}, "a payload that is none"),
    ("a payload that is a list", {"payload": []}, "a payload that is none"),
    ("rewrites that are numbers", {"payload": {"rewrites": [1], "qa": []}}, "rewrites that are no texts"),
    ("a pair with a field more", {"payload": {"rewrites": [], "qa": [{"question": "a", "answer": "b"}]}}, "a pair"),
    (
        "a pair of numbers",
        {"payload": {"rewrites": [], "qa": [{"question": 1, "answer": "b", "full_answer": None}]}},
        "a pair that is no texts",
    ),
    ("requests out of order", {"requests": record().requests * 2}, "requests that are not in order"),
    ("a negative count", {"requests": (AnsweredRequest("a" * 64, -1, 0, 0, 0.0),)}, "a count out of range"),
    ("a negative time", {"requests": (AnsweredRequest("a" * 64, 0, 0, 0, -1.0),)}, "a time that is none"),
    ("an enormous count", {"training": replace(TRAINED, tokens=2**53)}, "a count out of range"),
    ("no bytes", {"size_bytes": 0}, "no bytes"),
    ("no parameters", {"parameters": 0}, "no parameters"),
    ("no group", {"training": replace(TRAINED, group_size=0)}, "no group"),
    ("a loss of NaN", {"training": replace(TRAINED, first_loss=float("nan"))}, "a loss that is not finite"),
    ("a loss without end", {"training": replace(TRAINED, last_loss=float("inf"))}, "a loss that is not finite"),
    ("no time", {"training": replace(TRAINED, elapsed_seconds=float("nan"))}, "a time that is none"),
    ("control characters in a device", {"training": replace(TRAINED, device="cpu\x1b[2J")}, "a name with control"),
    ("a long generator", {"generator": "x" * 300, "payload": None}, "a name with control"),
    ("control characters in a kind", {"kind": "lora\n"}, "a name with control"),
    ("a date before all dates", {"created_at": datetime(1960, 1, 1, tzinfo=UTC)}, "a date before 1970"),
]


@pytest.mark.parametrize(("changes", "says"), [case[1:] for case in CHANGES], ids=[case[0] for case in CHANGES])
def test_records_that_are_not_what_they_say_are_neither_written_nor_read(
    changes: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [record(1), replace(record(2), **changes), record(3)]
    with pytest.raises(IntegrityError, match=says):
        write_records(found)
    if None in (changes.get("text", ""), changes.get("title", "")):
        return  # a file has no words for that
    with monkeypatch.context() as careless:
        careless.setattr(records, "check_record", lambda *_, **__: None)
        data = write_records(found)
    with pytest.raises(IntegrityError, match=r"^the file of records [0-9a-f]{12} is malformed: ") as caught:
        read(data)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{}", "a content that is none"),
        ('{"title": "a", "text": "b", "payload": null, "x": 1}', "a content that is none"),
        ('{"title": "a", "text": null, "payload": null}', "a title or text that is none"),
        ('{"title": "a", "title": "a", "text": "b", "payload": null}', "a key twice"),
        ('{"title": "a", "text": "b", "payload": {"rewrites": [NaN], "qa": []}}', "NaN"),
        ('{"title": "\\ud800", "text": "b", "payload": null}', "surrogates not allowed"),
        ("[" * 5000, "too deep"),
        ("", "Expecting value"),
    ],
)
def test_contents_that_are_no_texts_are_refused(content: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as careless:
        careless.setattr(records, "_content_text", lambda _: content)
        data = write_records([record()])
    with pytest.raises(IntegrityError, match=says):
        read(data)


def test_a_record_twice_or_out_of_order_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(IntegrityError, match="not in order"):
        write_records([record(1), record(1)])
    with monkeypatch.context() as careless:
        careless.setattr(records, "check_record", lambda *_, **__: None)
        careless.setattr(records, "record_key", lambda one: -one.created_at.microsecond)
        data = write_records([record(number) for number in range(5)])
    with pytest.raises(IntegrityError, match="not in order"):
        read(data)


def test_the_first_record_comes_before_the_last_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as careless:
        careless.setattr(records, "check_record", lambda *_, **__: None)
        data = write_records([record(1), replace(record(2), kind="\n")])
    found = read_records(data, FileRef(sha256_hex(data), len(data)))
    with pytest.raises(IntegrityError, match="a name with control"):
        assert len(list(found)) < 2


def test_a_file_that_is_not_the_one_that_is_named_is_refused(tmp_path: Path) -> None:
    data = write_records([record()])
    ref = FileRef(sha256_hex(data), len(data))
    path = tmp_path / "records.parquet"
    for other in (data[:-1], data + b"x", data[:-1] + b"X"):
        path.write_bytes(other)
        with pytest.raises(IntegrityError, match="bytes of another digest"):
            next(read_records(other, ref))
        with pytest.raises(IntegrityError, match="bytes of another digest"):
            next(read_records(path, ref))


def test_digests_of_texts_are_those_of_documents() -> None:
    one = record()
    assert one.title is not None
    assert one.text is not None
    assert document_digest(one.title, one.text) == one.document_digest
    assert record_checks.record_key(one) == (one.document_digest, one.adapter_digest)
