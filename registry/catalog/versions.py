"""Versions: what a build commits. A version costs rows for what changed, however large the corpus is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from sqlalchemy import Select, and_, delete, func, insert, literal, select, update
from sqlalchemy.orm import Session

from registry.catalog.builds import require_running
from registry.catalog.chunks import KEYS, chunked
from registry.catalog.dialect import BULK, insert_new, refresh_statistics
from registry.catalog.identifiers import require_ids
from registry.catalog.members import Changes, changes, members, members_by_document
from registry.catalog.models import (
    AdapterLocationRow,
    AdapterRow,
    BuildAdapterRow,
    BuildItemRow,
    BuildRow,
    CorpusRow,
    DocumentRow,
    MembershipRow,
    PlaceRow,
    VersionRow,
    utc_now,
)
from registry.catalog.names import LATEST
from registry.catalog.recipes import recipe_id
from registry.catalog.references import (
    AliasMove,
    alias_history,
    aliases,
    latest_version,
    list_versions,
    resolve,
    set_alias,
)
from registry.errors import IntegrityError, NotFoundError
from registry.records import Version

__all__ = [
    "LATEST",
    "AliasMove",
    "Changes",
    "alias_history",
    "aliases",
    "assign_adapters",
    "changes",
    "commit_version",
    "latest_version",
    "list_versions",
    "members",
    "members_by_document",
    "resolve",
    "set_alias",
    "version_digest",
]


def version_digest(recipe_digest: str, pairs: Iterable[tuple[str, str]]) -> str:
    """Return a version's identity: sha256 over its recipe and its (document, adapter) digests.

    ``pairs`` must come sorted; they are hashed as they stream by, as lines of text.
    """
    digest = hashlib.sha256(f"{recipe_digest}\n".encode())
    for chunk in chunked(pairs):
        digest.update("".join(f"{document} {adapter}\n" for document, adapter in chunk).encode())
    return digest.hexdigest()


def assign_adapters(session: Session, build_id: int, adapters: Mapping[str, str] | Iterable[tuple[str, str]]) -> None:
    """Record which adapter a running build gives its documents (document digest, adapter digest).

    A large build may do this in several transactions before it commits its version.

    Raises:
        NotFoundError: a document or an adapter is not in the catalog.
    """
    pairs = adapters.items() if isinstance(adapters, Mapping) else adapters
    for chunk in chunked(pairs):
        documents = require_ids(session, DocumentRow, (document for document, _ in chunk), "document")
        numbers = require_ids(session, AdapterRow, (adapter for _, adapter in chunk), "adapter")
        rows = {documents[document]: numbers[adapter] for document, adapter in chunk}
        assigned = BuildAdapterRow.document_id.in_(rows)
        earlier = delete(BuildAdapterRow).where(BuildAdapterRow.build_id == build_id, assigned)
        session.execute(earlier, execution_options=BULK)
        insert_new(
            session,
            BuildAdapterRow,
            [{"build_id": build_id, "document_id": key, "adapter_id": value} for key, value in rows.items()],
        )


def commit_version(
    session: Session,
    build_id: int,
    adapters: Mapping[str, str] | Iterable[tuple[str, str]],
    *,
    recipe_digest: str,
    message: str,
    alias: str = LATEST,
) -> tuple[Version, bool]:
    """Make what a running build staged the newest version of its corpus, and return it and whether it is new.

    ``adapters`` (document digest, adapter digest) adds to what ``assign_adapters`` recorded; together they name one
    adapter for every staged document. If the content equals the newest version's, that one is returned, with its
    places brought up to date. The alias moves to the version.

    Raises:
        BusyError: the build is over.
        NotFoundError: a document has no adapter, or one that is not in the catalog.
        IntegrityError: an adapter was given to a document that was not staged, or lies in no pack.
    """
    corpus = require_running(session, build_id)
    assign_adapters(session, build_id, adapters)
    refresh_statistics(session, BuildItemRow, BuildAdapterRow)
    _check_complete(session, build_id)
    digest = version_digest(recipe_digest, _assigned_pairs(session, build_id))
    name, who = session.execute(
        select(CorpusRow.name, BuildRow.who).join(BuildRow).where(BuildRow.id == build_id)
    ).one()
    newest = latest_version(session, name)
    created = newest is None or newest.digest != digest
    if newest is None or created:
        number = 1 if newest is None else newest.number + 1
        values = {
            "corpus_id": corpus,
            "number": number,
            "digest": digest,
            "parent": None if newest is None else newest.number,
            "recipe_id": recipe_id(session, recipe_digest),
            "build_id": build_id,
            "message": message,
            **_totals(session, build_id),
            "created_at": utc_now(),
        }
        session.execute(insert(VersionRow).values(values))
        _write_memberships(session, build_id, corpus, number)
        newest = resolve(session, f"{name}@v{number}")
    _write_places(session, build_id, corpus, newest.number)
    set_alias(session, newest, alias, who=who)
    return newest, created


def _totals(session: Session, build_id: int) -> dict[str, int]:
    documents, size_bytes = session.execute(
        select(func.count(), func.coalesce(func.sum(AdapterRow.size_bytes), 0))
        .join(BuildAdapterRow, BuildAdapterRow.adapter_id == AdapterRow.id)
        .where(BuildAdapterRow.build_id == build_id)
    ).one()
    return {"documents": documents, "size_bytes": int(size_bytes)}


def _assigned_pairs(session: Session, build_id: int) -> Iterable[tuple[str, str]]:
    query = (
        select(DocumentRow.digest, AdapterRow.digest)
        .join(BuildAdapterRow, BuildAdapterRow.document_id == DocumentRow.id)
        .join(AdapterRow, AdapterRow.id == BuildAdapterRow.adapter_id)
        .where(BuildAdapterRow.build_id == build_id)
        .order_by(DocumentRow.digest)
        .execution_options(yield_per=KEYS)
    )
    return ((document, adapter) for document, adapter in session.execute(query))


def _check_complete(session: Session, build_id: int) -> None:
    """Check that the staged documents and those with an adapter are the same."""
    assigned = select(BuildAdapterRow.document_id).where(
        BuildAdapterRow.build_id == build_id, BuildAdapterRow.document_id == BuildItemRow.document_id
    )
    without = _first_digest(
        session,
        select(DocumentRow.digest)
        .join(BuildItemRow, BuildItemRow.document_id == DocumentRow.id)
        .where(BuildItemRow.build_id == build_id, ~assigned.exists()),
    )
    if without is not None:
        raise NotFoundError(f"document {without} of build {build_id} has no adapter")
    staged = select(BuildItemRow.document_id).where(
        BuildItemRow.build_id == build_id, BuildItemRow.document_id == BuildAdapterRow.document_id
    )
    stranger = _first_digest(
        session,
        select(DocumentRow.digest)
        .join(BuildAdapterRow, BuildAdapterRow.document_id == DocumentRow.id)
        .where(BuildAdapterRow.build_id == build_id, ~staged.exists()),
    )
    if stranger is not None:
        raise IntegrityError(f"document {stranger} has an adapter in build {build_id}, but the build did not read it")


def _write_memberships(session: Session, build_id: int, corpus: int, number: int) -> None:
    """Close the ranges of what is gone and open those of what is new."""
    kept = select(BuildAdapterRow.document_id).where(
        BuildAdapterRow.build_id == build_id,
        BuildAdapterRow.document_id == MembershipRow.document_id,
        BuildAdapterRow.adapter_id == MembershipRow.adapter_id,
    )
    session.execute(
        update(MembershipRow)
        .where(MembershipRow.corpus_id == corpus, MembershipRow.to_version.is_(None), ~kept.exists())
        .values(to_version=number)
        .execution_options(**BULK)
    )
    # What is open still has the adapter that it should have.
    there = select(MembershipRow.document_id).where(
        MembershipRow.corpus_id == corpus,
        MembershipRow.document_id == BuildAdapterRow.document_id,
        MembershipRow.to_version.is_(None),
    )
    new = select(literal(corpus), BuildAdapterRow.document_id, literal(number), BuildAdapterRow.adapter_id).where(
        BuildAdapterRow.build_id == build_id, ~there.exists()
    )
    session.execute(insert(MembershipRow).from_select(["corpus_id", "document_id", "from_version", "adapter_id"], new))
    located = select(AdapterLocationRow.pack_id).where(AdapterLocationRow.adapter_id == MembershipRow.adapter_id)
    lost = _first_digest(
        session,
        select(AdapterRow.digest)
        .join(MembershipRow, MembershipRow.adapter_id == AdapterRow.id)
        .where(MembershipRow.corpus_id == corpus, MembershipRow.from_version == number, ~located.exists()),
    )
    if lost is not None:
        raise IntegrityError(f"adapter {lost} lies in no pack, so no version may have it")


def _write_places(session: Session, build_id: int, corpus: int, number: int) -> None:
    """Bring the places up to date as of version ``number``, which may be an old one with the same content."""
    same_record = func.coalesce(BuildItemRow.record_id, "") == func.coalesce(PlaceRow.record_id, "")
    same = and_(
        BuildItemRow.build_id == build_id,
        BuildItemRow.source_id == PlaceRow.source_id,
        BuildItemRow.ordinal == PlaceRow.ordinal,
        BuildItemRow.document_id == PlaceRow.document_id,
        same_record,
    )
    gone = and_(
        PlaceRow.corpus_id == corpus,
        PlaceRow.to_version.is_(None),
        ~select(BuildItemRow.document_id).where(same).exists(),
    )
    session.execute(delete(PlaceRow).where(gone, PlaceRow.from_version == number), execution_options=BULK)
    session.execute(update(PlaceRow).where(gone).values(to_version=number), execution_options=BULK)
    there = select(PlaceRow.document_id).where(
        PlaceRow.corpus_id == corpus,
        PlaceRow.source_id == BuildItemRow.source_id,
        PlaceRow.ordinal == BuildItemRow.ordinal,
        PlaceRow.to_version.is_(None),
    )
    new = select(
        literal(corpus),
        BuildItemRow.source_id,
        BuildItemRow.ordinal,
        literal(number),
        BuildItemRow.record_id,
        BuildItemRow.document_id,
    ).where(BuildItemRow.build_id == build_id, ~there.exists())
    columns = ["corpus_id", "source_id", "ordinal", "from_version", "record_id", "document_id"]
    session.execute(insert(PlaceRow).from_select(columns, new))


def _first_digest(session: Session, query: Select[str]) -> str | None:
    return session.scalar(query.limit(1))
