"""Backups: the catalog as one SQLite file, and beside it every pack that it names.

    backup.json                    what it is of, for people
    catalog.sqlite                 put in place last, so that what it names is there
    packs/ab/<digest>.safetensors

A backup is made over the one before: packs that are there are not copied again. The indexes are derived, and
``pragreg.toml`` may hold passwords; neither is in it.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from registry.catalog import schema
from registry.catalog.engine import open_catalog
from registry.catalog.transfer.snapshots import Snapshot, take_snapshot
from registry.errors import BusyError, StorageError, UsageError
from registry.progress import Progress
from registry.settings import SETTINGS_FILE, Home
from registry.store.local import sync_folder
from registry.store.packs import PackStore
from registry.upkeep.backup.pack_copies import PackFault, copy_packs

FORMAT = 1
DESCRIPTION = "backup.json"
CATALOG = "catalog.sqlite"
PACKS = "packs"
_LOCK = "backup.lock"
_PARTIAL = ".partial"
_OURS = {DESCRIPTION, CATALOG, PACKS, _LOCK}
_ROUNDS = 5
"""How often the catalog is read anew because a build or gc replaced packs meanwhile."""


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What a backup did: packs that it names, those copied now and those that were there already, and those at fault.

    ``size_bytes`` is the size of the whole backup. ``pruned`` packs were taken out, since the catalog names them no
    more.
    """

    folder: Path
    catalog_url: str
    versions: int
    packs: int
    copied: int
    present: int
    pruned: int
    copied_bytes: int
    size_bytes: int
    faults: tuple[PackFault, ...]
    elapsed_seconds: float


@dataclass
class _Totals:
    copied: int = 0
    copied_bytes: int = 0
    present: set[str] = field(default_factory=set)


def back_up(home: Home, folder: Path, progress: Progress, *, check: bool = False, prune: bool = False) -> BackupReport:
    """Bring the backup in ``folder`` to what the registry holds now, while others may read and write that.

    Every pack is hashed while it is copied. One that is damaged or missing is reported, and the rest is backed up all
    the same; a sound copy in the backup stays. ``check`` hashes the packs that the backup has, too, and ``prune``
    deletes those that its catalog names no more.

    Raises:
        UsageError: the folder holds something else.
        BusyError: another backup is being made there.
        HomeError: the registry has no catalog, or one of another schema.
        StorageError: something cannot be read or written, or the disk is full; the last backup is as it was.
    """
    start = time.perf_counter()
    _refuse_other_folder(home, folder)
    with open_catalog(home.catalog_url) as catalog:
        name = catalog.safe_url
    try:
        with _locked(folder):
            source, target = PackStore(home.packs_url), PackStore(str(folder / PACKS))
            try:
                target.clean_partials(0)
                snapshot, totals, faults = _copy(home, folder, source, target, check, progress)
                _put_in_place(home, folder, name, snapshot, faults)
                pruned = _prune(target, snapshot) if prune and not faults else 0
            finally:
                source.close()
                target.close()
    except OSError as error:
        raise _not_writable(folder, error) from error
    progress.done()
    return BackupReport(
        folder=folder,
        catalog_url=name,
        versions=snapshot.versions,
        packs=len(snapshot.packs),
        copied=totals.copied,
        present=len(totals.present & snapshot.packs.keys()),
        pruned=pruned,
        copied_bytes=totals.copied_bytes,
        size_bytes=sum(snapshot.packs.values()) + (folder / CATALOG).stat().st_size,
        faults=faults,
        elapsed_seconds=time.perf_counter() - start,
    )


def _copy(
    home: Home, folder: Path, source: PackStore, target: PackStore, check: bool, progress: Progress
) -> tuple[Snapshot, _Totals, tuple[PackFault, ...]]:
    """Take the catalog and the packs that it names; again where a pack is gone that a newer catalog may not name."""
    totals = _Totals()
    sound: set[str] = set()
    faults: tuple[PackFault, ...] = ()
    for _ in range(_ROUNDS):
        gone_before = {fault.digest for fault in faults if fault.is_missing}
        snapshot = take_snapshot(home.catalog_url, folder / (CATALOG + _PARTIAL), progress)
        wanted = {digest: size for digest, size in snapshot.packs.items() if digest not in sound}
        copied = copy_packs(source, target, wanted, progress, check=check, restores=False)
        totals.copied += len(copied.copied)
        totals.copied_bytes += copied.copied_bytes
        totals.present |= copied.present
        sound |= copied.copied | copied.present
        faults = copied.faults
        if {fault.digest for fault in faults if fault.is_missing} <= gone_before:
            break
    return snapshot, totals, faults


def _put_in_place(home: Home, folder: Path, name: str, snapshot: Snapshot, faults: tuple[PackFault, ...]) -> None:
    catalog = folder / (CATALOG + _PARTIAL)
    described = {
        "format": FORMAT,
        "pragreg": importlib.metadata.version("pragreg"),
        "schema": schema.head(),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "catalog": name,
        "base_model": home.base_model,
        "versions": snapshot.versions,
        "packs": len(snapshot.packs),
        "packs_bytes": sum(snapshot.packs.values()),
        "catalog_bytes": catalog.stat().st_size,
        "damaged_packs": [fault.digest for fault in faults],
    }
    partial = folder / (DESCRIPTION + _PARTIAL)
    with partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(described, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / DESCRIPTION)
    for log in folder.glob(CATALOG + "-*"):
        log.unlink()  # whoever wrote into the old catalog: SQLite would apply it to the new one
    catalog.replace(folder / CATALOG)
    sync_folder(folder)


def _prune(target: PackStore, snapshot: Snapshot) -> int:
    """Delete the packs that the catalog, which is in place now, names no more; return how many."""
    unnamed = [pack.digest for pack in target.list() if pack.digest not in snapshot.packs]
    return sum(target.delete(digest) for digest in unnamed)


def _refuse_other_folder(home: Home, folder: Path) -> None:
    """Check that nothing but a backup is in the folder: the names in it are those of a registry home, too."""
    hint = "name a folder that is new, empty, or has a backup"
    try:
        held = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
    except OSError as error:
        raise _not_writable(folder, error) from error
    if folder.resolve() == home.path.resolve() or SETTINGS_FILE in held:
        raise UsageError(f"{folder} is a registry home, it cannot be a backup as well", hint=hint)
    if home.path.resolve() in folder.resolve().parents:
        raise UsageError(f"{folder} lies in the registry home, and would be lost with it", hint=hint)
    strangers = sorted(name for name in held - _OURS if not name.startswith((CATALOG, DESCRIPTION)))
    if strangers:
        raise UsageError(f"{folder} holds something else than a backup: {strangers[0]}", hint=hint)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make the folder, and let no other backup into it; the lock goes with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(f"another backup is being made in {folder}", hint="wait for it to end") from error
        yield


def _not_writable(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        f"the backup {folder} cannot be written: {error.strerror or error}",
        hint="make room there, or name another folder; the last backup is as it was",
    )
