"""What is in a version, and what changed between two."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sqlalchemy import ColumnElement, Select, func, or_, select
from sqlalchemy.orm import Session, aliased

from registry.catalog import dialect
from registry.catalog.chunks import KEYS, chunked
from registry.catalog.documents import documents_by_id
from registry.catalog.models import AdapterRow, DocumentRow, MembershipRow, PlaceRow, SourceRow, VersionRow
from registry.catalog.quick import members_of, members_query
from registry.catalog.references import corpus_id
from registry.errors import NotFoundError
from registry.records import Document, Version


class Changes(NamedTuple):
    """Documents that one version has and the other has not; ``removed`` are digests."""

    added: Iterator[Document]
    removed: list[str]


def members(session: Session, version: Version) -> Iterator[tuple[Document, str]]:
    """Yield the documents of a version with their adapters' digests, in order of the documents' digests.

    Streams: the session must stay open.
    """
    # Only numbers and digests are sorted; the texts follow by the thousand.
    for chunk in chunked(session.execute(_members(session, version))):
        texts = documents_by_id(session, (number for number, _ in chunk))
        for number, adapter in chunk:
            yield texts[number], adapter


def indexed_documents(session: Session, version: Version) -> Iterator[Document]:
    """Yield what a version's index is made of: its documents but the withheld ones, in order of their digests.

    Streams: the session must stay open.
    """
    return _stream(session, _members(session, version).with_only_columns(DocumentRow.id).where(~DocumentRow.withheld))


def withheld_documents(session: Session, version: Version) -> int:
    """Return of how many documents of a version title and text are not here: no question finds those."""
    corpus = corpus_id(session, version.corpus)
    counted = (
        select(func.count())
        .select_from(DocumentRow)
        .join(MembershipRow, MembershipRow.document_id == DocumentRow.id)
        .where(DocumentRow.withheld, checked_at(MembershipRow, corpus, version.number))
    )
    return session.scalar(counted) or 0


def member_adapters(session: Session, version: Version) -> Iterator[str]:
    """Yield the digests of a version's adapters in the order of ``members``, without reading a text; streams too."""
    return (adapter for _, adapter in session.execute(_members(session, version)))


def member_digests(session: Session, version: Version) -> Iterator[tuple[str, str]]:
    """Yield the digests of a version's documents with those of their adapters, without reading a text; streams too."""
    query = _members(session, version).with_only_columns(DocumentRow.digest, AdapterRow.digest)
    return ((document, adapter) for document, adapter in session.execute(query))


def members_by_document(
    session: Session, version: Version, document_digests: Iterable[str]
) -> dict[str, tuple[Document, str]]:
    """Return documents with their adapters' digests, by document digest; those not in the version are left out."""
    found: dict[str, tuple[Document, str]] = {}
    for chunk in chunked(document_digests):
        query, values = members_query(version, chunk, mark=dialect.mark(session))
        found |= members_of(dialect.driver_rows(session, query, values))
    return found


def changes(session: Session, corpus: str, from_version: int | None, to_version: int) -> Changes:
    """Return which documents ``to_version`` has and ``from_version`` has not, and the other way round.

    Without ``from_version`` all documents are added. A document whose adapter alone changed is no change here, and
    withheld documents are left out. Costs what changed between the two, in either direction.

    Raises:
        NotFoundError: there is no such corpus or version.
    """
    number = corpus_id(session, corpus)
    for wanted in {to_version, from_version} - {None}:
        known = select(VersionRow.number).where(VersionRow.corpus_id == number, VersionRow.number == wanted)
        if session.scalar(known) is None:
            raise NotFoundError(f"corpus {corpus!r} has no version v{wanted}", hint=f"pragreg corpora show {corpus}")
    if from_version is None:
        everything = _documents(number).where(valid_at(MembershipRow, to_version))
        return Changes(_stream(session, everything), [])
    added = _only_in(number, to_version, from_version)
    removed = _only_in(number, from_version, to_version).with_only_columns(DocumentRow.digest)
    return Changes(_stream(session, added), list(session.scalars(removed)))


def documents_by_record(session: Session, version: Version, names: Iterable[str]) -> dict[str, list[str]]:
    """Return the digests of a version's documents by the name of their record, in the order of their passages.

    A name is the identifier that a source gives a record, or ``file name#ordinal`` for sources that give none.
    """
    found: dict[str, list[str]] = {}
    places = (
        select(PlaceRow.record_id, SourceRow.uri, PlaceRow.ordinal, DocumentRow.digest)
        .join(DocumentRow, DocumentRow.id == PlaceRow.document_id)
        .join(SourceRow, SourceRow.id == PlaceRow.source_id)
        .where(PlaceRow.corpus_id == corpus_id(session, version.corpus), valid_at(PlaceRow, version.number))
        .order_by(SourceRow.uri, PlaceRow.ordinal)
    )
    wanted = set(names)
    for chunk in chunked(wanted):
        for record, _, _, digest in session.execute(places.where(PlaceRow.record_id.in_(chunk))):
            found.setdefault(str(record), []).append(digest)
    files = {name.rpartition("#")[0] for name in wanted - found.keys() if "#" in name}
    for file in sorted(files):
        ends = or_(SourceRow.uri == file, SourceRow.uri.endswith(f"/{file}", autoescape=True))
        for _, _, ordinal, digest in session.execute(places.where(ends)):
            if (name := f"{file}#{ordinal}") in wanted:
                found.setdefault(name, []).append(digest)
    return found


def documents_by_title(session: Session, version: Version, titles: Iterable[str]) -> dict[str, list[str]]:
    """Return the digests of a version's documents by their title, in order of the digests."""
    found: dict[str, list[str]] = {}
    corpus = corpus_id(session, version.corpus)
    for chunk in chunked(set(titles)):
        rows = session.execute(
            select(DocumentRow.title, DocumentRow.digest)
            .join(MembershipRow, MembershipRow.document_id == DocumentRow.id)
            .where(MembershipRow.corpus_id == corpus, valid_at(MembershipRow, version.number))
            .where(DocumentRow.title.in_(chunk))
            .order_by(DocumentRow.digest)
        )
        for title, digest in rows:
            found.setdefault(title, []).append(digest)
    return found


def valid_at(row: type[MembershipRow] | type[PlaceRow], number: int) -> ColumnElement[bool]:
    """Return the condition that a validity range covers a version."""
    return (row.from_version <= number) & or_(row.to_version.is_(None), row.to_version > number)


def checked_at(row: type[MembershipRow] | type[PlaceRow], corpus: int, number: int) -> ColumnElement[bool]:
    """Return the condition that a row is of a corpus and covers a version, for rows that are found by something else.

    Adding 0 keeps planners from starting with the corpus, which without statistics looks selective and is everything.
    """
    return (
        (row.corpus_id + 0 == corpus)
        & (row.from_version + 0 <= number)
        & or_(row.to_version.is_(None), row.to_version + 0 > number)
    )


def _members(session: Session, version: Version) -> Select[int, str]:
    """Select a version's documents by number and their adapters' digests, in order of the documents' digests."""
    return (
        select(DocumentRow.id, AdapterRow.digest)
        .join(MembershipRow, MembershipRow.document_id == DocumentRow.id)
        .join(AdapterRow, AdapterRow.id == MembershipRow.adapter_id)
        .where(MembershipRow.corpus_id == corpus_id(session, version.corpus), valid_at(MembershipRow, version.number))
        .order_by(DocumentRow.digest)
        .execution_options(yield_per=KEYS)
    )


def _documents(corpus: int) -> Select[int]:
    return (
        select(DocumentRow.id)
        .join(MembershipRow, MembershipRow.document_id == DocumentRow.id)
        .where(MembershipRow.corpus_id == corpus, ~DocumentRow.withheld)
        .order_by(DocumentRow.digest)
    )


def _only_in(corpus: int, one: int, other: int) -> Select[int]:
    """Select the documents that version ``one`` has and ``other`` has not."""
    # A range that covers one but not the other has an end between them, which an index finds.
    if one > other:
        between = MembershipRow.from_version.between(other + 1, one)
    else:
        between = MembershipRow.to_version.between(one + 1, other)
    twin = aliased(MembershipRow)
    in_other = (
        select(twin.document_id)
        .where(twin.corpus_id == corpus, twin.document_id == MembershipRow.document_id)
        .where(twin.from_version <= other, or_(twin.to_version.is_(None), twin.to_version > other))
    )
    return _documents(corpus).where(between, valid_at(MembershipRow, one), ~in_other.exists())


def _stream(session: Session, query: Select[int]) -> Iterator[Document]:
    numbers = session.scalars(query.execution_options(yield_per=KEYS))
    for chunk in chunked(numbers):
        texts = documents_by_id(session, chunk)
        yield from (texts[number] for number in chunk)
