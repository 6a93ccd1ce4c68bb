"""Sends what a repository lacks, and makes the shards that name it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from registry.catalog.remotes.publishing import member_records
from registry.digests import sha256_hex
from registry.errors import IntegrityError
from registry.hub.client import NewFile, Upload
from registry.hub.manifest.members import Members, Written
from registry.hub.manifest.records import in_files, write_records
from registry.hub.names import pack_path, records_path, shard_path
from registry.pipeline.push.needs import Pair
from registry.pipeline.push.outgoing import Outgoing, Part
from registry.pipeline.push.plain import plain_record
from registry.pipeline.push.request import Sent
from registry.pipeline.push.sending import Sender
from registry.pipeline.push.survey import Survey, texts_missing
from registry.pipeline.push.work import Work
from registry.pipeline.repositories import mirror_of
from registry.published import FileRef, MemberRecord, ShardEntry
from registry.records import Pack

_MEND = "pragreg verify shows what is damaged, pragreg repair mends what can be; then push again"


@dataclass(frozen=True)
class Contents:
    """What lies at the Hub now, though no commit names it yet: ``uploads``, and the shards that are to be committed.

    ``deleted`` are paths of shards that the next root does not name; ``recipes`` are digests of all recipes that
    records name.
    """

    uploads: Sequence[Upload]
    shards: Sequence[NewFile]
    deleted: Sequence[str]
    written: Written
    members: Members
    recipes: frozenset[str]
    sent: Sent


def send_contents(work: Work, found: Survey, outgoing: Outgoing) -> Contents:
    """Send packs and records ahead, and return them with the shards that name them. Nothing is published by that.

    ``outgoing`` must last until the commit.

    Raises:
        IntegrityError: a pack or an adapter of this home is damaged.
        UsageError: texts are to be published that are not here.
        HubError: the Hub cannot be reached, or refuses.
    """
    work.progress.start("uploading", found.packs_bytes, unit="bytes")
    with Sender(work.hub, work.repository, work.progress) as sender:
        sending = _Sending(work, outgoing, sender)
        with _damage_is_here():
            gone = sending.send_whole(found)
            sending.send_records(found)
            sending.compose([*found.packing.composed, *gone])
            sender.flush()
        # While the last files are on their way: where they will lie is known.
        for version, step in found.needs.steps:
            found.members.apply(
                version.number, step, lambda standing: found.needs.place(standing, sending.places, sending.records)
            )
        written = found.members.write()
        with _damage_is_here():
            uploads = sender.finish()
    work.progress.done()
    _keep(work, written)
    before = () if work.seen.root is None else work.seen.root.shards
    old, new = ({entry.file for entry in entries if entry is not None} for entries in (before, written.entries))
    return Contents(
        uploads=uploads,
        shards=[NewFile(shard_path(file.digest), data, file.digest) for file, data in written.files.items()],
        deleted=sorted(shard_path(file.digest) for file in old - new),
        written=written,
        members=found.members,
        recipes=frozenset(sending.recipes),
        sent=replace(
            found.sent,
            records_bytes=sending.records_bytes,
            shards=len(written.files),
            shards_bytes=sum(file.size_bytes for file in written.files),
        ),
    )


@contextmanager
def _damage_is_here() -> Iterator[None]:
    """Say of damage that it is in this home."""
    try:
        yield
    except IntegrityError as error:
        raise IntegrityError(error.message, hint=_MEND) from error


class _Sending:
    """Sends one push's packs and records, and notes where all lies."""

    def __init__(self, work: Work, outgoing: Outgoing, sender: Sender) -> None:
        self._work, self._outgoing, self._sender = work, outgoing, sender
        self.places: dict[str, tuple[FileRef, int]] = {}
        self.records: dict[Pair, tuple[FileRef, int]] = {}
        self.records_bytes = 0
        self.recipes: set[str] = set()

    def send_whole(self, found: Survey) -> list[tuple[Part, ...]]:
        """Send packs as they are; return what those held that are gone meanwhile, to be composed from elsewhere."""
        gone = []
        for published in found.task_adapters:
            pack = self._work.registry.packs.inspect(published.pack.digest)
            if not self._send_as_it_is(pack):
                raise IntegrityError(f"the pack of the task adapter {published.task_adapter.digest} is gone")
        for pack in found.packing.whole:
            if self._send_as_it_is(pack):
                self._note(pack)
            else:
                gone.append(tuple(Part(place.adapter_digest, place.size_bytes) for place in pack.adapters))
        self._sender.flush()
        return gone

    def send_records(self, found: Survey) -> None:
        """Write and send the records of what is new to the repository."""
        work = self._work
        if not found.needs.new:
            return
        with work.registry.catalog.read() as session:
            withheld = "all" if found.withheld is None else found.withheld
            records = member_records(session, found.needs.new, withheld)
            for batch in in_files(self._checked(records, found.withheld)):
                data = write_records(batch)
                file = FileRef(sha256_hex(data), len(data))
                for record in batch:
                    self.records[record.document_digest, record.adapter_digest] = (file, record.size_bytes)
                self.recipes |= {record.recipe_digest for record in batch}
                self.records_bytes += file.size_bytes
                self._sender.send(NewFile(records_path(file.digest), data, file.digest), file.size_bytes)

    def compose(self, packs: Sequence[tuple[Part, ...]]) -> None:
        """Make new packs of adapters wherever they lie, and send each when it is made."""
        for parts in packs:
            path, pack = self._outgoing.compose(parts, self._work.registry.adapters)
            file = NewFile(pack_path(pack.digest), path, pack.digest)
            self._sender.send(file, pack.size_bytes, spooled=path)
            self._note(pack)

    def _send_as_it_is(self, pack: Pack) -> bool:
        packs = self._work.registry.packs
        where = packs.path_of(pack.digest)
        copied = self._outgoing.copy(pack.digest, packs.stream(pack.digest)) if "://" in where else None
        path = copied or self._outgoing.hold(Path(where))
        if path is None:
            return False
        self._sender.send(NewFile(pack_path(pack.digest), path, pack.digest), pack.size_bytes, spooled=copied)
        return True

    def _note(self, pack: Pack) -> None:
        file = FileRef(pack.digest, pack.size_bytes)
        for place in pack.adapters:
            self.places[place.adapter_digest] = (file, place.offset)

    def _checked(self, records: Iterator[MemberRecord], withheld: Set[str] | None) -> Iterator[MemberRecord]:
        for record in records:
            if withheld is not None and record.title is None and record.document_digest not in withheld:
                raise texts_missing(self._work, 1)
            yield plain_record(record)


def _keep(work: Work, written: Written) -> None:
    """Keep the new shards here before they are published, so that no later push has to fetch them."""
    mirror = mirror_of(work.registry.home, work.hub.endpoint, work.repository)
    entries: dict[FileRef, ShardEntry] = {entry.file: entry for entry in written.entries if entry is not None}
    for file, data in written.files.items():
        mirror.keep(entries[file], data)
