"""What a repository lacks of the versions that it is to get: adapters, records, and how its members change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from registry.hub.manifest.members import Members, Placement
from registry.published import FileRef, PublishedVersion, Standing, VersionDelta

Pair = tuple[str, str]
"""The digests of a document and of its adapter."""
Step = tuple[PublishedVersion, VersionDelta]
Steps = Sequence[Step]
"""Versions, numbered as in the repository, with how each becomes from the one before."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What is to be sent so that the repository has versions.

    ``steps`` are the versions, and how each becomes. ``known`` says where the repository has the
    adapters that it has already. ``new`` are pairs whose records it lacks, in order; ``lacking`` are the adapters that
    it lacks and gets, in order of their documents, each once. A pair that is in ``new`` but whose adapter is not in
    ``lacking`` is of collected versions only: the repository knows of it, but has it not.
    """

    steps: tuple[Step, ...]
    known: Mapping[Pair, Placement]
    new: tuple[Pair, ...]
    lacking: tuple[str, ...]

    def place(self, standing: Standing, places: Mapping[str, tuple[FileRef, int]], records: Records) -> Placement:
        """Return where an adapter lies when all is sent: ``places`` are those of adapters that were sent."""
        pair = (standing.document_digest, standing.adapter_digest)
        if (placement := self.known.get(pair)) is not None:
            return placement
        file, size_bytes = records[pair]
        pack, offset = places.get(standing.adapter_digest, (None, None))
        return Placement(size_bytes=size_bytes, pack=pack, offset=offset, records=file)


Records = Mapping[Pair, tuple[FileRef, int]]
"""The file with the record of each new pair, and the size of the adapter in bytes."""


def find_needs(members: Members, steps: Steps) -> Needs:
    """Return what a repository, whose newest version is complete, lacks of the versions that ``steps`` lead to."""
    steps = _with_lines(members, steps)
    wanted = _wanted(steps)
    known: dict[Pair, Placement] = {}
    new: set[Pair] = set()
    for _, delta in steps:
        for standing in delta.opened:
            pair = (standing.document_digest, standing.adapter_digest)
            if pair in known or pair in new:
                continue
            placement = members.placement_of(*pair)
            if placement is None:
                # The record of what only collected versions had is without its text, so it comes anew.
                new.add(pair)
            else:
                known[pair] = placement
    ordered = sorted(new)
    lacking = dict.fromkeys(adapter for document, adapter in ordered if (document, adapter) in wanted)
    told = _with_completeness(steps, known.keys(), lacking.keys())
    return Needs(told, known, tuple(ordered), tuple(lacking))


def _wanted(steps: Steps) -> set[Pair]:
    """Return the pairs that come with these steps and that a complete version among them has."""
    wanted: set[Pair] = set()
    waiting: dict[str, str] = {}
    for version, delta in steps:
        for document in delta.closed:
            waiting.pop(document, None)
        waiting.update((standing.document_digest, standing.adapter_digest) for standing in delta.opened)
        if version.is_complete:
            wanted.update(waiting.items())
            waiting.clear()
    return wanted


def _with_lines(members: Members, steps: Steps) -> Steps:
    """Have no line begin with a document that the repository has not: versions left behind in a rebase may have had it.

    The first document of such a line that the repository gets is its beginning there.
    """
    opened = {standing.document_digest for _, delta in steps for standing in delta.opened}
    begins: dict[str, str] = {}

    def published(standing: Standing) -> Standing:
        line, document = standing.line, standing.document_digest
        if line == document or line in opened or members.of_document(line):
            return standing
        return replace(standing, line=begins.setdefault(line, document))

    return [(version, replace(delta, opened=tuple(map(published, delta.opened)))) for version, delta in steps]


def _with_completeness(steps: Steps, known: Set[Pair], sent: Set[str]) -> tuple[Step, ...]:
    """Say of every version whether the repository will have all its adapters.

    It may have those of a collected one, where other versions have them too.
    """
    lacking: set[str] = set()
    told = []
    for version, delta in steps:
        lacking -= delta.closed
        for standing in delta.opened:
            pair = (standing.document_digest, standing.adapter_digest)
            if pair not in known and standing.adapter_digest not in sent:
                lacking.add(standing.document_digest)
        told.append((replace(version, is_complete=not lacking), delta))
    return tuple(told)
