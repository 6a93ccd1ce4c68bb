"""Remotes: what the catalog knows of repositories that corpora were pushed to or pulled from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Select, delete, select, update
from sqlalchemy.orm import Session

from registry.catalog.chunks import chunked
from registry.catalog.dialect import BULK, insert_new
from registry.catalog.identifiers import require_ids
from registry.catalog.models import AdapterRow, CorpusRow, RemoteLocationRow, RemotePackRow, RemoteRow
from registry.catalog.references import corpus_id
from registry.published import FileRef, Member

_NEVER = datetime.min.replace(tzinfo=UTC)
_MEMBERS = 10_000


@dataclass(frozen=True, slots=True)
class Remote:
    """A repository that a corpus was pushed to or pulled from.

    ``root`` is its root manifest as it was last seen, at the commit ``commit_id``. ``is_lazy`` says that adapters were
    left there. ``pushed_at`` and ``pulled_at`` are None where that was never done.
    """

    remote_id: int
    corpus: str
    endpoint: str
    repository: str
    commit_id: str
    root: str
    is_lazy: bool
    pushed_at: datetime | None
    pulled_at: datetime | None

    @property
    def seen_at(self) -> datetime:
        """When it was pushed to or pulled from last."""
        return max(self.pushed_at or _NEVER, self.pulled_at or _NEVER)


@dataclass(frozen=True, slots=True)
class RemoteLocation:
    """Where an adapter's bytes lie in a repository: ``size_bytes`` from ``offset`` in a pack of it."""

    adapter_digest: str
    endpoint: str
    repository: str
    commit_id: str
    pack: FileRef
    offset: int
    size_bytes: int


def find_remote(session: Session, endpoint: str, repository: str, corpus: str | None) -> Remote | None:
    """Return what is known of a repository as the corpus' remote, None if nothing is.

    Without ``corpus`` it is the one that was seen last.
    """
    query = _remotes().where(RemoteRow.endpoint == endpoint, RemoteRow.repository == repository)
    if corpus is not None:
        query = query.where(CorpusRow.name == corpus)
    return next(iter(_newest_first(session, query)), None)


def list_remotes(session: Session) -> list[Remote]:
    """Return all remotes, by corpus, repository and endpoint."""
    rows = session.execute(_remotes().order_by(CorpusRow.name, RemoteRow.repository, RemoteRow.endpoint))
    return [Remote(*row) for row in rows]


def save_remote(
    session: Session,
    *,
    corpus: str,
    endpoint: str,
    repository: str,
    commit_id: str,
    root: str,
    is_lazy: bool | None = None,
    pushed_at: datetime | None = None,
    pulled_at: datetime | None = None,
) -> int:
    """Record a repository as it was seen at a commit, and return the number of the remote.

    What is None stays as it was (a new one is not lazy, and was never pushed to or pulled from).

    Raises:
        NotFoundError: there is no such corpus.
    """
    key = {"corpus_id": corpus_id(session, corpus), "endpoint": endpoint, "repository": repository}
    same = [RemoteRow.__table__.c[name] == value for name, value in key.items()]
    seen: dict[str, Any] = {"commit_id": commit_id, "root": root}
    told = {"is_lazy": is_lazy, "pushed_at": pushed_at, "pulled_at": pulled_at}
    seen |= {name: value for name, value in told.items() if value is not None}
    insert_new(session, RemoteRow, [{"is_lazy": False, "pushed_at": None, "pulled_at": None, **key, **seen}])
    session.execute(update(RemoteRow).where(*same).values(seen), execution_options=BULK)
    return session.scalars(select(RemoteRow.id).where(*same)).one()


def add_remote_locations(session: Session, remote_id: int, members: Iterable[Member]) -> None:
    """Record where the adapters of ``members`` lie in a repository; those that it has not are passed over.

    What is recorded of an adapter already is replaced. Members stream by; an adapter may come several times.

    Raises:
        NotFoundError: an adapter is not in the catalog.
    """
    packs: dict[str, int] = {}
    there = select(RemoteLocationRow.adapter_id).where(RemoteLocationRow.remote_id == remote_id)
    for chunk in chunked((member for member in members if member.pack is not None), _MEMBERS):
        files = {member.pack.digest: member.pack for member in chunk if member.pack is not None}
        packs |= _pack_ids(session, remote_id, [ref for digest, ref in files.items() if digest not in packs])
        adapters = require_ids(session, AdapterRow, (member.adapter_digest for member in chunk), "adapter")
        rows = {
            adapters[member.adapter_digest]: {
                "remote_id": remote_id,
                "adapter_id": adapters[member.adapter_digest],
                "pack_id": packs[member.pack.digest],
                "offset": member.offset,
                "size_bytes": member.size_bytes,
            }
            for member in chunk
            if member.pack is not None
        }
        has_earlier = session.scalar(there.limit(1)) is not None
        for part in chunked(rows) if has_earlier else ():
            earlier = delete(RemoteLocationRow).where(
                RemoteLocationRow.remote_id == remote_id, RemoteLocationRow.adapter_id.in_(part)
            )
            session.execute(earlier, execution_options=BULK)
        insert_new(session, RemoteLocationRow, rows.values())


def locate_remote(session: Session, adapter_digests: Iterable[str]) -> dict[str, RemoteLocation]:
    """Return where adapters lie in repositories, by digest; those that lie in none are left out.

    Of several repositories it is the one that was seen last.
    """
    seen = session.execute(select(RemoteRow.id, RemoteRow.pushed_at, RemoteRow.pulled_at)).all()
    if not seen:
        return {}
    moments = {number: (max(pushed or _NEVER, pulled or _NEVER), number) for number, pushed, pulled in seen}
    found: dict[str, tuple[tuple[datetime, int], RemoteLocation]] = {}
    query = (
        select(
            RemoteRow.id,
            AdapterRow.digest,
            RemoteRow.endpoint,
            RemoteRow.repository,
            RemoteRow.commit_id,
            RemotePackRow.digest,
            RemotePackRow.size_bytes,
            RemoteLocationRow.offset,
            RemoteLocationRow.size_bytes,
        )
        .join(RemoteLocationRow, RemoteLocationRow.adapter_id == AdapterRow.id)
        .join(RemoteRow, RemoteRow.id == RemoteLocationRow.remote_id)
        .join(RemotePackRow, RemotePackRow.id == RemoteLocationRow.pack_id)
    )
    for chunk in chunked(set(adapter_digests)):
        for row in session.execute(query.where(AdapterRow.digest.in_(chunk))):
            remote, adapter, endpoint, repository, commit, pack, pack_bytes, offset, size = row
            location = RemoteLocation(adapter, endpoint, repository, commit, FileRef(pack, pack_bytes), offset, size)
            if adapter not in found or moments[remote] > found[adapter][0]:
                found[adapter] = (moments[remote], location)
    return {adapter: location for adapter, (_, location) in found.items()}


def _pack_ids(session: Session, remote_id: int, packs: Sequence[FileRef]) -> dict[str, int]:
    rows = [{"remote_id": remote_id, "digest": ref.digest, "size_bytes": ref.size_bytes} for ref in packs]
    insert_new(session, RemotePackRow, rows)
    found: dict[str, int] = {}
    query = select(RemotePackRow.digest, RemotePackRow.id).where(RemotePackRow.remote_id == remote_id)
    for chunk in chunked(ref.digest for ref in packs):
        found |= {digest: number for digest, number in session.execute(query.where(RemotePackRow.digest.in_(chunk)))}
    return found


def _newest_first(session: Session, query: Select[*tuple[Any, ...]]) -> list[Remote]:
    found = [Remote(*row) for row in session.execute(query)]
    return sorted(found, key=lambda remote: (remote.seen_at, remote.remote_id), reverse=True)


def _remotes() -> Select[*tuple[Any, ...]]:
    return select(
        RemoteRow.id,
        CorpusRow.name,
        RemoteRow.endpoint,
        RemoteRow.repository,
        RemoteRow.commit_id,
        RemoteRow.root,
        RemoteRow.is_lazy,
        RemoteRow.pushed_at,
        RemoteRow.pulled_at,
    ).join(CorpusRow, CorpusRow.id == RemoteRow.corpus_id)
