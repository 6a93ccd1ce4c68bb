"""Packs and catalog of a backup into a home that is new or has nothing in it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.catalog.engine import open_catalog
from registry.catalog.transfer.snapshots import load_snapshot, prepare_snapshot, require_empty
from registry.errors import InputError, NotFoundError, StorageError, UsageError
from registry.progress import Progress
from registry.settings import DEFAULT_BASE_MODEL, SETTINGS_FILE, Home, create_home, open_home
from registry.store.packs import PackStore
from registry.upkeep.backup.backup import CATALOG, DESCRIPTION, FORMAT, PACKS
from registry.upkeep.backup.pack_copies import PackFault, copy_packs

_SCRATCH = "restore.sqlite.partial"
_ENDED = "the registry was restored from a backup that was made while this build ran"


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What a restore did: packs of the backup, those copied now and those that were there already and sound."""

    home: Path
    catalog_url: str
    versions: int
    packs: int
    copied: int
    present: int
    copied_bytes: int
    faults: tuple[PackFault, ...]
    elapsed_seconds: float


def restore_bytes(
    folder: Path, path: Path, progress: Progress, *, catalog_url: str | None = None, packs_url: str | None = None
) -> RestoreReport:
    """Make the registry home ``path`` from the backup in ``folder``, with its catalog and packs where they are wanted.

    The packs come first, each hashed, then the catalog in one transaction: after a kill the same restore goes on.
    Damaged packs are reported, and all the rest is restored. Builds that ran in the backup end as interrupted.

    Raises:
        NotFoundError: there is no backup in the folder.
        InputError: it is of another format than this program knows.
        HomeError: the home has something in it, or the backup is of a newer schema.
        UsageError: the home is there and its settings name other places.
        StorageError: something cannot be read or written, or the disk is full.
    """
    start = time.perf_counter()
    described = _description(folder)
    home = _make_home(path, catalog_url, packs_url, str(described.get("base_model") or DEFAULT_BASE_MODEL))
    require_empty(home.catalog_url)
    scratch = home.path / _SCRATCH
    source, target = PackStore(str(folder / PACKS)), PackStore(home.packs_url)
    try:
        progress.start("reading the backup")
        snapshot = prepare_snapshot(folder / CATALOG, scratch, _ENDED)
        done = copy_packs(source, target, snapshot.packs, progress, check=True, restores=True)
        load_snapshot(scratch, home.catalog_url, progress)
    except OSError as error:
        raise StorageError(f"{home.path} cannot be written: {error.strerror or error}") from error
    finally:
        source.close()
        target.close()
        scratch.unlink(missing_ok=True)
    progress.done()
    with open_catalog(home.catalog_url) as catalog:
        name = catalog.safe_url
    return RestoreReport(
        home=home.path,
        catalog_url=name,
        versions=snapshot.versions,
        packs=len(snapshot.packs),
        copied=len(done.copied),
        present=len(done.present),
        copied_bytes=done.copied_bytes,
        faults=done.faults,
        elapsed_seconds=time.perf_counter() - start,
    )


def _description(folder: Path) -> dict[str, Any]:
    hint = "name a folder that `pragreg backup` made"
    if not (folder / CATALOG).is_file():
        raise NotFoundError(f"there is no backup in {folder}: it has no {CATALOG}", hint=hint)
    try:
        described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / DESCRIPTION} cannot be read: {error}", hint=hint) from error
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        raise InputError(
            f"{folder / DESCRIPTION} is not of the format {FORMAT}, the only one that this pragreg knows",
            hint="pip install --upgrade pragreg",
        )
    return described


def _make_home(path: Path, catalog_url: str | None, packs_url: str | None, base_model: str) -> Home:
    if not (path / SETTINGS_FILE).exists():
        if catalog_url is not None:
            require_empty(catalog_url)  # or there would be a home whose catalog cannot be had
    else:
        home = open_home(path)
        for option, wanted, found in (
            ("--catalog", catalog_url, home.catalog_url),
            ("--packs", packs_url, home.packs_url),
        ):
            if wanted is not None and wanted != found:
                raise UsageError(
                    f"{home.settings_path} names another place than {option} does",
                    hint=f"leave {option} out, or restore into a new home",
                )
    return create_home(path, catalog_url=catalog_url, packs_url=packs_url, base_model=base_model)
