"""What arrives from a repository, checked before anything of the registry is touched.

Bytes are hashed before they are looked into. A pack is checked while it is downloaded: its header must be, byte for
byte, the one that is written for the adapters that the manifest names, so names, order and offsets are none of the
sender's choosing; each adapter must have its digest, the header that its recipe's shapes give, finite numbers and a B
that is not zero. Held in memory are the header and one adapter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from registry.digests import sha256_hex, short
from registry.errors import IntegrityError, StorageError
from registry.published import FileRef, Member
from registry.records import AdapterLocation, Pack
from registry.store.headers import LENGTH_BYTES, Bytes, header_size, parse_header
from registry.store.layout import AdapterLayout, check_body, read_layout
from registry.store.packs import MAX_HEADER_BYTES, header_of

LayoutOf = Callable[[str], AdapterLayout]
"""The layout that an adapter must have, by the adapter's digest: that of its recipe on the base model."""

CHUNK_BYTES = 1024 * 1024
_EXPLAINED_BYTES = 1024 * 1024
"""A wrong header that is at most so much longer than the right one is read, to say what is wrong with it."""


def places_in(pack: FileRef, members: Iterable[Member]) -> list[AdapterLocation]:
    """Return where members say that adapters lie in ``pack``, in the order in which they lie, each once."""
    found = {
        AdapterLocation(member.adapter_digest, pack.digest, member.offset, member.size_bytes)
        for member in members
        if member.pack == pack and member.offset is not None
    }
    return sorted(found, key=lambda place: (place.offset, place.size_bytes, place.adapter_digest))


def check_places(pack: FileRef, places: Sequence[AdapterLocation]) -> bytes:
    """Check that a pack can be as a manifest says, and return the header that it must have.

    Raises:
        IntegrityError: no pack can: an adapter is there twice, they overlap, leave gaps, or do not add up to its size.
    """
    what = f"the pack {short(pack.digest)}"
    if not places:
        raise IntegrityError(f"{what} holds no adapter that the manifest names")
    if len({place.adapter_digest for place in places}) < len(places):
        raise IntegrityError(f"the manifest says of {what} that an adapter lies in it twice")
    header = header_of(Pack(pack.digest, pack.size_bytes, tuple(places)))
    if len(header) > MAX_HEADER_BYTES:
        raise IntegrityError(f"{what} would have a header of {len(header)} bytes, which is too much")
    position = len(header)
    for place in places:
        if place.offset != position:
            raise IntegrityError(
                f"the manifest says that the adapter {short(place.adapter_digest)} lies at {place.offset} in {what}, "
                f"where it would {'overlap another' if place.offset < position else 'leave a gap'}"
            )
        position += place.size_bytes
    if position != pack.size_bytes:
        raise IntegrityError(f"the manifest gives {what} {pack.size_bytes} bytes; its adapters make {position}")
    return header


class PackArrival:
    """A pack on its way: give it the file's bytes in their order as they come, then ask for the pack.

    The digest of the file itself is left to whoever downloads it; all that is in it is checked here. Not for several
    threads at once, and of no use any more after an error.
    """

    def __init__(self, pack: FileRef, places: Sequence[AdapterLocation], layout_of: LayoutOf) -> None:
        """Expect just these adapters (see ``places_in``) in a file of this digest and size.

        Raises:
            IntegrityError: no pack can be so: an adapter is there twice, they overlap, leave gaps, have another size
                than their recipe's, or do not add up to the file's size.
        """
        self._what = f"the pack {short(pack.digest)}"
        self._pack = Pack(pack.digest, pack.size_bytes, tuple(places))
        self._layout_of = layout_of
        self._header = self._expected_header()
        self._next = -2
        """Which adapter comes next; before the first come the length of the header and the header."""
        self._wanted = LENGTH_BYTES
        self._filled = 0
        self._buffer = bytearray(LENGTH_BYTES)

    def feed(self, chunk: Bytes) -> None:
        """Take the next bytes.

        Raises:
            IntegrityError: they are not those of the pack; the message names the adapter and what is wrong with it.
        """
        rest = memoryview(chunk).cast("B")
        while rest:
            if not self._wanted:
                raise IntegrityError(f"{self._what} goes on behind its {self._pack.size_bytes} bytes")
            if not self._filled and len(rest) >= self._wanted:
                piece, rest = rest[: self._wanted], rest[self._wanted :]  # all at hand: no copy
                self._take(piece)
                continue
            taken = min(len(rest), self._wanted - self._filled)
            self._buffer[self._filled : self._filled + taken] = rest[:taken]
            self._filled, rest = self._filled + taken, rest[taken:]
            if self._filled == self._wanted:
                self._filled = 0
                self._take(memoryview(self._buffer)[: self._wanted])

    def finish(self) -> Pack:
        """Return the pack, now that all bytes were fed.

        Raises:
            IntegrityError: the file ends too early.
        """
        if self._wanted:
            raise IntegrityError(f"{self._what} is cut off: it has not the {self._pack.size_bytes} bytes announced")
        return self._pack

    def _take(self, piece: memoryview) -> None:
        """Check the piece that was waited for, and wait for the next."""
        if self._next == -2:
            self._wanted = self._length_of_header(piece)
            # The length is part of what is compared.
            self._buffer, self._filled = bytearray(piece).ljust(self._wanted, b"\0"), LENGTH_BYTES
        elif self._next == -1:
            self._check_header(bytes(piece))
        else:
            digest = self._pack.adapters[self._next].adapter_digest
            check_adapter(piece, digest, self._layout_of(digest))
        self._next += 1
        if self._next >= 0:
            self._expect_adapter()

    def _expect_adapter(self) -> None:
        is_last = self._next == len(self._pack.adapters)
        self._wanted = 0 if is_last else self._pack.adapters[self._next].size_bytes
        if len(self._buffer) < self._wanted:
            self._buffer = bytearray(self._wanted)

    def _expected_header(self) -> bytes:
        """Return the header of a pack of these adapters, after checking that they can lie as they are said to."""
        for place in self._pack.adapters:
            size_bytes = self._layout_of(place.adapter_digest).size_bytes
            if place.size_bytes != size_bytes:
                raise IntegrityError(
                    f"the manifest gives the adapter {short(place.adapter_digest)} {place.size_bytes} bytes; "
                    f"those of its recipe have {size_bytes}"
                )
        return check_places(FileRef(self._pack.digest, self._pack.size_bytes), self._pack.adapters)

    def _length_of_header(self, start: memoryview) -> int:
        """Return how long the header that came claims to be; only one that is worth reading is read."""
        claimed = header_size(start, limit=MAX_HEADER_BYTES, what=self._what)
        if claimed > len(self._header) + _EXPLAINED_BYTES:
            raise self._foreign_header(f"it has {claimed} bytes, and theirs {len(self._header)}")
        return claimed

    def _check_header(self, header: bytes) -> None:
        if header == self._header:
            return
        parsed = parse_header(header, what=self._what)
        if parsed.metadata != parse_header(self._header, what=self._what).metadata:
            raise self._foreign_header("it has other metadata")
        missing = {place.adapter_digest for place in self._pack.adapters} ^ {entry.name for entry in parsed.entries}
        if missing:
            raise self._foreign_header(f"only one of the two has {min(missing)[:64]!r}")
        raise self._foreign_header("it is written in another way")

    def _foreign_header(self, why: str) -> IntegrityError:
        return IntegrityError(f"{self._what} has not the header of the adapters that the manifest names: {why}")


def check_pack(
    data: Iterable[Bytes] | Path, pack: FileRef, places: Sequence[AdapterLocation], layout_of: LayoutOf
) -> Pack:
    """Check a whole pack, in chunks or as a file, its own digest too; see ``PackArrival``.

    Raises:
        IntegrityError: something is wrong with it.
        StorageError: the file cannot be read.
    """
    arrival = PackArrival(pack, places, layout_of)
    digest = hashlib.sha256()
    for chunk in _chunks(data) if isinstance(data, Path) else data:
        digest.update(chunk)
        arrival.feed(chunk)
    arrived = arrival.finish()
    if digest.hexdigest() != pack.digest:
        raise IntegrityError(f"the pack {short(pack.digest)} arrived with bytes of another digest")
    return arrived


def check_adapter(data: Bytes, digest: str, layout: AdapterLayout) -> None:
    """Check the bytes of a single adapter, as a range of a pack brings them.

    Raises:
        IntegrityError: they have another digest or size, another header than the layout's, a number that is not
            finite, or a B that is all zero.
    """
    if sha256_hex(data) != digest:
        raise IntegrityError(f"the adapter {short(digest)} arrived with bytes of another digest")
    try:
        check_body(layout, _body(layout, data))
    except IntegrityError as error:
        raise IntegrityError(f"the adapter {short(digest)} is refused: {error.message}") from error


def _body(layout: AdapterLayout, data: Bytes) -> memoryview:
    try:
        return layout.body(data)
    except IntegrityError:
        # Says more exactly what is wrong where it is: a key twice, a tensor that is no LoRA weight, another dtype.
        found = read_layout(data)
        if found.rank != layout.rank or found.dtype != layout.dtype:
            raise IntegrityError(
                f"it has rank {found.rank} in {found.dtype}, its recipe says {layout.rank} in {layout.dtype}"
            ) from None
        raise IntegrityError("its modules or shapes are not those of its recipe on the base model") from None


def _chunks(path: Path) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(CHUNK_BYTES))
    try:
        with path.open("rb", buffering=0) as file:
            while size := file.readinto(buffer):
                yield buffer[:size]
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error
