"""Pack files on any fsspec URL: object storage, another machine, memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from registry.errors import StorageError, UsageError
from registry.store.files import (
    CHUNK_BYTES,
    FIRST_CHUNK_BYTES,
    QUARANTINE,
    PartialFile,
    StoredPack,
    digest_in_quarantine,
    digest_of_name,
    quarantine_path,
    relative_path,
    storage_error,
    write_chunks,
)
from registry.store.headers import Bytes


class RemotePackFiles:
    """Packs below an fsspec URL, read by ranged requests and never cached here.

    Access keys and endpoints come from where fsspec and its backends look for them (environment, configuration files).
    """

    def __init__(self, url: str) -> None:
        """Connect to ``url``.

        Raises:
            UsageError: fsspec does not know the protocol, or its package is not installed.
            StorageError: the storage refuses.
        """
        self._url = url
        with self._using("packs cannot be reached at"):
            try:
                fs, root = url_to_fs(url)
            except ImportError as error:
                hint = "install that package into the environment of pragreg"
                raise UsageError(f"packs cannot lie at {url}: {error}", hint=hint) from error
            except ValueError as error:
                hint = "name a folder, or a URL that fsspec knows, such as s3://bucket/packs"
                raise UsageError(f"packs cannot lie at {url}: {error}", hint=hint) from error
        self._fs: Any = fs
        self._root = str(root).rstrip("/")

    def write(self, chunks: Iterable[Bytes]) -> tuple[str, int]:
        """Hash into a temporary file of this machine, then upload it under its digest.

        An object storage shows an upload only when it is whole; elsewhere a killed one leaves a cut-off file that no
        catalog points at and that the next write of the same pack replaces.
        """
        with tempfile.NamedTemporaryFile(prefix="pragreg-pack-") as file:
            try:
                digest, size_bytes = write_chunks(file.fileno(), chunks)
            except OSError as error:
                raise storage_error("a pack cannot be prepared in", tempfile.gettempdir(), error) from error
            path = self._path(digest)
            if self._size_or_none(path) != size_bytes:
                self._upload(file.name, path, size_bytes)
        return digest, size_bytes

    def take(self, source: Path, digest: str) -> None:
        """Upload the file, and remove it here."""
        size_bytes = source.stat().st_size
        path = self._path(digest)
        if self._size_or_none(path) != size_bytes:
            self._upload(str(source), path, size_bytes)
        source.unlink()

    def read(self, digest: str, offset: int, size_bytes: int) -> memoryview:
        """Return the range by one request."""
        with self._using("a pack cannot be read from"):
            return memoryview(self._fs.cat_file(self._path(digest), start=offset, end=offset + size_bytes))

    def size(self, digest: str) -> int:
        """Return the file's size in bytes."""
        with self._using("a pack cannot be read from"):
            self._fs.invalidate_cache()
            return int(self._fs.info(self._path(digest))["size"])

    def stream(self, digest: str) -> Iterator[bytes]:
        """Yield the file by one request a chunk."""
        size_bytes = self.size(digest)
        begin, wanted = 0, FIRST_CHUNK_BYTES
        while begin < size_bytes:
            chunk = bytes(self.read(digest, begin, min(wanted, size_bytes - begin)))
            if not chunk:  # it was cut off meanwhile
                return
            yield chunk
            begin, wanted = begin + len(chunk), CHUNK_BYTES

    def delete(self, digest: str) -> bool:
        """Remove the file; return whether it was there."""
        path = self._path(digest)
        if self._size_or_none(path) is None:
            return False
        with self._using("a pack cannot be deleted from"):
            self._fs.rm_file(path)
        return True

    def is_bare(self) -> bool:
        """Return whether no object is there."""
        return next(iter(self._find()), None) is None

    def list(self) -> Iterator[StoredPack]:
        """Yield every pack, in order of digest."""
        for path, info in self._find():
            digest = digest_of_name(path.rsplit("/", 1)[-1])
            if digest is not None and path.endswith("/" + relative_path(digest)):
                yield StoredPack(digest, int(info["size"]), self._modified_at(path))

    def quarantine(self, digest: str) -> str:
        """Move the file, which object storages do by copying it there and deleting it here."""
        source = self._path(digest)
        paths = (f"{self._root}/{quarantine_path(digest, number)}" for number in count(1))
        target = next(path for path in paths if self._size_or_none(path) is None)
        with self._using("a pack cannot be put into quarantine at"):
            self._fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            self._fs.mv(source, target)
            self._fs.invalidate_cache()
        return self._shown(target)

    def quarantined(self) -> Iterator[StoredPack]:
        """Yield the files in quarantine, in order of their names."""
        for path, info in self._find():
            *_, folder, name = path.split("/")
            digest = digest_in_quarantine(name)
            if digest is not None and folder == QUARANTINE:
                yield StoredPack(digest, int(info["size"]), self._modified_at(path))

    def contents(self, digest: str) -> memoryview:
        """Return the file by one request."""
        return self.read(digest, 0, self.size(digest))

    def quarantined_contents(self, digest: str) -> Iterator[memoryview]:
        """Yield each such file by one request, in order of their numbers."""
        for number in count(1):
            path = f"{self._root}/{quarantine_path(digest, number)}"
            if self._size_or_none(path) is None:
                return
            with self._using("a file in quarantine cannot be read from"):
                yield memoryview(self._fs.cat_file(path))

    def partials(self) -> Iterator[PartialFile]:
        """Yield nothing: uploads leave nothing beside."""
        return iter(())

    def clean_partials(self, older_than_seconds: float) -> int:
        """Do nothing: uploads leave nothing beside."""
        return 0

    def path_of(self, digest: str) -> str:
        """Return the file's URL."""
        return self._shown(self._path(digest))

    def forget(self, digest: str) -> None:
        """Do nothing: nothing is kept."""

    def close(self) -> None:
        """Do nothing: fsspec shares its connections."""

    def _path(self, digest: str) -> str:
        return f"{self._root}/{relative_path(digest)}"

    def _shown(self, path: str) -> str:
        return f"{self._url.rstrip('/')}{path.removeprefix(self._root)}"

    def _find(self) -> Iterator[tuple[str, Any]]:
        with self._using("packs cannot be listed at"):
            self._fs.invalidate_cache()
            found = self._fs.find(self._root, detail=True)
        return iter(sorted(found.items()))

    def _upload(self, source: str, path: str, size_bytes: int) -> None:
        with self._using("a pack cannot be written to"):
            self._fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            self._fs.put_file(source, path)
        arrived = self._size_or_none(path)
        if arrived != size_bytes:
            raise StorageError(f"a pack cannot be written to {self._url}: {arrived} of {size_bytes} bytes arrived")

    def _size_or_none(self, path: str) -> int | None:
        with self._using("a pack cannot be looked up at"):
            self._fs.invalidate_cache()
            try:
                return int(self._fs.info(path)["size"])
            except FileNotFoundError:
                return None

    def _modified_at(self, path: str) -> float | None:
        try:
            return float(self._fs.modified(path).timestamp())
        except (NotImplementedError, KeyError):
            return None

    @contextmanager
    def _using(self, action: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise storage_error(action, self._url, error) from error
