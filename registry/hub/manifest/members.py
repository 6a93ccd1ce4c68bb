"""The members of a repository through all its versions; shards are read when a document of theirs is asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from registry.digests import short
from registry.errors import IntegrityError
from registry.hub.manifest.limits import MOST_BITS, SHARD_ROWS
from registry.hub.manifest.shards import bits_for, shard_number, write_shard
from registry.published import FileRef, Member, ShardEntry, Standing, VersionDelta
from registry.records import Place

_Rows = tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a repository has an adapter: see ``Member``. ``records`` is the file with its record."""

    size_bytes: int
    pack: FileRef | None
    offset: int | None
    records: FileRef


@dataclass(frozen=True, slots=True)
class Counts:
    """What a repository's members are together, all versions of them: see ``Root``.

    ``adapters`` counts those that lie in a pack, once for each document.
    """

    documents: int = 0
    adapters: int = 0
    packs: int = 0
    packs_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Written:
    """Shards as the next root names them, and the bytes of those files that the last root did not name."""

    bits: int
    entries: tuple[ShardEntry | None, ...]
    files: Mapping[FileRef, bytes]


class Members:
    """The rows of all shards, to look at and to continue.

    ``load`` reads a shard by its number; what it raises goes through. ``counts`` are those of the root that names the
    shards. ``known_packs`` are digests of packs that the repository already has: they are not counted again when a new
    row names one.
    """

    def __init__(
        self,
        bits: int = 0,
        entries: Sequence[ShardEntry | None] = (None,),
        load: Callable[[int], list[Member]] = lambda _: [],
        *,
        counts: Counts | None = None,
        known_packs: Collection[str] = (),
    ) -> None:
        """Take the shards of a root, or start with nothing."""
        if len(entries) != 1 << bits:
            raise ValueError(f"{len(entries)} shards do not fit {bits} bits")
        self._bits = bits
        self._entries = tuple(entries)
        self._load = load
        self._shards: dict[int, dict[str, _Rows]] = {}
        self._before: dict[int, dict[str, _Rows]] = {}
        self._rows = sum(entry.rows for entry in entries if entry)
        self._counts = counts or Counts()
        self._packs = set(known_packs)

    @property
    def rows(self) -> int:
        """How many rows all shards have."""
        return self._rows

    @property
    def counts(self) -> Counts:
        """What the members are together, with all that was applied."""
        return self._counts

    def of_document(self, digest: str) -> Sequence[Member]:
        """Return a document's rows in order of version; none if it was never a member."""
        return self._shard(shard_number(digest, self._bits)).get(digest, ())

    def placement_of(self, document_digest: str, adapter_digest: str) -> Placement | None:
        """Return where the repository has an adapter of a document; None if it has not."""
        for member in self.of_document(document_digest):
            if member.adapter_digest == adapter_digest and member.pack is not None:
                return Placement(member.size_bytes, member.pack, member.offset, member.records)
        return None

    def apply(self, version_number: int, delta: VersionDelta, place: Callable[[Standing], Placement]) -> None:
        """Continue the newest version by ``delta``, which makes version ``version_number``.

        ``place`` tells where an opened document's adapter lies.

        Raises:
            IntegrityError: a document that goes or moves is not in the newest version, or one that comes is already.
        """
        for document in sorted(delta.closed):
            shard, earlier, newest = self._newest(document)
            shard[document] = (*earlier, replace(newest, to_version=version_number))
        for document, places in delta.moved.items():
            shard, earlier, newest = self._newest(document)
            shard[document] = (*earlier, replace(newest, places=_in_order(places)))
        for standing in delta.opened:
            self._open(version_number, standing, place(standing))

    def changed_shards(self) -> tuple[int, ...]:
        """Return the numbers of the shards with other rows than when they were read, in order."""
        return tuple(sorted(n for n, before in self._before.items() if before != self._shards[n]))

    def walk(self) -> Iterator[Sequence[Member]]:
        """Yield every shard's rows, in order; those that are not held already are read and not kept."""
        for number in range(len(self._entries)):
            if number in self._shards:
                yield _flat(self._shards[number])
            else:
                yield self._load(number) if self._entries[number] else []

    def version_pairs(self, number: int) -> Iterator[tuple[str, str]]:
        """Yield a version's document and adapter digests, sorted, as its digest is taken of."""
        for rows in self.walk():
            for member in rows:
                if is_in(member, number):
                    yield member.document_digest, member.adapter_digest

    def write(self) -> Written:
        """Return the shards as they are now; a shard with the same rows keeps its file.

        Where there are more than twice as many rows as this number of shards is meant for, all are cut anew.
        """
        wanted = bits_for(self._rows)
        grown = wanted > self._bits and (self._rows > 2 * SHARD_ROWS << self._bits or not any(self._entries))
        if grown:
            self._cut(min(wanted, MOST_BITS))
        entries, files = list(self._entries), {}
        for number in self._shards if grown else self.changed_shards():
            rows = _flat(self._shards[number])
            if not rows:
                entries[number] = None
                continue
            data, entry = write_shard(rows)
            if entry != self._entries[number]:
                files[entry.file] = data
            entries[number] = entry
        return Written(self._bits, tuple(entries), files)

    def _shard(self, number: int) -> dict[str, _Rows]:
        if number not in self._shards:
            rows = self._load(number) if self._entries[number] else []
            self._shards[number] = _by_document(rows)
            self._packs.update(member.pack.digest for member in rows if member.pack)
        return self._shards[number]

    def _touch(self, document: str) -> dict[str, _Rows]:
        number = shard_number(document, self._bits)
        shard = self._shard(number)
        if number not in self._before:
            self._before[number] = dict(shard)
        return shard

    def _newest(self, document: str) -> tuple[dict[str, _Rows], _Rows, Member]:
        """Return the shard of a document of the newest version, with its rows: the earlier ones, and the open one."""
        shard = self._touch(document)
        rows = shard.get(document, ())
        if not rows or rows[-1].to_version is not None:
            raise IntegrityError(f"the document {short(document)} is not in the newest version of the repository")
        return shard, rows[:-1], rows[-1]

    def _open(self, number: int, standing: Standing, placement: Placement) -> None:
        document = standing.document_digest
        shard = self._touch(document)
        earlier = shard.get(document, ())
        if earlier and earlier[-1].to_version is None:
            raise IntegrityError(f"the document {short(document)} is in the newest version of the repository already")
        self._count(earlier, standing.adapter_digest, placement.pack)
        member = Member(
            document_digest=document,
            adapter_digest=standing.adapter_digest,
            from_version=number,
            to_version=None,
            line=standing.line,
            shares_line=standing.shares_line,
            places=_in_order(standing.places),
            size_bytes=placement.size_bytes,
            pack=placement.pack,
            offset=placement.offset,
            records=placement.records,
        )
        shard[document] = (*earlier, member)
        self._rows += 1

    def _count(self, earlier: _Rows, adapter: str, pack: FileRef | None) -> None:
        counts = self._counts
        is_new = pack is not None and all(row.adapter_digest != adapter or row.pack is None for row in earlier)
        documents, adapters = counts.documents + (not earlier), counts.adapters + is_new
        packs, packs_bytes = counts.packs, counts.packs_bytes
        if pack is not None and pack.digest not in self._packs:
            self._packs.add(pack.digest)
            packs, packs_bytes = packs + 1, packs_bytes + pack.size_bytes
        self._counts = Counts(documents, adapters, packs, packs_bytes)

    def _cut(self, bits: int) -> None:
        """Hold all rows, in shards by so many bits."""
        shards: dict[int, dict[str, _Rows]] = {number: {} for number in range(1 << bits)}
        for number in range(len(self._entries)):
            for document, rows in self._shard(number).items():
                shards[shard_number(document, bits)][document] = rows
        self._bits, self._entries = bits, (None,) * (1 << bits)
        self._shards, self._before = shards, {}


def is_in(member: Member, number: int) -> bool:
    """Return whether a row holds for a version."""
    return member.from_version <= number and (member.to_version is None or number < member.to_version)


def deltas(rows: Iterable[Member], after: int, up_to: int) -> list[VersionDelta]:
    """Return how the versions ``after`` + 1 to ``up_to`` each came from the one before, told by these rows.

    Places are known of the last version of a row's range only. So the last delta's ``moved`` has the places of all
    documents that were there in ``after`` and still are, whether they changed or not.
    """
    closed: list[set[str]] = [set() for _ in range(after, up_to)]
    opened: list[list[Standing]] = [[] for _ in range(after, up_to)]
    moved: dict[str, tuple[Place, ...]] = {}
    for member in rows:
        end = member.to_version
        if after < member.from_version <= up_to:
            opened[member.from_version - after - 1].append(standing_of(member))
        if end is not None and after < end <= up_to:
            closed[end - after - 1].add(member.document_digest)
        if member.from_version <= after and (end is None or end > up_to):
            moved[member.document_digest] = member.places
    steps = zip(closed, opened, strict=True)
    last = up_to - after - 1
    return [VersionDelta(frozenset(c), tuple(o), moved if i == last else {}) for i, (c, o) in enumerate(steps)]


def standing_of(member: Member) -> Standing:
    """Return what a row says of its document in the versions of its range."""
    return Standing(member.document_digest, member.adapter_digest, member.line, member.shares_line, member.places)


def _in_order(places: Iterable[Place]) -> tuple[Place, ...]:
    """Return places in the order of shards, each once."""
    by_position = {(place.source_uri, place.ordinal): place for place in places}
    return tuple(by_position[position] for position in sorted(by_position))


def _by_document(rows: Iterable[Member]) -> dict[str, _Rows]:
    shard: dict[str, list[Member]] = {}
    for member in rows:
        shard.setdefault(member.document_digest, []).append(member)
    return {document: tuple(members) for document, members in shard.items()}


def _flat(shard: Mapping[str, _Rows]) -> list[Member]:
    return [member for document in sorted(shard) for member in shard[document]]
