"""The part of verify that asks the catalog alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from registry.catalog.chunks import chunked
from registry.catalog.upkeep.checks import (
    Altered,
    altered_augmentations,
    altered_documents,
    altered_recipes,
    count_texts,
    dangling_rows,
    running_builds,
    staging_left,
)
from registry.catalog.upkeep.version_checks import (
    Members,
    Overlap,
    VersionState,
    counted_members,
    member_digests,
    overlaps,
    references_of_documents,
    references_of_recipes,
    unnamed_corpora,
    version_states,
)
from registry.digests import short
from registry.progress import Progress
from registry.upkeep.findings import Finding
from registry.upkeep.processes import is_alive
from registry.upkeep.verify.asking import Asking


class CatalogChecks:
    """What the catalog says of itself; ``findings`` and ``notes`` (what was not looked at) grow with each check."""

    def __init__(self, asking: Asking, progress: Progress, *, deep: bool) -> None:
        """Take what to ask with."""
        self._asking, self._progress, self._deep = asking, progress, deep
        self.findings: list[Finding] = []
        self.notes: list[str] = []
        self.documents = 0
        self.members: dict[str, int] = {}
        """How many documents a version has whose texts are here, by reference, if its members can be told."""
        self.states: list[VersionState] = asking(version_states) or []

    def run(self) -> None:
        """Make all checks."""
        self._progress.start("catalog", None)
        self._dangling()
        self._versions()
        self._builds()
        for altered in self._asking(altered_recipes) or ():
            versions = self._asking(references_of_recipes, [altered.digest]) or ()
            self.findings.append(Finding("recipe-altered", altered.digest, altered.detail, versions=versions))
        documents, augmentations = self._asking(count_texts) or (0, 0)
        self.documents = documents
        if self._deep:
            for altered in self._stream("documents", documents, altered_documents):
                versions = self._asking(references_of_documents, [altered.digest]) or ()
                self.findings.append(Finding("document-altered", altered.digest, altered.detail, versions=versions))
            for altered in self._stream("augmentations", augmentations, altered_augmentations):
                self.findings.append(Finding("augmentation-altered", altered.digest, altered.detail))
        self._progress.done()

    def _dangling(self) -> None:
        found = self._asking(dangling_rows, self._deep)
        if found is None and not self._asking.findings:
            self.notes.append("rows without partners: PostgreSQL refuses them by itself; --deep looks all the same")
        for item in found or ():
            detail = f"{item.rows} of its rows refer to rows of {item.target} that are not there"
            self.findings.append(Finding("dangling-row", item.table, detail))

    def _versions(self) -> None:
        names = {state.corpus_id: state.version.corpus for state in self.states}
        twice: set[str] = set()
        found = self._asking(overlaps) or []
        for corpus in sorted({item.corpus_id for item in found}):
            here = [item for item in found if item.corpus_id == corpus]
            finding = self._overlap(names.get(corpus, f"corpus {corpus}"), here)
            self.findings.append(finding)
            twice.update(finding.versions)
        counted = self._asking(counted_members, self.states) or {}
        digests = self._digests()
        for state in self.states:
            # Of a version that has a document twice neither numbers nor digest can be right.
            if state.version.reference in twice:
                continue
            key = (state.corpus_id, state.version.number)
            if key in counted:
                self.members[state.version.reference] = counted[key].documents - counted[key].withheld
            if detail := _altered(state, counted.get(key), digests.get(key)):
                reference = state.version.reference
                self.findings.append(Finding("version-altered", reference, detail, versions=(reference,)))
        for name in self._asking(unnamed_corpora) or ():
            detail = "it has versions, but `latest` names none of them"
            versions = tuple(state.version.reference for state in self.states if state.version.corpus == name)
            self.findings.append(Finding("version-unnamed", name, detail, versions=versions[-1:]))

    def _overlap(self, corpus: str, found: Sequence[Overlap]) -> Finding:
        digests = tuple(sorted({item.document_digest for item in found}))
        versions = tuple(
            state.version.reference
            for state in self.states
            if state.version.corpus == corpus and any(item.begin <= state.version.number < item.end for item in found)
        )
        detail = f"{len(digests)} documents are in versions twice, the first from v{found[0].begin} on"
        return Finding("membership-overlap", corpus, detail, digests=digests, versions=versions)

    def _digests(self) -> dict[tuple[int, int], str]:
        """Recompute the digests of the versions that are asked, or of all."""
        computed: dict[tuple[int, int], str] = {}
        for corpus in {state.corpus_id for state in self.states}:
            chosen = [s for s in self.states if s.corpus_id == corpus and (self._deep or s.is_wanted)]
            if chosen:
                found = self._asking(member_digests, chosen) or {}
                computed |= {(corpus, number): digest for number, digest in found.items()}
        return computed

    def _builds(self) -> None:
        for build in self._asking(running_builds) or ():
            if not is_alive(build.host, build.pid, build.started_at):
                detail = f"it builds {build.corpus}, but its process {build.pid} on {build.host} is gone"
                self.findings.append(Finding("build-abandoned", f"build {build.build_id}", detail))
        for left in self._asking(staging_left) or ():
            detail = f"it is over, but has {left.rows} staging rows"
            self.findings.append(Finding("staging-left", f"build {left.build_id}", detail))

    def _stream(self, name: str, total: int, check: Callable[[Any], Iterator[Altered | None]]) -> list[Altered]:
        found: list[Altered] = []

        def read(session: Any) -> None:
            for chunk in chunked(check(session)):
                found.extend(altered for altered in chunk if altered is not None)
                self._progress.advance(len(chunk))

        self._progress.start(name, total)
        self._asking(read)
        return found


def _altered(state: VersionState, counted: Members | None, digest: str | None) -> str | None:
    """Return in which way a version is not what its row says."""
    details = []
    if counted is not None and counted.documents != state.version.documents:
        details.append(f"it has {counted.documents} documents, not {state.version.documents}")
    if counted is not None and counted.size_bytes != state.size_bytes:
        details.append(f"its adapters take {counted.size_bytes} bytes, not {state.size_bytes}")
    if digest is not None and digest != state.version.digest:
        details.append(f"its members have the digest {short(digest)}")
    return "; ".join(details) or None
