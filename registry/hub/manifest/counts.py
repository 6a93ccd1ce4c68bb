"""Whether the shards of a repository say what its root says."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from registry.digests import short
from registry.errors import IntegrityError
from registry.hub.manifest.members import Counts, Members
from registry.published import FileRef, Member, Root

_ENDLESS = 2**31 - 1
_LINE_BYTES = 130  # two digests, a space and a line end


def count(shards: Iterable[Iterable[Member]]) -> Counts:
    """Return what the members of all shards are together."""
    tally = _Tally(versions=0)
    for rows in shards:
        tally.add(rows)
    return tally.counts


def check_counts(root: Root, members: Members, *, versions: Collection[int] | None = None) -> None:
    """Check every number of the root against the shards, and the digests of ``versions`` (None: of all).

    Costs a walk through all shards, and the hashing of every version that is named.

    Raises:
        IntegrityError: something differs; the message says what.
    """
    what = f"the manifest of {root.repository}"
    wanted = [version for version in root.versions if versions is None or version.number in versions]
    hashes = {version.number: hashlib.sha256(f"{version.recipe_digest}\n".encode()) for version in wanted}
    tally = _Tally(len(root.versions))
    for rows in members.walk():
        tally.add(rows)
        if tally.problem:
            raise IntegrityError(f"{what} contradicts itself: {tally.problem}")
        _hash(rows, hashes)
    said = Counts(root.documents, root.adapters, root.packs, root.packs_bytes)
    if tally.counts != said:
        raise IntegrityError(f"{what} counts {_shown(said)}; its shards have {_shown(tally.counts)}")
    for line in sorted(tally.lines):
        if not members.of_document(line):
            raise IntegrityError(f"{what} has a line that begins with {short(line)}, which is no document of it")
    documents, sizes, lacking = tally.by_version()
    for version, of_version in zip(root.versions, zip(documents, sizes, lacking, strict=True), strict=True):
        name = f"version {version.number} in {what}"
        if of_version[:2] != (version.documents, version.size_bytes):
            raise IntegrityError(
                f"{name} counts {version.documents} documents and {version.size_bytes} bytes; "
                f"its shards have {of_version[0]} and {of_version[1]}"
            )
        if version.is_complete != (of_version[2] == 0):
            raise IntegrityError(f"{name} lacks {of_version[2]} adapters, other than it says")
        if version.number in hashes and hashes[version.number].hexdigest() != version.digest:
            raise IntegrityError(f"{name} has another digest than its members")


@dataclass
class _Tally:
    """What was counted so far; ``problem`` is the first contradiction, in words."""

    versions: int
    documents: int = 0
    adapters: int = 0
    packs: dict[str, int] = field(default_factory=dict)
    records: dict[str, int] = field(default_factory=dict)
    lines: set[str] = field(default_factory=set)
    problem: str | None = None
    _changes: dict[int, list[int]] = field(default_factory=dict)

    @property
    def counts(self) -> Counts:
        return Counts(self.documents, self.adapters, len(self.packs), sum(self.packs.values()))

    def add(self, rows: Iterable[Member]) -> None:
        """Count rows of whole documents, in order."""
        document, adapters = "", dict[str, tuple[int, bool]]()
        for member in rows:
            if member.document_digest != document:
                document, adapters = member.document_digest, {}
                self.documents += 1
            self._add_adapter(adapters, member)
            self._add_file(self.records, member.records)
            if member.line != document:
                self.lines.add(member.line)
            if self.versions:
                self._add_range(member)

    def by_version(self) -> list[tuple[int, ...]]:
        """Return documents, bytes and adapters that lie in no pack, each for all versions in order."""
        state, states = [0, 0, 0], []
        for number in range(1, self.versions + 1):
            state = [a + b for a, b in zip(state, self._changes.get(number, (0, 0, 0)), strict=True)]
            states.append(state)
        return list(zip(*states, strict=True))

    def _add_adapter(self, known: dict[str, tuple[int, bool]], member: Member) -> None:
        size_bytes, is_counted = known.get(member.adapter_digest, (member.size_bytes, False))
        if size_bytes != member.size_bytes:
            self.problem = self.problem or f"the adapter {short(member.adapter_digest)} has two sizes"
        if member.pack is not None:
            self.adapters += not is_counted
            self._add_file(self.packs, member.pack)
        known[member.adapter_digest] = (size_bytes, is_counted or member.pack is not None)

    def _add_file(self, known: dict[str, int], file: FileRef) -> None:
        if known.setdefault(file.digest, file.size_bytes) != file.size_bytes:
            self.problem = self.problem or f"the file {short(file.digest)} has two sizes"

    def _add_range(self, member: Member) -> None:
        if max(member.from_version, member.to_version or 0) > self.versions:
            self.problem = self.problem or (
                f"the document {short(member.document_digest)} is in versions after the {self.versions}th, the last"
            )
            return
        change = (1, member.size_bytes, int(member.pack is None))
        for number, sign in ((member.from_version, 1), (member.to_version, -1)):
            if number is not None:
                sums = self._changes.setdefault(number, [0, 0, 0])
                for at, value in enumerate(change):
                    sums[at] += sign * value


def _hash(rows: Sequence[Member], hashes: dict[int, hashlib._Hash]) -> None:
    """Feed each version's digest its members, whose lines of text are made once."""
    if not rows or not hashes:
        return
    begins = np.array([member.from_version for member in rows])
    ends = np.array([member.to_version or _ENDLESS for member in rows])
    text = "".join(f"{member.document_digest} {member.adapter_digest}\n" for member in rows)
    lines = np.frombuffer(text.encode(), dtype=np.uint8).reshape(len(rows), _LINE_BYTES)
    for number, digest in hashes.items():
        digest.update(lines[(begins <= number) & (ends > number)].tobytes())


def _shown(counts: Counts) -> str:
    return (
        f"{counts.documents} documents and {counts.adapters} adapters "
        f"in {counts.packs} packs of {counts.packs_bytes} bytes"
    )
