"""Repair: mend what verify finds, each fault by what can mend it, and verify again.

Nothing is deleted that is not derived: damaged files and rows that refer to nothing are moved to quarantine. Every
step commits by itself, bytes before rows, so a repair that was killed goes on when it is run again.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from registry.catalog.engine import open_catalog
from registry.errors import BusyError, NotFoundError, StorageError
from registry.pipeline.opened import Registry, opened
from registry.pipeline.repair.bench import RESTORE, Bench, Note
from registry.pipeline.repair.catalog import (
    end_builds,
    mend_augmentations,
    mend_documents,
    mend_names,
    mend_recipes,
    mend_rows,
    of_kinds,
)
from registry.pipeline.repair.indexes import mend_indexes
from registry.pipeline.repair.packs import LOST, PACKS, mend_packs
from registry.pipeline.repair.versions import mend_versions
from registry.progress import Progress
from registry.settings import Home
from registry.store.packs import PackStore
from registry.upkeep.backup.backup import CATALOG
from registry.upkeep.backup.backup import PACKS as BACKUP_PACKS
from registry.upkeep.findings import Finding
from registry.upkeep.verify.run import VerifyRequest, verify

Result = Literal["mended", "left", "not mended", "planned"]
"""Mended; left to `pragreg gc`; not mended; or, in a dry run, what would be tried."""
Mend = Callable[[Bench, Sequence[Finding]], None]

STEPS: tuple[tuple[tuple[str, ...], Mend, str], ...] = (
    (("build-abandoned", "staging-left"), end_builds, "the build is ended, and its staging rows are removed"),
    (("dangling-row",), mend_rows, "rows that can be done without move to a file; others come from the backup"),
    (("recipe-altered",), mend_recipes, "the settings come from the backup"),
    (("document-altered",), mend_documents, "the text comes from the backup, or from its source, read again"),
    (("augmentation-altered",), mend_augmentations, "the content comes from the backup"),
    (("version-altered", "membership-overlap"), mend_versions, "counters are derived, members come from the backup"),
    (("version-unnamed",), mend_names, "latest names again what it named last"),
    ((*PACKS, *LOST), mend_packs, "what is sound moves, the rest is copied from elsewhere or encoded again"),
    (("index-missing", "index-damaged", "index-altered"), mend_indexes, "the index is made anew from the catalog"),
)
"""What mends which kinds, in this order: adapters are encoded from texts, indexes are made of them."""

ROUNDS = 4
"""What one fault hides shows when it is mended; deeper than this nothing is hidden."""
_LOCK = "repair.lock"
_GC = "it only takes room, and is left to `pragreg gc`"


@dataclass(frozen=True)
class RepairRequest:
    """What `pragreg repair` was asked for: only to say what it would do, and a backup to take from."""

    dry_run: bool = False
    backup: Path | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a finding, and what was done or why nothing could be; ``hint`` is what the user can do."""

    finding: Finding
    result: Result
    text: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair did.

    ``instead`` are pairs of digests: an adapter that could not be had again, and the one that its document gives in
    the builds to come. ``damage`` is how many faults are left that are no mere leftovers.
    """

    outcomes: tuple[Outcome, ...]
    instead: tuple[tuple[str, str], ...]
    damage: int
    elapsed_seconds: float

    @property
    def is_whole(self) -> bool:
        """Whether the registry has no damage now."""
        return not self.damage


def repair(home: Home, request: RepairRequest, progress: Progress) -> RepairReport:
    """Verify the whole registry, mend what can be mended, and verify it again.

    Raises:
        BusyError: another repair of this home is running.
        NotFoundError: there is no backup in the folder that was named.
        StorageError: the catalog or the store as a whole cannot be read or written.
    """
    started = time.perf_counter()
    with ExitStack() as stack:
        if not request.dry_run:
            stack.enter_context(_alone(home))
        registry = stack.enter_context(opened(home))
        backup = stack.enter_context(_opened_backup(home, request.backup)) if request.backup else None
        findings = _verify(registry, progress)
        if request.dry_run:
            outcomes = [_planned(finding) for finding in findings]
            damage = sum(finding.severity == "damage" for finding in findings)
            return RepairReport(tuple(outcomes), (), damage, time.perf_counter() - started)
        bench = Bench(registry, backup, progress)
        first = {_key(finding): finding for finding in findings}
        last = dict(first)
        for _ in range(ROUNDS):
            if not _mend(bench, list(last.values())):
                break
            before, last = last, {_key(finding): finding for finding in _verify(registry, progress)}
            first = last | first
            if _faults(before) == _faults(last):
                break
    still = {digest for finding in last.values() if finding.severity == "damage" for digest in finding.digests}
    outcomes = [_outcome(finding, last.get(key), bench.notes.get(key), still) for key, finding in first.items()]
    return RepairReport(
        outcomes=tuple(outcomes),
        instead=tuple(bench.instead.items()),
        damage=sum(finding.severity == "damage" for finding in last.values()),
        elapsed_seconds=time.perf_counter() - started,
    )


def _verify(registry: Registry, progress: Progress) -> tuple[Finding, ...]:
    report = verify(registry.home, registry.catalog, registry.packs, VerifyRequest(deep=True), progress)
    return report.findings


def _key(finding: Finding) -> tuple[str, str]:
    return finding.kind, finding.subject


def _faults(findings: Mapping[tuple[str, str], Finding]) -> set[tuple[str, str, tuple[str, ...]]]:
    return {(finding.kind, finding.subject, finding.digests) for finding in findings.values()}


def _mend(bench: Bench, findings: Sequence[Finding]) -> bool:
    """Do what can be done about findings; False if there is nothing to do."""
    if broken := of_kinds(findings, "catalog-damaged"):
        bench.note(broken, "nothing is written to a damaged database", "pragreg restore, from the last backup")
        others = [finding for finding in findings if finding not in broken]
        bench.note(others, "nothing is mended while the database is damaged", "pragreg restore, from the last backup")
        return False
    worked = False
    for kinds, mend, _ in STEPS:
        if concerned := of_kinds(findings, *kinds):
            mend(bench, concerned)
            worked = True
    return worked


def _planned(finding: Finding) -> Outcome:
    for kinds, _, text in STEPS:
        if finding.kind in kinds:
            return Outcome(finding, "planned", text)
    if finding.severity == "leftover":
        return Outcome(finding, "left", _GC)
    return Outcome(finding, "not mended", "nothing is written to a damaged database", RESTORE)


def _outcome(finding: Finding, now: Finding | None, note: Note | None, still: set[str]) -> Outcome:
    """Say what became of a finding; only the last verify decides: what is amiss ``still`` is not mended."""
    if finding.severity == "leftover" and note is None and now is not None:
        return Outcome(finding, "left", _GC)
    text, hint = note or Note("it went with what else was mended" if now is None else "nothing mends it", "")
    if now is None and still.isdisjoint(finding.digests):
        return Outcome(finding, "mended", text)
    return Outcome(now or finding, "not mended", text, hint or RESTORE)


@contextmanager
def _alone(home: Home) -> Iterator[None]:
    """Let no other repair of this home run; the kernel takes the lock back from one that is killed."""
    path = home.path / _LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise BusyError(f"another repair of {home.path} is running", hint="wait for it to end") from error
    finally:
        os.close(descriptor)


@contextmanager
def _opened_backup(home: Home, folder: Path) -> Iterator[Registry]:
    """Open a backup that `pragreg backup` made, to read from it."""
    file = folder / CATALOG
    if not file.is_file():
        raise NotFoundError(f"there is no backup in {folder}: {CATALOG} is missing", hint="pragreg backup FOLDER")
    catalog = open_catalog(f"sqlite:///{file.absolute()}")
    packs = PackStore(str(folder / BACKUP_PACKS))
    try:
        yield Registry(replace(home, path=folder), catalog, packs)
    finally:
        packs.close()
        catalog.close()
