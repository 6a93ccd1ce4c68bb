"""The part of verify that opens the indexes.

Always: the description and the files' sizes of every index, and that those of the versions which are asked (by an
alias, a pin, or as the newest) are there and open. With ``deep`` every file's checksum, so that one flipped bit in a
segment is found, and that the index holds the very documents of its version. A change in tantivy's two small files of
JSON is found only where it hinders the opening or changes which documents there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from registry.catalog.upkeep.version_checks import VersionState, document_digests, version_states
from registry.errors import PragregError
from registry.index import VersionIndex
from registry.index.checking import Seen, damaged_files, is_being_built, size_bytes_of
from registry.index.folders import read_description
from registry.progress import Progress
from registry.settings import Home
from registry.upkeep.findings import Finding
from registry.upkeep.verify.asking import Asking


class IndexChecks:
    """Checks the index of every version; ``findings`` grow, ``count`` is how many indexes there are."""

    def __init__(self, home: Home, asking: Asking, progress: Progress, *, deep: bool) -> None:
        """Take where the indexes lie and what to ask with."""
        self._home, self._asking, self._progress, self._deep = home, asking, progress, deep
        self._seen: Seen = {}
        self.findings: list[Finding] = []
        self.count = 0

    def run(self, states: Sequence[VersionState], documents: Mapping[str, int]) -> None:
        """Make all checks; versions of equal content share an index.

        ``documents`` says of how many documents of a version the texts are here, by reference; one that is not there
        has members that cannot be told.
        """
        groups: dict[Path, list[VersionState]] = {}
        for state in states:
            if not state.is_collected:
                groups.setdefault(self._home.index_folder(state.version), []).append(state)
        self._progress.start("indexes", len(groups))
        for folder, sharing in groups.items():
            self._check(folder, sharing, documents.get(sharing[0].version.reference))
            self._progress.advance()
        # Without versions a damaged catalog may have lost them, and every index would seem to be of none.
        if not self._asking.findings:
            self._unknown()
        self._progress.done()

    def _check(self, folder: Path, states: Sequence[VersionState], documents: int | None) -> None:
        wanted = [state for state in states if state.is_wanted]
        if not folder.is_dir():
            if wanted and not any(state.is_building for state in states):
                self._add("index-missing", wanted, f"there is no folder {folder}")
            return
        self.count += 1
        try:
            held = read_description(folder).documents
            if self._deep and (damaged := damaged_files(folder, self._seen)):
                name, problem = next(iter(damaged.items()))
                more = f" (and {len(damaged) - 1} more files)" if len(damaged) > 1 else ""
                self._add("index-damaged", states, f"{folder / name} {problem}{more}")
            elif documents not in (held, None):
                self._add("index-altered", states, f"{folder} has {held} documents, the version {documents}")
            elif wanted or self._deep:
                self._open(folder, states, compare=self._deep and documents is not None)
        except PragregError as error:
            self._add("index-damaged", states, error.message)

    def _open(self, folder: Path, states: Sequence[VersionState], *, compare: bool) -> None:
        index = VersionIndex.open(folder)
        if not compare:
            return
        held = sorted(index.digests())
        wanted = self._asking(document_digests, states[0])
        if wanted is not None and held != wanted:
            lacking, foreign = set(wanted) - set(held), set(held) - set(wanted)
            detail = f"{folder} lacks {len(lacking)} of the version's documents and has {len(foreign)} others"
            self._add("index-altered", states, detail)

    def _unknown(self) -> None:
        found = [path for corpus in self._home.index_path.glob("*") if corpus.is_dir() for path in corpus.iterdir()]
        # Versions that came meanwhile have their folders, too.
        states = self._asking(version_states) or ()
        known = {self._home.index_folder(state.version) for state in states if not state.is_collected}
        for path in sorted(set(found) - known):
            is_partial = path.name.endswith(".partial")
            if path.exists() and not (is_partial and is_being_built(path.parent)):
                detail = "a killed build left it" if is_partial else "it is of no version that is there"
                self.findings.append(Finding("index-unknown", str(path), detail, size_bytes=size_bytes_of(path)))

    def _add(self, kind: str, states: Sequence[VersionState], detail: str) -> None:
        references = tuple(state.version.reference for state in states)
        self.findings.append(Finding(kind, references[-1], detail, versions=references))
