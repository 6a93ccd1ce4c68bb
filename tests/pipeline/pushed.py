"""What a repository holds, read with nothing but its own manifest and bytes, and compared with a catalog."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from registry.catalog.engine import Catalog, open_catalog
from registry.catalog.members import member_digests, members
from registry.catalog.references import resolve
from registry.digests import sha256_hex
from registry.hub.manifest.counts import check_counts
from registry.hub.manifest.members import Members, is_in
from registry.hub.manifest.records import read_records
from registry.hub.manifest.root import read_root
from registry.hub.manifest.shards import read_shard
from registry.hub.names import ROOT, pack_path, records_path, shard_path
from registry.pipeline.push.request import PushReport
from registry.published import FileRef, Member, MemberRecord, Root
from registry.settings import Home, open_home
from registry.store.packs import PackStore, described
from tests.hub.server import HubServer
from tests.upkeep.corpus_maker import ADAPTER_BYTES, CorpusMaker

REPOSITORY = "ada/handbook"
PACK_BYTES = 8 * ADAPTER_BYTES
Push = Callable[..., PushReport]
"""What the fixture ``send`` is."""


def takes(count: int, **changed: int) -> dict[int, int]:
    """Documents by number, all in their first form but those changed (by ``d3=1``)."""
    return {number: changed.get(f"d{number}", 0) for number in range(count)}


def copied(home: Home, folder: Path) -> Home:
    """A copy of a home, to go on by itself."""
    return open_home(shutil.copytree(home.path, folder))


def other_maker(home: Home, folder: Path) -> CorpusMaker:
    other = copied(home, folder)
    return CorpusMaker(other, open_catalog(other.catalog_url), PackStore(other.packs_url))


@dataclass(frozen=True)
class Held:
    """A repository at a commit: its root, all rows of its shards, the records that they name, and its packs' bytes."""

    root: Root
    rows: tuple[Member, ...]
    records: dict[tuple[str, str, str], MemberRecord]
    packs: dict[str, bytes]

    def pairs(self, number: int) -> dict[str, str]:
        """The documents of a version with their adapters."""
        return {row.document_digest: row.adapter_digest for row in self.rows if is_in(row, number)}

    def record(self, row: Member) -> MemberRecord:
        """The record that a row names."""
        return self.records[row.records.digest, row.document_digest, row.adapter_digest]

    def rows_of(self, adapter_digest: str) -> list[Member]:
        """All rows of an adapter, in order."""
        return [row for row in self.rows if row.adapter_digest == adapter_digest]

    def adapter(self, row: Member) -> bytes | None:
        """The bytes of a row's adapter."""
        if row.pack is None or row.offset is None:
            return None
        return self.packs[row.pack.digest][row.offset : row.offset + row.size_bytes]


def held(hub: HubServer, repository: str = REPOSITORY, commit: str | None = None) -> Held:
    """Read a repository, check all that its parts say of each other, and that no pack holds what no row names."""
    state = hub.state(repository, commit)
    root = read_root(hub.read(repository, ROOT, commit), repository=repository)

    def load(number: int) -> list[Member]:
        entry = root.shards[number]
        if entry is None:
            return []
        data = hub.read(repository, shard_path(entry.file.digest), commit)
        return read_shard(data, entry, number=number, bits=root.shard_bits)

    shards = Members(root.shard_bits, root.shards, load)
    check_counts(root, shards)
    rows = tuple(row for shard in shards.walk() for row in shard)
    # Of records and packs that older roots named, none is ever taken away; of shards only those of this root stay.
    found = {path for path in state.files if path.startswith("shards/")}
    assert found == {shard_path(entry.file.digest) for entry in root.shards if entry is not None}
    records = {
        (ref.digest, record.document_digest, record.adapter_digest): record
        for ref in {row.records for row in rows}
        for record in read_records(hub.read(repository, records_path(ref.digest), commit), ref)
    }
    packs = {ref.digest: _pack(hub, repository, ref, commit) for ref in {row.pack for row in rows} if ref is not None}
    named = {row.adapter_digest for row in rows if row.pack is not None}
    inside = [
        place.adapter_digest for digest, data in packs.items() for place in described(digest, _header(data)).adapters
    ]
    assert sorted(inside) == sorted(named)
    return Held(root, rows, records, packs)


def check(hub: HubServer, catalog: Catalog, corpus: str = "handbook", repository: str = REPOSITORY) -> Held:
    """Check that a repository has what the catalog has of the versions that both know, and return it."""
    there = held(hub, repository)
    for version in there.root.versions:
        with catalog.read() as session:
            here = resolve(session, f"{corpus}@sha256:{version.digest}")
            pairs = dict(member_digests(session, here))
            texts = {document.digest: document for document, _ in members(session, here)}
        assert there.pairs(version.number) == pairs
        assert (version.documents, version.recipe_digest) == (here.documents, here.recipe_digest)
        for row in (row for row in there.rows if is_in(row, version.number)):
            data = there.adapter(row)
            assert version.is_complete <= (data is not None)
            assert data is None or sha256_hex(data) == row.adapter_digest
            record = there.record(row)
            if there.root.has_text and version.is_complete:
                document = texts[row.document_digest]
                assert (record.title, record.text) == (document.title, document.text)
                assert record.payload is not None
    return there


def every_text(hub: HubServer, repository: str = REPOSITORY) -> Iterator[tuple[str, str]]:
    """Yield all that a repository's files say, as text and by path: bytes as they are, and all cells of Parquet."""
    state = hub.state(repository)
    for path in state.files:
        data = hub.read(repository, path)
        yield path, data.decode("latin-1")
        if path.endswith(".parquet"):
            yield path, repr(pq.read_table(io.BytesIO(data)).to_pydict())
    yield "commits", repr(state.commits)


def _pack(hub: HubServer, repository: str, ref: FileRef, commit: str | None) -> bytes:
    data = hub.read(repository, pack_path(ref.digest), commit)
    assert (sha256_hex(data), len(data)) == (ref.digest, ref.size_bytes)
    return data


def _header(data: bytes) -> bytes:
    return data[: 8 + int.from_bytes(data[:8], "little")]
