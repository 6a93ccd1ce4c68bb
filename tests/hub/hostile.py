"""What a hostile publisher can make of a valid repository: its parts taken apart, changed, and put together again.

A kind is a function that changes a ``Forgery``; ``kind`` notes what pragreg must say to it. ``seal`` makes everything
consistent again, with right digests and counts, so that only what the kind is about is wrong.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from registry.digests import json_digest, sha256_hex
from registry.hub.manifest import records as records_format
from registry.hub.manifest import shards as shards_format
from registry.hub.manifest.columns import write_table
from registry.hub.names import ROOT, pack_path, records_path, shard_path
from registry.store.headers import build_header
from registry.store.layout import read_layout

REPOSITORY = "ada/notes"
METADATA = {"pragreg": "pack-1"}

Row: TypeAlias = dict[str, Any]
Packed: TypeAlias = list[tuple[str, bytes]]
"""The adapters of a pack by the digests that they are said to have, in their order."""


class Forgery:
    """A repository in the hands of somebody else.

    ``files`` is what will be served; the rest are its parts: ``root`` as JSON values, ``rows`` of the manifest,
    ``records`` by the digest of their file, ``packs`` by theirs. ``entries`` are further files as the server's own
    commit takes them, ``arguments`` are given to `pragreg pull`, ``faults`` to the server.
    """

    def __init__(self, files: Mapping[str, bytes], before: Mapping[str, bytes], folder: Path) -> None:
        """Take apart what was published; ``before`` is what was an update ago, ``folder`` is free to be used."""
        self.files = dict(files)
        self.before, self.folder = before, folder
        self._published = dict(files)
        self.root: Row = json.loads(files[ROOT])
        self.entries: dict[str, Any] = {}
        self.arguments: list[str] = []
        self.faults: list[tuple[str, dict[str, Any]]] = []

    @cached_property
    def rows(self) -> list[Row]:
        return [row for data in self._in("shards").values() for row in read_rows(data)]

    @cached_property
    def records(self) -> dict[str, list[Row]]:
        return {digest: read_rows(data) for digest, data in self._in("records").items()}

    @cached_property
    def packs(self) -> dict[str, Packed]:
        return {digest: unpack(data) for digest, data in self._in("packs").items()}

    def _in(self, folder: str) -> dict[str, bytes]:
        return {_name(path): data for path, data in self._published.items() if path.startswith(f"{folder}/")}

    @property
    def shard(self) -> str:
        """The path of the only shard."""
        (path,) = (path for path in self.files if path.startswith("shards/"))
        return path

    def paths(self, folder: str) -> list[str]:
        """The paths of the files in a folder; packs in the order of the versions that brought them."""
        found = sorted(path for path in self.files if path.startswith(f"{folder}/"))
        if folder != "packs":
            return found
        age = {row["pack"].hex(): row["from_version"] for row in reversed(self.rows)}
        return sorted(found, key=lambda path: age[_name(path)])

    def newest(self) -> Row:
        """A row that came with the newest version."""
        return next(row for row in self.rows if row["from_version"] == len(self.root["versions"]))

    def record_of(self, row: Row) -> Row:
        """The record of a row's adapter."""
        return next(
            record
            for record in self.records[row["records"].hex()]
            if (record["document"], record["adapter"]) == (row["document"], row["adapter"])
        )

    def change_adapter(
        self, change: Callable[[bytes], bytes], row: Row | None = None, *, keep_digest: bool = False
    ) -> None:
        """Put other bytes in the place of an adapter, everywhere under their own digest, or under the old one."""
        row = row or self.newest()
        record, old = self.record_of(row), row["adapter"]
        packed = self.packs[row["pack"].hex()]
        at = next(at for at, (name, _) in enumerate(packed) if name == old.hex())
        data = change(packed[at][1])
        digest = old.hex() if keep_digest else sha256_hex(data)
        packed[at] = (digest, data)
        for one in (row, record):
            one["adapter"], one["size_bytes"] = bytes.fromhex(digest), len(data)

    def seal(self) -> None:
        """Write all parts into ``files``, with the digests, places and counts that they have now."""
        self.files = {path: data for path, data in self.files.items() if not path.startswith("packs/")}
        packs = {}
        for old, packed in self.packs.items():
            data = pack_of(packed)
            packs[old] = (sha256_hex(data), data)
            self.files[pack_path(packs[old][0])] = data
        for row in self.rows:
            if row["pack"] is not None:
                digest, data = packs[row["pack"].hex()]
                places = places_of(data)
                row |= {"pack": bytes.fromhex(digest), "pack_bytes": len(data)}
                row["offset"], row["size_bytes"] = places[row["adapter"].hex()]
        self.packs = {packs[old][0]: packed for old, packed in self.packs.items()}
        self.seal_records()

    def seal_records(self) -> None:
        """Write the records as they are now, and rows that name their files; packs stay as they lie."""
        self.files = {path: data for path, data in self.files.items() if not path.startswith("records/")}
        records = {}
        for old, rows in self.records.items():
            rows.sort(key=lambda row: (row["document"], row["adapter"]))
            data = write_rows(rows, records_format.SHAPE)
            digest = sha256_hex(data)
            records[digest], self.files[records_path(digest)] = rows, data
            for row in self.rows:
                if row["records"].hex() == old:
                    row |= {"records": bytes.fromhex(digest), "records_bytes": len(data)}
        self.records = records
        self.rows.sort(key=lambda row: (row["document"], row["from_version"]))
        self.seal_rows()

    def seal_rows(self) -> None:
        """Write the shard of ``rows`` as they are, and a root that counts them rightly."""
        for version in self.root["versions"]:
            number = version["number"]
            rows = [row for row in self.rows if is_in(row, number)]
            pairs = sorted((row["document"].hex(), row["adapter"].hex()) for row in rows)
            version["documents"], version["size_bytes"] = len(rows), sum(row["size_bytes"] for row in rows)
            text = "".join(f"{document} {adapter}\n" for document, adapter in pairs)
            version["digest"] = sha256_hex(f"{version['recipe_digest']}\n{text}".encode())
        packs = {row["pack"]: row["pack_bytes"] for row in self.rows if row["pack"]}
        self.root["documents"] = len({row["document"] for row in self.rows})
        self.root["adapters"] = len({(row["document"], row["adapter"]) for row in self.rows if row["pack"]})
        self.root["packs"], self.root["packs_bytes"] = len(packs), sum(packs.values())
        self.write_shard(write_rows(self.rows, shards_format.SHAPE), len(self.rows))

    def write_shard(self, data: bytes, rows: int) -> None:
        """Serve these bytes as the only shard, of so many rows."""
        self.files = {path: kept for path, kept in self.files.items() if not path.startswith("shards/")}
        digest = sha256_hex(data)
        self.files[shard_path(digest)] = data
        self.root["shards"] = [[digest, len(data), rows]]
        self.write_root()

    def write_records(self, data: bytes) -> None:
        """Serve these bytes as the records of the newest version."""
        old, digest = self.newest()["records"], sha256_hex(data)
        del self.files[records_path(old.hex())]
        self.files[records_path(digest)] = data
        for row in self.rows:
            if row["records"] == old:
                row |= {"records": bytes.fromhex(digest), "records_bytes": len(data)}
        self.seal_rows()

    def write_pack(self, old: str, data: bytes) -> None:
        """Serve these bytes in the place of the pack ``old``, with their digest and size in all rows."""
        del self.files[pack_path(old)]
        digest = sha256_hex(data)
        self.files[pack_path(digest)] = data
        for row in self.rows:
            if row["pack"] and row["pack"].hex() == old:
                row |= {"pack": bytes.fromhex(digest), "pack_bytes": len(data)}
        self.seal_rows()

    def change_recipe(self, **changes: object) -> None:
        """Let all versions be of another recipe, under its own digest."""
        ((old, settings),) = self.root["recipes"].items()
        settings = settings | changes
        digest = json_digest(settings)
        self.root["recipes"] = {digest: settings}
        for version in self.root["versions"]:
            version["recipe_digest"] = digest
        for rows in self.records.values():
            for record in rows:
                if record["recipe"].hex() == old:
                    record["recipe"] = bytes.fromhex(digest)
        self.seal()

    def write_root(self) -> None:
        """Serve the root as it is now."""
        self.files[ROOT] = json.dumps(self.root, sort_keys=True, ensure_ascii=False, indent=1).encode(
            errors="surrogatepass"
        )


@dataclass(frozen=True)
class Kind:
    """A way of being hostile: what it changes, and the exit status and the part of the message that answer it.

    ``of_update`` has it tried on a home that has the versions before, too; ``of_first`` on an empty one.
    """

    change: Callable[[Forgery], None]
    message: str
    status: int
    of_first: bool
    of_update: bool


KINDS: dict[str, Kind] = {}


def kind(
    message: str, *, status: int = 7, first: bool = True, update: bool = False
) -> Callable[[Callable[[Forgery], None]], Callable[[Forgery], None]]:
    """Note a function as a kind, by its name."""

    def note(change: Callable[[Forgery], None]) -> Callable[[Forgery], None]:
        assert change.__name__ not in KINDS
        KINDS[change.__name__] = Kind(change, message, status, first, update)
        return change

    return note


def is_in(row: Row, number: int) -> bool:
    """Whether a row holds for a version."""
    return bool(row["from_version"] <= number and (row["to_version"] is None or number < row["to_version"]))


def read_rows(data: bytes) -> list[Row]:
    """Return the rows of a Parquet file."""
    return list(pq.read_table(io.BytesIO(data)).to_pylist())


def write_rows(rows: list[Row], shape: records_format.Shape) -> bytes:
    """Return a Parquet file of any rows."""
    return write_table(pa.Table.from_pylist(rows, schema=shape.schema), shape)


def header_of(data: bytes) -> tuple[str, bytes]:
    """Return the JSON of a safetensors file's header without its padding, and the bytes behind the header."""
    end = 8 + int.from_bytes(data[:8], "little")
    return data[8:end].decode().rstrip(), data[end:]


def with_header(text: str, body: bytes, *, length: int | None = None) -> bytes:
    """Return a safetensors file with any header; ``length`` has it padded to so many bytes."""
    header = text.encode()
    header += b" " * ((-len(header) % 8) if length is None else length - len(header))
    return len(header).to_bytes(8, "little") + header + body


def pack_of(packed: Packed) -> bytes:
    """Return a pack of any bytes under any names."""
    header = build_header(METADATA, ((name, "U8", (len(data),)) for name, data in packed))
    return header + b"".join(data for _, data in packed)


def places_of(data: bytes) -> dict[str, tuple[int, int]]:
    """Return offset and size of every adapter of a pack."""
    text, body = header_of(data)
    begin = len(data) - len(body)
    entries = json.loads(text)
    entries.pop("__metadata__")
    return {
        name: (begin + one["data_offsets"][0], one["data_offsets"][1] - one["data_offsets"][0])
        for name, one in entries.items()
    }


def unpack(data: bytes) -> Packed:
    """Return the adapters of a pack."""
    return [(name, data[begin : begin + size]) for name, (begin, size) in places_of(data).items()]


def rebody(change: Callable[[Any, Any], None]) -> Callable[[bytes], bytes]:
    """Return a change of an adapter's numbers (a writable vector, and the layout)."""
    import numpy as np

    def changed(data: bytes) -> bytes:
        layout = read_layout(data)
        vector = np.frombuffer(layout.body(data), dtype="<f4").copy()
        change(vector, layout)
        return layout.serialise(vector.data)

    return changed


def reheader(change: Callable[[str], str]) -> Callable[[bytes], bytes]:
    """Return a change of an adapter's header that keeps its length."""

    def changed(data: bytes) -> bytes:
        text, body = header_of(data)
        other = change(text)
        assert other != text
        return with_header(other, body, length=len(data) - len(body) - 8)

    return changed


def flipped(data: bytes, at: int) -> bytes:
    """Return bytes of which one bit differs."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _name(path: str) -> str:
    return path.rpartition("/")[2].partition(".")[0]
