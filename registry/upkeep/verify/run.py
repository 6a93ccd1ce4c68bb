"""Verify: is everything there that the catalog says, and is it what it says? Reads only, mends nothing."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from registry.catalog.engine import Catalog
from registry.progress import Progress
from registry.settings import Home
from registry.store.packs import PackStore
from registry.upkeep.findings import KINDS, Finding
from registry.upkeep.verify.asking import Asking
from registry.upkeep.verify.catalog_checks import CatalogChecks
from registry.upkeep.verify.index_checks import IndexChecks
from registry.upkeep.verify.pack_checks import PackChecks
from registry.upkeep.verify.resuming import CheckedPacks


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """What `pragreg verify` was asked for.

    ``deep`` reads every byte: texts, packs and indexes. ``jobs`` packs are read at once (None: one a core).
    ``resume`` passes over the packs that an interrupted deep run found sound and that were not touched since.
    """

    deep: bool = False
    jobs: int | None = None
    resume: bool = False


@dataclass(frozen=True, slots=True)
class VerifyCounts:
    """What was looked at; ``passed_over`` are packs that an interrupted run had found sound."""

    versions: int = 0
    documents: int = 0
    adapters: int = 0
    packs: int = 0
    indexes: int = 0
    passed_over: int = 0


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What verify found, damage first.

    ``notes`` say what was not checked, and why. ``bytes_read`` are those of packs that were read whole, which took
    ``pack_seconds``.
    """

    findings: tuple[Finding, ...]
    counts: VerifyCounts
    notes: tuple[str, ...]
    bytes_read: int
    elapsed_seconds: float
    pack_seconds: float

    @property
    def damage(self) -> tuple[Finding, ...]:
        """The findings that are damage."""
        return tuple(finding for finding in self.findings if finding.severity == "damage")

    @property
    def leftovers(self) -> tuple[Finding, ...]:
        """The findings that only take room."""
        return tuple(finding for finding in self.findings if finding.severity == "leftover")

    @property
    def is_sound(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damage


def verify(home: Home, catalog: Catalog, packs: PackStore, request: VerifyRequest, progress: Progress) -> VerifyReport:
    """Compare the catalog with itself, with the packs and with the indexes, and report what is amiss.

    What each depth finds is told in ``catalog_checks``, ``registry.store.scan`` and ``index_checks``. Builds and
    garbage collection may run meanwhile.

    Raises:
        StorageError: the catalog or the store as a whole cannot be read; what one pack or index has is a finding.
    """
    started = time.perf_counter()
    asking = Asking(catalog, thorough=request.deep)
    checked = CheckedPacks(home.path, resume=request.resume) if request.deep else None
    try:
        of_catalog = CatalogChecks(asking, progress, deep=request.deep)
        of_catalog.run()
        jobs = request.jobs or os.cpu_count() or 1
        of_packs = PackChecks(packs, asking, progress, jobs=jobs, checked=checked)
        of_packs.run()
        of_indexes = IndexChecks(home, asking, progress, deep=request.deep)
        of_indexes.run(of_catalog.states, of_catalog.members)
    except BaseException:
        if checked is not None:
            checked.close()
        raise
    if checked is not None:
        checked.remove()
    found = [*asking.findings, *of_catalog.findings, *of_packs.findings, *of_indexes.findings]
    kinds = list(KINDS)
    counts = VerifyCounts(
        versions=len(of_catalog.states),
        documents=of_catalog.documents,
        adapters=of_packs.counts.adapters,
        packs=of_packs.counts.packs,
        indexes=of_indexes.count,
        passed_over=of_packs.counts.passed_over,
    )
    return VerifyReport(
        findings=tuple(sorted(found, key=lambda finding: (finding.severity, kinds.index(finding.kind)))),
        counts=counts,
        notes=tuple(of_catalog.notes),
        bytes_read=of_packs.counts.bytes_read,
        elapsed_seconds=time.perf_counter() - started,
        pack_seconds=of_packs.counts.elapsed_seconds,
    )
