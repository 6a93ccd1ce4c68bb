"""Leases: a version whose adapters a process of this home is reading must not be collected.

A lease is a shared lock on a file of the home, so the kernel takes it back when the process dies, however it dies.

    readers/.lock           held shared while a reader takes its lease, exclusively while it is decided what goes
    readers/CORPUS/vN       held shared for as long as version N of the corpus is read
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.records import Version
from registry.settings import Home

READERS_FOLDER = "readers"
_LOCK = ".lock"


@contextmanager
def reading(home: Home, version: Version) -> Iterator[None]:
    """Hold a lease of ``version`` for the time of a block; without one where its file cannot be made or locked.

    Look only afterwards whether the version was collected: what is decided meanwhile is waited for.
    """
    gate = _locked(_lock_file(home), fcntl.LOCK_SH)
    try:
        lease = _locked(_lease_file(home, version), fcntl.LOCK_SH)
    finally:
        _release(gate)
    try:
        yield
    finally:
        _release(lease)


def being_read(home: Home, version: Version) -> bool:
    """Return whether a process holds a lease of ``version``. Only within ``no_new_readers`` can none take one since."""
    try:
        descriptor = os.open(_lease_file(home, version), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # nobody ever read it here
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks, so nobody has a lease
        return False
    finally:
        os.close(descriptor)
    return False


@contextmanager
def no_new_readers(home: Home) -> Iterator[None]:
    """Let nobody take a lease within the block: what is not being read then is not read until its end.

    Keep it as short as a transaction: it is for deciding what is collected, and readers wait for it.
    """
    gate = _locked(_lock_file(home), fcntl.LOCK_EX)
    try:
        yield
    finally:
        _release(gate)


def _lock_file(home: Home) -> Path:
    return home.path / READERS_FOLDER / _LOCK


def _lease_file(home: Home, version: Version) -> Path:
    return home.path / READERS_FOLDER / version.corpus / f"v{version.number}"


def _locked(path: Path, operation: int) -> int | None:
    """Open a file, made if it is missing, and lock it; None where that cannot be done, as in a read-only home."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, operation)
    except OSError:
        os.close(descriptor)
        return None
    except BaseException:  # Ctrl-C while it waits
        os.close(descriptor)
        raise
    return descriptor


def _release(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)
