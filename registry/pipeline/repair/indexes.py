"""Mending indexes, which are derived: each is made anew from the catalog."""

from __future__ import annotations

from collections.abc import Sequence

from registry.index import VersionIndex
from registry.pipeline.repair.bench import Bench
from registry.upkeep.findings import Finding


def mend_indexes(bench: Bench, findings: Sequence[Finding]) -> None:
    """Make the indexes anew; never from a parent's, with which one may share the damaged file."""
    bench.progress.start("indexing", len(findings))
    for finding in findings:
        with bench.noting([finding]):
            version = bench.registry.version(finding.subject)
            bench.registry.make_index(version, from_parent=False)
            index = VersionIndex.open(bench.registry.home.index_folder(version))
            bench.note([finding], f"its index was made anew, of {index.documents} documents")
        bench.progress.advance()
    bench.progress.done()
