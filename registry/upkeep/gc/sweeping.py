"""What garbage collection takes away that the catalog does not name: files of the store, and folders of indexes."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from registry.catalog.adapters import pack_digests
from registry.catalog.engine import Catalog
from registry.errors import StorageError
from registry.index.folders import PARTIAL, REPLACED, nothing_built
from registry.store.packs import PackStore

_INDEX = re.compile(rf"([0-9a-f]{{64}})({re.escape(PARTIAL)}|{re.escape(REPLACED)})?")

Wanted = Callable[[], dict[str, set[str]]]
"""Returns the digests of the versions whose indexes stay, by corpus."""


@dataclass
class Swept:
    """What goes: ``count`` files or folders of ``size_bytes``; ``young`` more stay because they are too young."""

    count: int = 0
    size_bytes: int = 0
    young: int = 0


def unknown_packs(catalog: Catalog, packs: PackStore, grace_seconds: float) -> tuple[Swept, dict[str, int]]:
    """Find the pack files that no row names; return what may go, and its sizes by digest.

    Where the storage does not say how old a file is, it counts as just written.
    """
    # Listed first: a file that is written meanwhile is not seen, and what is seen has its row or is young.
    stored = list(packs.list())
    with catalog.read() as session:
        known = pack_digests(session)
    now = time.time()
    unknown = [pack for pack in stored if pack.digest not in known]
    old = {pack.digest: pack.size_bytes for pack in unknown if _is_old(pack.modified_at, now, grace_seconds)}
    return Swept(len(old), sum(old.values()), young=len(unknown) - len(old)), old


def partial_files(packs: PackStore, grace_seconds: float) -> Swept:
    """Find what killed writers left in the store."""
    now = time.time()
    found = Swept()
    for _, size_bytes, modified_at in packs.partials():
        if _is_old(modified_at, now, grace_seconds):
            found.count += 1
            found.size_bytes += size_bytes
        else:
            found.young += 1
    return found


def incoming_files(folder: Path, grace_seconds: float, *, delete: bool) -> Swept:
    """Find what interrupted pulls left and nobody went on from; ``delete`` it.

    Raises:
        StorageError: a file cannot be read or deleted.
    """
    now = time.time()
    found = Swept()
    with _reported(folder):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            with suppress(FileNotFoundError):  # a pull has moved it to where it belongs
                status = path.stat()
                if not _is_old(status.st_mtime, now, grace_seconds):
                    found.young += 1
                    continue
                if delete:
                    path.unlink()
                found.count += 1
                found.size_bytes += status.st_size
    return found


def sweep_indexes(index_path: Path, wanted: Wanted, *, delete: bool) -> tuple[Swept, list[str]]:
    """Find the indexes of collected versions, those of no version, and what killed builders left; ``delete`` them.

    Return also the corpora of which an index is being built, where nothing was looked at.

    However young they are: an index is made again where it is missing. Folders and files of other names are not
    touched. Indexes share files by hard links: those that go with the last of
    their names are counted.

    Raises:
        StorageError: a folder cannot be read or deleted.
    """
    swept, busy = Swept(), []
    links: dict[tuple[int, int], int] = {}
    for corpus in _folders(index_path):
        with _reported(corpus), nothing_built(corpus) as alone:
            if not alone:
                busy.append(corpus.name)
                continue
            # Looked up now: an index is made after its version is committed.
            kept = wanted().get(corpus.name, set())
            for folder in _folders(corpus):
                if not _is_leftover(folder, kept):
                    continue
                swept.count += 1
                swept.size_bytes += _freed(folder, links)
                if delete:
                    shutil.rmtree(folder)
    return swept, busy


def _is_leftover(folder: Path, kept: Collection[str]) -> bool:
    match = _INDEX.fullmatch(folder.name)
    return match is not None and (match[2] is not None or match[1] not in kept)


def _is_old(modified_at: float | None, now: float, grace_seconds: float) -> bool:
    return not grace_seconds or (modified_at is not None and now - modified_at >= grace_seconds)


def _folders(path: Path) -> list[Path]:
    with _reported(path):
        entries = path.iterdir() if path.is_dir() else ()
        return sorted(entry for entry in entries if entry.is_dir() and not entry.is_symlink())


def _freed(folder: Path, links: dict[tuple[int, int], int]) -> int:
    """Return the bytes that deleting a folder frees, after others of whose files ``links`` counts the names."""
    size_bytes = 0
    for path in folder.rglob("*"):
        status = path.lstat()
        if not path.is_dir():
            key = (status.st_dev, status.st_ino)
            links.setdefault(key, status.st_nlink)
            links[key] -= 1
            size_bytes += status.st_size if not links[key] else 0
    return size_bytes


@contextmanager
def _reported(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be cleaned up: {error.strerror or error}", hint="check who may write there"
        ) from error
