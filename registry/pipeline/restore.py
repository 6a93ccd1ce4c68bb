"""Restore: a registry home from a backup, with the indexes of the versions that are asked."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from registry.catalog.upkeep.version_checks import version_states
from registry.pipeline.opened import opened
from registry.progress import Progress
from registry.settings import open_home
from registry.upkeep.backup.restore import RestoreReport, restore_bytes


def restore(
    folder: Path, path: Path, progress: Progress, *, catalog_url: str | None = None, packs_url: str | None = None
) -> RestoreReport:
    """Make the registry home ``path`` from the backup in ``folder``; see ``restore_bytes``, which it raises as.

    Indexes are no part of a backup. Those of versions that an alias or a pin names, or that are the newest, are made
    now, others when they are first asked for.
    """
    start = time.perf_counter()
    report = restore_bytes(folder, path, progress, catalog_url=catalog_url, packs_url=packs_url)
    with opened(open_home(report.home)) as registry:
        with registry.catalog.read() as session:
            states = version_states(session)
        wanted = [state.version for state in states if state.is_wanted and not state.is_collected]
        progress.start("indexing", len(wanted))
        for version in wanted:
            registry.index(version)
            progress.advance()
        progress.done()
    return replace(report, elapsed_seconds=time.perf_counter() - start)
