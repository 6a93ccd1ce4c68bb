"""Versions: what a build commits. A version costs rows for what changed, however large the corpus is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Select, Update, and_, delete, func, insert, literal, select, update
from sqlalchemy.orm import Session

from registry.catalog.adapters import has_place
from registry.catalog.aliases import (
    AliasLine,
    AliasMove,
    Rollback,
    alias_history,
    aliases,
    list_aliases,
    remove_alias,
    rollback,
    set_alias,
)
from registry.catalog.builds import require_running
from registry.catalog.chunks import KEYS, chunked
from registry.catalog.dialect import BULK, insert_new, refresh_statistics
from registry.catalog.identifiers import require_ids
from registry.catalog.lineage import assign_lines
from registry.catalog.members import Changes, changes, members, members_by_document
from registry.catalog.models import (
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
from registry.catalog.pins import PinLine, list_pins, pin, unpin
from registry.catalog.recipes import recipe_id
from registry.catalog.references import (
    aliased_version,
    latest_version,
    list_versions,
    lock_corpus,
    resolve,
    resolve_open,
    versions_query,
)
from registry.errors import IntegrityError, NotFoundError
from registry.records import Version

__all__ = [
    "LATEST",
    "AliasLine",
    "AliasMove",
    "Changes",
    "PinLine",
    "Rollback",
    "alias_history",
    "aliases",
    "assign_adapters",
    "changes",
    "commit_version",
    "latest_version",
    "list_aliases",
    "list_pins",
    "list_versions",
    "members",
    "members_by_document",
    "pin",
    "remove_alias",
    "resolve",
    "resolve_open",
    "rollback",
    "set_alias",
    "unpin",
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
    """Make what a running build staged the version of its corpus that ``alias`` names, and return it and whether it
    is new.

    ``adapters`` (document digest, adapter digest) adds to what ``assign_adapters`` recorded; together they name one
    adapter for every staged document. If the content equals the version that the alias names, nothing moves; if it
    equals the newest, the alias moves there; else it becomes the next version, whose parent is the one that the alias
    named: after a rollback, what was rolled back to. Places are brought up to date only with the newest version, since
    a range of versions cannot be amended in its middle.

    Raises:
        BusyError: the build is over.
        NotFoundError: a document has no adapter, or one that is not in the catalog.
        IntegrityError: an adapter was given to a document that was not staged, or lies in no pack.
    """
    # The corpus before the build, as those do that begin builds: so no two wait for each other.
    lock_corpus(session, session.scalar(select(BuildRow.corpus_id).where(BuildRow.id == build_id)))
    corpus = require_running(session, build_id)
    assign_adapters(session, build_id, adapters)
    refresh_statistics(session, BuildItemRow, BuildAdapterRow)
    _check_complete(session, build_id)
    digest = version_digest(recipe_digest, _assigned_pairs(session, build_id))
    name, who = session.execute(
        select(CorpusRow.name, BuildRow.who).join(BuildRow).where(BuildRow.id == build_id)
    ).one()
    newest = latest_version(session, name)
    named = aliased_version(session, name, alias) or newest
    same = next((version for version in (named, newest) if version is not None and version.digest == digest), None)
    if same is None:
        values = {
            "corpus_id": corpus,
            "number": 1 if newest is None else newest.number + 1,
            "digest": digest,
            "parent": None if named is None else named.number,
            "recipe_id": recipe_id(session, recipe_digest),
            "build_id": build_id,
            "message": message,
            **_totals(session, build_id),
            "created_at": utc_now(),
        }
        version = _write_version(session, build_id, values)
    else:
        version = same
        # A build leaves no adapter without bytes, so a version that was collected is whole again.
        session.execute(_row_of(corpus, version.number).values(collected_at=None))
    if newest is None or version.number >= newest.number:
        _write_places(session, build_id, corpus, version.number)
    set_alias(session, version, alias, who=who)
    return version, same is None


def _write_version(session: Session, build_id: int, values: dict[str, Any]) -> Version:
    corpus, number = values["corpus_id"], values["number"]
    session.execute(insert(VersionRow).values(values))
    _write_memberships(session, build_id, corpus, number)
    assign_lines(session, build_id, corpus, number, values["parent"])
    row = session.execute(versions_query().where(VersionRow.corpus_id == corpus, VersionRow.number == number)).one()
    return Version(*row)


def _row_of(corpus: int, number: int) -> Update:
    return update(VersionRow).where(VersionRow.corpus_id == corpus, VersionRow.number == number)


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
    """Check that the staged documents and those with an adapter are the same, and that all adapters lie somewhere."""
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
    lost = _first_digest(
        session,
        select(AdapterRow.digest)
        .join(BuildAdapterRow, BuildAdapterRow.adapter_id == AdapterRow.id)
        .where(BuildAdapterRow.build_id == build_id, ~has_place(BuildAdapterRow.adapter_id)),
    )
    if lost is not None:
        raise IntegrityError(
            f"adapter {lost} lies in no pack any more, so no version may have it",
            hint="run the same build again: what is lost is encoded again",
        )


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
    # A document that was in the corpus before goes on with its line.
    earlier = (
        select(MembershipRow.line_id)
        .where(MembershipRow.corpus_id == corpus, MembershipRow.document_id == BuildAdapterRow.document_id)
        .limit(1)
    )
    line = func.coalesce(earlier.scalar_subquery(), BuildAdapterRow.document_id)
    new = select(literal(corpus), BuildAdapterRow.document_id, literal(number), BuildAdapterRow.adapter_id, line).where(
        BuildAdapterRow.build_id == build_id, ~there.exists()
    )
    columns = ["corpus_id", "document_id", "from_version", "adapter_id", "line_id"]
    session.execute(insert(MembershipRow).from_select(columns, new))


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
