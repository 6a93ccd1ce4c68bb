"""The folder of one version's index: built beside, swapped in, and described by a small file."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from registry.errors import IntegrityError, StorageError
from registry.index.analysis import ANALYSER_VERSION

DESCRIPTION_FILE = "version.json"
PARTIAL = ".partial"
REPLACED = ".replaced.partial"
FORMAT = 1
REBUILD = "run `pragreg build` to make the index anew"
REWRITTEN = {"meta.json", ".managed.json"}
"""Tantivy's two small files of JSON: other files never change once they are written, and end in a checksum."""


@dataclass(frozen=True, slots=True)
class Description:
    """What ``version.json`` says of an index. ``deleted`` counts documents of earlier versions still in its statistics.

    ``files`` has the size in bytes of every file of tantivy's.
    """

    language: str
    documents: int
    deleted: int
    files: dict[str, int]
    analyser_version: int = ANALYSER_VERSION
    format: int = FORMAT


@contextmanager
def built_beside(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside ``folder`` that takes its place at the end, or vanishes if the body raises.

    Waits while another process builds an index beside it; a killed one's leftovers are removed first.

    Raises:
        StorageError: a file cannot be written.
    """
    partial = folder.with_name(folder.name + PARTIAL)
    replaced = folder.with_name(folder.name + REPLACED)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent):
            for leftover in (partial, replaced):
                if leftover.exists():
                    shutil.rmtree(leftover)
            partial.mkdir()
            try:
                yield partial
                for path in (*partial.iterdir(), partial):
                    _sync(path)
                if folder.exists():
                    folder.rename(replaced)
                partial.rename(folder)
                _sync(folder.parent)
            finally:
                for leftover in (partial, replaced):
                    shutil.rmtree(leftover, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"the index cannot be written to {folder}: {error.strerror or error}") from error


@contextmanager
def nothing_built(folder: Path) -> Iterator[bool]:
    """Let no index be built in ``folder`` for the time of a block; False if one is being built there now.

    Raises:
        OSError: the folder cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def link_segments(parent: Path, folder: Path) -> None:
    """Put the files of a parent's index into ``folder``: links of those that never change, copies of the others."""
    for path in parent.iterdir():
        if path.name == DESCRIPTION_FILE or path.suffix == ".lock":
            continue
        target = folder / path.name
        if path.name not in REWRITTEN:
            try:
                os.link(path, target)
                continue
            except OSError:  # another file system or another owner
                pass
        shutil.copyfile(path, target)


def describe(folder: Path, *, language: str, documents: int, deleted: int) -> None:
    """Write ``version.json`` for the index in ``folder``, and let the same users read all of it."""
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.suffix != ".lock"}
    description = Description(language=language, documents=documents, deleted=deleted, files=files)
    path = folder / DESCRIPTION_FILE
    path.write_text(json.dumps(asdict(description), indent=1) + "\n", encoding="utf-8")
    for name in REWRITTEN & files.keys():  # tantivy makes these for their owner alone
        (folder / name).chmod(path.stat().st_mode)


def read_description(folder: Path) -> Description:
    """Read ``version.json`` and compare the files that it names with those that are there.

    Raises:
        IntegrityError: it is missing or malformed, was written for another analyser, or a file is missing or cut off.
    """
    try:
        fields = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
        if fields["format"] != FORMAT or fields["analyser_version"] != ANALYSER_VERSION:
            raise IntegrityError(f"the index {folder} was made by another version of pragreg", hint=REBUILD)
        description = Description(
            language=str(fields["language"]),
            documents=int(fields["documents"]),
            deleted=int(fields["deleted"]),
            files={str(name): int(size_bytes) for name, size_bytes in fields["files"].items()},
        )
        for name, size_bytes in description.files.items():
            if (folder / name).stat().st_size != size_bytes:
                raise IntegrityError(f"the index {folder} is damaged: {name} has another size", hint=REBUILD)
    except PermissionError as error:
        raise StorageError(f"the index {folder} cannot be read: {error.strerror}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"the index {folder} is missing or damaged: {error}", hint=REBUILD) from error
    return description


@contextmanager
def writable_view(folder: Path) -> Iterator[Path]:
    """Give a folder with the files of ``folder`` that tantivy can open: it locks a file there even to read."""
    if os.access(folder, os.W_OK):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="pragreg-index-") as view:
        for path in folder.iterdir():
            if path.suffix != ".lock":
                (Path(view) / path.name).symlink_to(path.absolute())
        yield Path(view)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # Two processes may find the same index missing; the kernel lets go of the lock of one that is killed.
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
