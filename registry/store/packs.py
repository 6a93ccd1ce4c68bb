"""Packs: many adapters in one immutable safetensors file, named by the sha256 of the whole file.

A pack holds one 1-D U8 tensor per adapter; the tensor's name is the adapter's digest and its bytes are that adapter's
own ``adapter_model.safetensors``. So one ranged read loads an adapter, and the table of packs can be rebuilt from the
files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.digests import sha256_hex, short
from registry.errors import IntegrityError
from registry.records import AdapterLocation, Pack
from registry.store.files import PackFiles, PartialFile, StoredPack
from registry.store.headers import LENGTH_BYTES, Bytes, build_header, header_size, parse_header
from registry.store.local import LocalPackFiles

MAX_HEADER_BYTES = 32 * 1024 * 1024
"""Larger pack headers are refused: a quarter of a million adapters, far more than a pack of any size holds."""

_METADATA = {"pragreg": "pack-1"}
_DIGEST = re.compile(r"[0-9a-f]{64}")
_REMAKE = "run `pragreg build` to encode what it held again"


@dataclass(frozen=True, slots=True)
class PackCheck:
    """What reading a whole pack showed: ``problem`` in words, None if sound, and the damaged adapters' digests."""

    pack_digest: str
    problem: str | None
    damaged: tuple[str, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether every byte is as it was written."""
        return self.problem is None


class PackStore:
    """The packs of a registry, in a folder or at an fsspec URL. Safe to share between threads.

    Of local packs the last ``open_packs`` used stay mapped. Every method raises StorageError where the disk is full or
    the storage refuses.
    """

    def __init__(self, url: str, *, open_packs: int = 64) -> None:
        """Open the store at a folder's path or an fsspec URL; nothing is made before the first write.

        Raises:
            UsageError: the URL's protocol is unknown or its package is missing.
        """
        self._files = _files(url, open_packs)
        self._url = url
        self._seen: dict[str, set[str]] = {}

    def write(self, adapters: Iterable[tuple[str, Bytes]]) -> Pack:
        """Write a pack of (digest, bytes) in this order; a digest that comes again is left out.

        When this returns, the pack survives a crash of the machine; before, it is not there at all.

        Raises:
            IntegrityError: an adapter's bytes do not have its digest.
            ValueError: there is no adapter.
        """
        contents: dict[str, memoryview] = {}
        for digest, data in adapters:
            contents.setdefault(digest, memoryview(data).cast("B"))
        for digest, view in contents.items():
            if sha256_hex(view) != digest:
                raise IntegrityError(f"the adapter {short(digest)} was to be written with bytes of another digest")
        return self._write([(digest, view.nbytes) for digest, view in contents.items()], contents.values())

    def combine(self, locations: Sequence[AdapterLocation]) -> Pack:
        """Copy adapters into one new pack, in this order and one at a time; the old packs stay.

        Raises:
            IntegrityError: an adapter is missing or damaged.
            ValueError: there is no adapter.
        """
        distinct = list({location.adapter_digest: location for location in locations}.values())
        sizes = [(location.adapter_digest, location.size_bytes) for location in distinct]
        return self._write(sizes, (self._checked(location) for location in distinct))

    def read(self, location: AdapterLocation) -> memoryview:
        """Return an adapter's bytes by one ranged read, read-only and, for local packs, without a copy.

        The sha256 is checked the first time in this process.

        Raises:
            IntegrityError: the pack is missing or cut off, or the adapter's bytes have another digest.
        """
        seen = self._seen.setdefault(location.pack_digest, set())
        if location.adapter_digest in seen:
            return self._range(location)
        data = self._checked(location)
        seen.add(location.adapter_digest)
        return data

    def inspect(self, pack_digest: str) -> Pack:
        """Return what a pack's own header says it holds, without reading the adapters.

        Raises:
            IntegrityError: the pack is missing, or is no pack.
        """
        what = f"the pack {short(pack_digest)}"
        try:
            size_bytes = self._files.size(pack_digest)
            start = self._files.read(pack_digest, 0, LENGTH_BYTES)
            begin = header_size(start, limit=MAX_HEADER_BYTES, what=what)
            pack = described(pack_digest, self._files.read(pack_digest, 0, begin))
        except FileNotFoundError as error:
            raise self._missing(pack_digest) from error
        if size_bytes != pack.size_bytes:
            raise IntegrityError(f"{what} has {size_bytes} bytes; its header describes others", hint=_REMAKE)
        return pack

    def check(self, pack_digest: str) -> PackCheck:
        """Read a whole pack from the storage, past every cache, and say what is wrong with it."""
        self._forget(pack_digest)
        try:
            found = hashlib.sha256()
            for chunk in self._files.stream(pack_digest):
                found.update(chunk)
            if found.hexdigest() == pack_digest:
                return PackCheck(pack_digest, problem=None)
            pack = self.inspect(pack_digest)
        except FileNotFoundError:
            return PackCheck(pack_digest, problem=self._missing(pack_digest).message)
        except IntegrityError as error:
            return PackCheck(pack_digest, problem=error.message)
        damaged = tuple(place.adapter_digest for place in pack.adapters if not self._is_sound(place))
        names = ", ".join(short(digest) for digest in damaged[:3]) + (", ..." if len(damaged) > 3 else "")
        where = f"{len(damaged)} of {len(pack.adapters)} adapters ({names})" if damaged else "its header"
        return PackCheck(pack_digest, f"the pack {short(pack_digest)} is damaged in {where}", damaged)

    def verify(self, pack_digest: str) -> Pack:
        """Check a whole pack and return what it holds.

        Raises:
            IntegrityError: it is missing, cut off or changed; the message names the pack and the damaged adapters.
        """
        check = self.check(pack_digest)
        if check.problem is not None:
            raise IntegrityError(check.problem, hint=_REMAKE)
        return self.inspect(pack_digest)

    def stream(self, pack_digest: str) -> Iterator[bytes]:
        """Yield a pack's file from the storage itself, in chunks.

        Raises:
            IntegrityError: the pack is missing.
        """
        try:
            yield from self._files.stream(pack_digest)
        except FileNotFoundError as error:
            raise self._missing(pack_digest) from error

    def receive(self, pack_digest: str, chunks: Iterable[bytes]) -> int:
        """Store a pack as another store streams it, and return its size in bytes.

        Raises:
            IntegrityError: the bytes have another digest; nothing is stored then.
        """
        found = hashlib.sha256()

        def checked() -> Iterator[bytes]:
            for chunk in chunks:
                found.update(chunk)
                yield chunk
            if found.hexdigest() != pack_digest:
                raise IntegrityError(f"the pack {short(pack_digest)} arrived with bytes of another digest")

        _, size_bytes = self._files.write(checked())
        self._seen.pop(pack_digest, None)
        return size_bytes

    def take(self, pack_digest: str, source: Path) -> None:
        """Move a file of this machine, whose bytes were checked to have that digest, into the store, without a copy.

        When this returns, the pack survives a crash of the machine. A file on another file system is copied.

        Raises:
            FileNotFoundError: the file is gone.
        """
        self._files.take(source, pack_digest)
        self._seen.pop(pack_digest, None)

    def delete(self, pack_digest: str) -> bool:
        """Remove a pack, and return whether it was there; views that were read from a local one stay valid."""
        self._seen.pop(pack_digest, None)
        return self._files.delete(pack_digest)

    def exists(self, pack_digest: str) -> bool:
        """Return whether the pack's file is there."""
        try:
            return self._files.size(pack_digest) > 0
        except FileNotFoundError:
            return False

    def is_bare(self) -> bool:
        """Return whether the store holds nothing at all, as where a disk is not mounted."""
        return self._files.is_bare()

    def list(self) -> Iterator[StoredPack]:
        """Yield every pack file, in order of digest."""
        return self._files.list()

    def quarantine(self, pack_digest: str) -> str:
        """Move a pack's file to ``quarantine/``, where it is no pack any more, and return its new path or URL.

        Nothing there is ever overwritten, or deleted by any command: a second file of a digest gets a number.

        Raises:
            IntegrityError: the pack is missing.
        """
        self._seen.pop(pack_digest, None)
        try:
            return self._files.quarantine(pack_digest)
        except FileNotFoundError as error:
            raise self._missing(pack_digest) from error

    def quarantined(self) -> Iterator[StoredPack]:
        """Yield the files in quarantine, with the digests that they had as packs."""
        return self._files.quarantined()

    def quarantined_contents(self, pack_digest: str) -> Iterator[memoryview]:
        """Yield the bytes of every file in quarantine that had this digest as a pack."""
        return self._files.quarantined_contents(pack_digest)

    def contents(self, pack_digest: str) -> memoryview:
        """Return all bytes of a pack that may be damaged, unchecked; zeros where the disk gives none.

        Raises:
            IntegrityError: the pack is missing.
        """
        self._forget(pack_digest)
        try:
            return self._files.contents(pack_digest)
        except FileNotFoundError as error:
            raise self._missing(pack_digest) from error

    def partials(self) -> Iterator[PartialFile]:
        """Yield name, size in bytes and last change (in seconds since 1970) of the files that killed writers left."""
        return self._files.partials()

    def path_of(self, pack_digest: str) -> str:
        """Return the path or URL of a pack's file, whether it is there or not."""
        return self._files.path_of(pack_digest)

    def clean_partials(self, older_than_seconds: float) -> int:
        """Remove the partial files of killed writers that were not touched for that long; return how many."""
        return self._files.clean_partials(older_than_seconds)

    def close(self) -> None:
        """Unmap every pack; views that were read stay valid."""
        self._files.close()

    def _write(self, sizes: Sequence[tuple[str, int]], contents: Iterable[Bytes]) -> Pack:
        if not sizes:
            raise ValueError("a pack needs at least one adapter")
        header = _header(sizes)
        pack_digest, pack_bytes = self._files.write(_chain(header, contents))
        self._seen.pop(pack_digest, None)
        locations = []
        offset = len(header)
        for digest, size_bytes in sizes:
            locations.append(AdapterLocation(digest, pack_digest, offset, size_bytes))
            offset += size_bytes
        return Pack(digest=pack_digest, size_bytes=pack_bytes, adapters=tuple(locations))

    def _range(self, location: AdapterLocation) -> memoryview:
        try:
            data = self._files.read(location.pack_digest, location.offset, location.size_bytes)
        except FileNotFoundError as error:
            raise self._missing(location.pack_digest) from error
        if len(data) != location.size_bytes:
            self._forget(location.pack_digest)
            raise self._damaged(location, "is cut off")
        return data

    def _checked(self, location: AdapterLocation) -> memoryview:
        data = self._range(location)
        if sha256_hex(data) != location.adapter_digest:
            self._forget(location.pack_digest)
            raise self._damaged(location, "has other bytes than its digest says")
        return data

    def _is_sound(self, location: AdapterLocation) -> bool:
        try:
            self._checked(location)
        except IntegrityError:
            return False
        return True

    def _forget(self, pack_digest: str) -> None:
        # A damaged file may be replaced by a sound one of the same name: look at it anew next time.
        self._seen.pop(pack_digest, None)
        self._files.forget(pack_digest)

    def _damaged(self, location: AdapterLocation, how: str) -> IntegrityError:
        adapter, pack = short(location.adapter_digest), short(location.pack_digest)
        return IntegrityError(f"the adapter {adapter} in the pack {pack} {how}", hint=_REMAKE)

    def _missing(self, pack_digest: str) -> IntegrityError:
        return IntegrityError(f"the pack {short(pack_digest)} is not in {self._url}", hint=_REMAKE)


def described(pack_digest: str, data: Bytes) -> Pack:
    """Return what a pack's whole header says that it holds, and how many bytes the file should have.

    Raises:
        IntegrityError: the header is malformed, or is no pack's.
    """
    what = f"the pack {short(pack_digest)}"
    header = parse_header(data, what=what)
    for entry in header.entries:
        if not _DIGEST.fullmatch(entry.name) or entry.dtype != "U8" or len(entry.shape) != 1:
            raise IntegrityError(f"{what} holds {entry.name!r}, which is no adapter", hint=_REMAKE)
    if not header.entries:
        raise IntegrityError(f"{what} holds no adapter", hint=_REMAKE)
    begin = len(data)
    locations = (
        AdapterLocation(entry.name, pack_digest, begin + entry.begin, entry.end - entry.begin)
        for entry in header.entries
    )
    return Pack(digest=pack_digest, size_bytes=begin + header.body_bytes, adapters=tuple(locations))


def header_of(pack: Pack) -> bytes:
    """Return the header that a pack of these adapters is written with."""
    return _header((place.adapter_digest, place.size_bytes) for place in pack.adapters)


def _header(sizes: Iterable[tuple[str, int]]) -> bytes:
    return build_header(_METADATA, ((digest, "U8", (size_bytes,)) for digest, size_bytes in sizes))


def _chain(header: bytes, contents: Iterable[Bytes]) -> Iterator[Bytes]:
    yield header
    yield from contents


def _files(url: str, open_packs: int) -> PackFiles:
    protocol, separator, rest = url.partition("://")
    if not separator:
        return LocalPackFiles(Path(url).expanduser(), open_maps=open_packs)
    if protocol in ("file", "local"):
        return LocalPackFiles(Path(rest), open_maps=open_packs)
    from registry.store.remote import RemotePackFiles  # fsspec costs 0.1 s, which a local registry need not pay

    return RemotePackFiles(url)
