"""Reading a pack from its first byte to its last, and saying what of it is as it was written.

Every byte is hashed once, as part of its adapter. Together with the header that proves the whole file: the header must
be, byte for byte, the one that is written for the adapters that it names, and it must name just those that the table
of the catalog names, so the file is the one that the table's writer hashed. Wherever one of these does not hold, the
file is read again and hashed whole: then its own digest tells damage in the file (it does not have that digest) from a
table or a name that is wrong (it has). What would not be found is a file under another's digest whose header, adapters
and table all agree; there the order of writing stands for it: a file gets its name from its hash, and then a table.

An adapter that has its digest is also looked into: its header as PEFT writes it, finite numbers, a B that is not zero.

Held in memory are a chunk and one adapter. What the machine's page cache holds is not read from the disk again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from registry.digests import sha256_hex
from registry.errors import IntegrityError, StorageError
from registry.records import AdapterLocation, Pack
from registry.store.headers import LENGTH_BYTES, header_size
from registry.store.layout import AdapterLayout, check_body, read_layout
from registry.store.packs import MAX_HEADER_BYTES, PackStore, described, header_of


@dataclass(slots=True)
class PackScan:
    """What reading a pack showed.

    ``problem`` says in words why the file is not what its digest says, None where it is; ``is_confined`` that its size
    and header are right, so that only adapters are damaged. ``held`` is what its own header says, None where that
    cannot be read. ``damaged`` are adapters of the table whose bytes are not there whole. ``misnamed`` are adapters in
    a pack that has its digest, whose bytes do not have theirs: it was written so. ``unlike`` are adapters with another
    header than PEFT writes, ``broken`` those without finite numbers or effect, with what is wrong. ``layouts`` are
    those of all but the unlike.
    """

    pack_digest: str
    bytes_read: int = 0
    problem: str | None = None
    is_confined: bool = False
    held: Pack | None = None
    damaged: tuple[str, ...] = ()
    misnamed: tuple[str, ...] = ()
    unlike: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    layouts: dict[str, AdapterLayout] = field(default_factory=dict)


def read_header(packs: PackStore, pack_digest: str) -> tuple[Pack, bytes]:
    """Return what a pack's header says, and its bytes; reads the first chunk only, in most cases.

    Raises:
        IntegrityError: the pack is missing, or its header is malformed or cut off.
        StorageError: it cannot be read.
    """
    return _read_header(_Reader(packs.stream(pack_digest)), pack_digest)


def scan(packs: PackStore, pack_digest: str, table: Sequence[AdapterLocation]) -> PackScan:
    """Read a whole pack; ``table`` is what the catalog says that it holds.

    Raises:
        IntegrityError: the pack is missing.
    """
    found = PackScan(pack_digest)
    reader = _Reader(packs.stream(pack_digest))
    try:
        reader.fill()  # a missing pack shows here, a malformed one only in what follows
        try:
            pack, header = _read_header(reader, pack_digest)
        except IntegrityError as error:
            found.problem = error.message
        else:
            found.held = pack
            wrong = [place.adapter_digest for place in pack.adapters if not _look(found, place, reader)]
            surplus = reader.skip()
            is_written = header == header_of(pack) and not surplus and reader.bytes_read == pack.size_bytes
            if is_written and not wrong and set(table) == set(pack.adapters):
                return found
            if _file_digest(packs, found) == pack_digest:
                found.misnamed = tuple(wrong)
                return found
            found.is_confined = is_written and set(table) <= set(pack.adapters)
            found.problem = _problem(pack, reader.bytes_read, wrong)
        found.damaged = _not_whole(packs, found, table)
    except StorageError as error:
        intact = found.layouts.keys() | found.unlike.keys() | found.broken.keys()
        found.problem, found.is_confined = error.message, False
        found.damaged = tuple(place.adapter_digest for place in table if place.adapter_digest not in intact)
    finally:
        found.bytes_read += reader.bytes_read
    return found


def _read_header(reader: _Reader, pack_digest: str) -> tuple[Pack, bytes]:
    start = bytes(reader.take(LENGTH_BYTES))
    size_bytes = header_size(start, limit=MAX_HEADER_BYTES, what="the pack")
    data = start + bytes(reader.take(size_bytes - len(start)))
    return described(pack_digest, data), data


def _look(found: PackScan, place: AdapterLocation, reader: _Reader) -> bool:
    """Look into the adapter that comes next, and return whether its bytes have its digest."""
    digest = place.adapter_digest
    data = reader.take(place.size_bytes)
    if sha256_hex(data) != digest:
        return False
    try:
        layout = read_layout(data)
    except IntegrityError as error:
        found.unlike[digest] = error.message
        return True
    try:
        check_body(layout, layout.body(data))
    except IntegrityError as error:
        found.broken[digest] = error.message
    found.layouts[digest] = layout
    return True


def _file_digest(packs: PackStore, found: PackScan) -> str:
    digest = hashlib.sha256()
    for chunk in packs.stream(found.pack_digest):
        digest.update(chunk)
        found.bytes_read += len(chunk)
    return digest.hexdigest()


def _problem(pack: Pack, size_bytes: int, wrong: Sequence[str]) -> str:
    if size_bytes != pack.size_bytes:
        how = "is cut off" if size_bytes < pack.size_bytes else "goes on behind its end"
        return f"the file {how}: it has {size_bytes} bytes, its header describes {pack.size_bytes}"
    if wrong:
        return f"{len(wrong)} of its {len(pack.adapters)} adapters have other bytes than their digests say"
    return "the file does not have its digest: it is another pack's, or its header was altered"


def _not_whole(packs: PackStore, found: PackScan, table: Sequence[AdapterLocation]) -> tuple[str, ...]:
    """Return the adapters that do not lie where the table says, whatever the pack's own header says."""
    reader = _Reader(packs.stream(found.pack_digest))
    missing = []
    try:
        for place in sorted(table, key=lambda place: place.offset):
            reader.skip(place.offset - reader.bytes_read)
            is_next = reader.bytes_read == place.offset
            if not is_next or sha256_hex(reader.take(place.size_bytes)) != place.adapter_digest:
                missing.append(place.adapter_digest)
    finally:
        found.bytes_read += reader.bytes_read
    return tuple(missing)


class _Reader:
    """Takes pieces off a stream of chunks; without a copy where a piece lies within one chunk."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")
        self.bytes_read = 0
        """How far the pieces go that were taken or skipped."""

    def fill(self) -> bool:
        """Have the next chunk at hand, and return whether there is any byte left."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._rest = memoryview(chunk)
        return True

    def take(self, size_bytes: int) -> memoryview:
        """Return the next bytes, fewer where the stream ends."""
        first = self._next(size_bytes)
        if len(first) == size_bytes:
            return first
        parts = [first]
        missing = size_bytes - len(first)
        while missing and self.fill():
            parts.append(self._next(missing))
            missing -= len(parts[-1])
        return memoryview(b"".join(parts))

    def skip(self, size_bytes: int | None = None) -> int:
        """Pass over the next bytes, or all that are left; return how many there were."""
        skipped = 0
        while (size_bytes is None or skipped < size_bytes) and self.fill():
            skipped += len(self._next(len(self._rest) if size_bytes is None else size_bytes - skipped))
        return skipped

    def _next(self, size_bytes: int) -> memoryview:
        piece, self._rest = self._rest[:size_bytes], self._rest[size_bytes:]
        self.bytes_read += len(piece)
        return piece
