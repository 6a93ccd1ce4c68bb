"""Shards of the manifest: small, the same every time, read back, and refused where they are not as they must be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from registry.digests import sha256_hex
from registry.errors import IntegrityError
from registry.hub.manifest.shards import bits_for, read_shard, shard_number, write_shard
from registry.published import FileRef, Member, ShardEntry
from registry.records import Place
from tests.hub.manifests import digest, member, members


def read(data: bytes, rows: int, *, number: int = 0, bits: int = 0) -> list[Member]:
    """Read a shard as if the root named it."""
    return read_shard(data, ShardEntry(FileRef(sha256_hex(data), len(data)), rows), number=number, bits=bits)


def test_rows_of_every_kind_are_read_back() -> None:
    document = digest("document", 1)
    rows = [
        member(1, to_version=3, line=digest("first"), shares_line=True),
        member(1, adapter_digest=digest("another"), from_version=3, to_version=4, pack=None, offset=None),
        member(1, from_version=7, places=()),
        member(2, places=(Place("a.txt", 0), Place("a.txt", 7, "ü"), Place("https://x.org/b?c", 2**40, ""))),
        member(3, records=FileRef(digest("other records"), 9), pack=FileRef(digest("other pack"), 10**11)),
    ]
    rows.sort(key=lambda row: (row.document_digest, row.from_version))
    data, entry = write_shard(rows)
    assert read_shard(data, entry, number=0, bits=0) == rows
    assert entry == ShardEntry(FileRef(sha256_hex(data), len(data)), 5)
    assert read(data, 5)[0].line == (digest("first") if rows[0].document_digest == document else rows[0].line)


def test_the_same_rows_give_the_same_bytes() -> None:
    rows = members(300)
    assert write_shard(rows)[0] == write_shard(list(rows))[0]


def test_a_row_costs_little_more_than_its_two_digests() -> None:
    rows = members(2000)
    data, _ = write_shard(rows)
    assert 64 < len(data) / len(rows) < 75


def test_shards_are_by_the_first_bits_of_documents() -> None:
    assert [shard_number("abcd" + "0" * 60, bits) for bits in (0, 1, 4, 8, 12)] == [0, 1, 0xA, 0xAB, 0xABC]
    assert [bits_for(rows) for rows in (0, 1, 2048, 2049, 4096, 10_000, 100_000, 8_388_608, 21_000_000)] == [
        *(0, 0, 0, 1, 1, 3, 6, 12, 12)
    ]


def test_a_shard_with_documents_of_another_is_refused() -> None:
    rows = [row for row in members(20) if shard_number(row.document_digest, 1) == 1]
    data, entry = write_shard(rows)
    assert read_shard(data, entry, number=1, bits=1) == rows
    with pytest.raises(IntegrityError, match="of another shard"):
        read_shard(data, entry, number=0, bits=1)


ROWS: list[tuple[str, Callable[[list[Member]], None], str]] = []


def rows(name: str, says: str) -> Callable[[Callable[[list[Member]], None]], None]:
    def keep(change: Callable[[list[Member]], None]) -> None:
        ROWS.append((name, change, says))

    return keep


def _changed(name: str, says: str, **changes: Any) -> None:
    def change(found: list[Member]) -> None:
        found[2] = replace(found[2], **changes)

    ROWS.append((name, change, says))


PACK = FileRef(digest("pack"), 10**9)
_changed("no version", "versions from 0", from_version=0)
_changed("no versions between", "versions from 1 to 1", to_version=1)
_changed("an adapter of no bytes", "an adapter of 0 bytes", size_bytes=0)
_changed("an adapter of negative size", "an adapter of -1 bytes", size_bytes=-1)
_changed("an enormous adapter", "an adapter of", size_bytes=2**62)
_changed("a pack without an offset", "without an offset", offset=None)
_changed("an offset without a pack", "without a pack", pack=None)
_changed("an offset before the header", "does not lie in its pack", offset=0)
_changed("an offset beyond the pack", "does not lie in its pack", offset=10**9)
_changed("a pack of no bytes", "a pack of 0 bytes", pack=FileRef(digest("pack"), 0))
_changed("an enormous pack", "a pack of", pack=FileRef(digest("pack"), 2**62))
_changed("an enormous file of records", "a file of records", records=FileRef(digest("r"), 2**40))
_changed("control characters in a source", "a source with control", places=(Place("a\x1bb", 0),))
_changed("bidi characters in a source", "a source with control", places=(Place("a\u202eb", 0),))
_changed("a source of no name", "a source with control", places=(Place("", 0),))
_changed("a source that is too long", "a source with control", places=(Place("x" * 5000, 0),))
_changed("control characters in a record id", "a record id with control", places=(Place("a", 0, "\x00"),))
_changed("a place before the first", "a place -1", places=(Place("a", -1),))
_changed("a place twice", "places that are not in order", places=(Place("a", 1), Place("a", 1, "x")))
_changed("places out of order", "places that are not in order", places=(Place("b", 1), Place("a", 2)))


@rows("documents out of order", "a row that is not in order")
def _(found: list[Member]) -> None:
    found[1], found[2] = found[2], found[1]


@rows("a row twice", "two rows for version 1")
def _(found: list[Member]) -> None:
    found.insert(2, found[2])


@rows("ranges that overlap", "two rows for version 3")
def _(found: list[Member]) -> None:
    found[2:3] = [replace(found[2], to_version=4), replace(found[2], from_version=3)]


@rows("ranges out of order", "two rows for version 1")
def _(found: list[Member]) -> None:
    found[2:3] = [replace(found[2], from_version=3, to_version=5), replace(found[2], to_version=2)]


@pytest.mark.parametrize(("change", "says"), [case[1:] for case in ROWS], ids=[case[0] for case in ROWS])
def test_rows_that_contradict_themselves_are_neither_written_nor_read(
    change: Callable[[list[Member]], None], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = members(5)
    change(found)
    with pytest.raises(IntegrityError, match="was to be written is malformed") as caught:
        write_shard(found)
    assert says in caught.value.message
    with monkeypatch.context() as careless:
        careless.setattr("registry.hub.manifest.shards._check_rows", lambda *_, **__: None)
        data, _ = write_shard(found)
    with pytest.raises(IntegrityError, match=r"^the shard [0-9a-f]{12} of the manifest is malformed: ") as caught:
        read(data, len(found))
    assert says in caught.value.message
    assert caught.value.message.isprintable()


def test_a_shard_that_is_not_what_the_root_names_is_refused() -> None:
    data, entry = write_shard(members(5))
    with pytest.raises(IntegrityError, match="bytes of another digest"):
        read_shard(data[:-1] + b"X", entry, number=0, bits=0)
    with pytest.raises(IntegrityError, match="bytes of another digest"):
        read_shard(data, replace(entry, file=FileRef(entry.file.digest, len(data) + 1)), number=0, bits=0)
    with pytest.raises(IntegrityError, match="malformed: 5 rows instead of 6"):
        read(data, 6)
