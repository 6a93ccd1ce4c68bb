"""What the catalog is told after a push."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

from registry.catalog.remotes.remotes import add_remote_locations, save_remote
from registry.catalog.remotes.source_names import save_names
from registry.errors import IntegrityError, PragregError
from registry.hub.manifest.members import Members
from registry.pipeline.push.contents import Contents
from registry.pipeline.push.publish import Published
from registry.pipeline.push.survey import Survey
from registry.pipeline.push.work import Work
from registry.pipeline.repositories import mirror_of
from registry.published import Member, Root, ShardEntry


class _NotHereError(PragregError):
    """A shard would have to be fetched."""


def record_push(work: Work, published: Published, contents: Contents | None, found: Survey | None) -> None:
    """Tell the catalog in one transaction what the repository is now, and where all adapters lie there."""
    assert published.commit_id is not None
    members: Iterable[Member] = ()
    if contents is not None and found is not None:
        is_known = work.known is not None and work.known.root.encode() == work.seen.root_bytes
        members = _of_steps(contents, found) if is_known else chain.from_iterable(contents.members.walk())
    _save(work, published.commit_id, published.root_bytes, members, {} if found is None else found.names)
    mirror_of(work.registry.home, work.hub.endpoint, work.repository).prune(published.root.shards)


def record_equal(work: Work, root: Root) -> None:
    """Tell the catalog of a commit that it does not know, where there was nothing to push.

    Either somebody edited another file, or a push was killed before the catalog was told: then all shards are here.
    Where they are not, nothing is told, so that looking costs no more than looking.
    """
    head, known, data = work.seen.head, work.known, work.seen.root_bytes
    if head is None or (known is not None and known.commit_id == head):
        return
    members: Iterable[Member] = ()
    if known is None or known.root.encode() != data:
        try:
            members = list(chain.from_iterable(_kept(work, root).walk()))
        except _NotHereError:
            return
    _save(work, head, data, members, {})


def _save(work: Work, commit: str, root: bytes, members: Iterable[Member], names: Mapping[str, str]) -> None:
    with work.registry.catalog.write() as session:
        remote = save_remote(
            session,
            corpus=work.corpus,
            endpoint=work.hub.endpoint,
            repository=work.repository,
            commit_id=commit,
            root=root.decode(),
            pushed_at=datetime.now(UTC),
        )
        save_names(session, remote, names)
        add_remote_locations(session, remote, members)


def _of_steps(contents: Contents, found: Survey) -> Iterator[Member]:
    documents = dict.fromkeys(standing.document_digest for _, step in found.needs.steps for standing in step.opened)
    for document in documents:
        yield from contents.members.of_document(document)


def _kept(work: Work, root: Root) -> Members:
    """Return the members of a root of which all shards are kept here; reading one that is not raises."""
    mirror = mirror_of(work.registry.home, work.hub.endpoint, work.repository)

    def refuse(entry: ShardEntry, into: Path) -> None:
        raise _NotHereError(entry.file.digest)

    def load(number: int) -> list[Member]:
        entry = root.shards[number]
        try:
            return [] if entry is None else mirror.shard(entry, number, root.shard_bits, refuse)
        except IntegrityError as error:
            raise _NotHereError(error.message) from error

    return Members(root.shard_bits, root.shards, load)
