"""How one version of a corpus becomes another, at the cost of what changed: see ``VersionDelta``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, literal_column, select
from sqlalchemy.orm import Session

from registry.catalog.chunks import chunked
from registry.catalog.members import checked_at, valid_at
from registry.catalog.models import AdapterRow, DocumentRow, MembershipRow, PlaceRow, SourceRow, VersionRow
from registry.catalog.references import corpus_id
from registry.catalog.remotes.source_names import source_name
from registry.errors import NotFoundError
from registry.published import Standing, VersionDelta
from registry.records import Place


class _Member(NamedTuple):
    """A document in a version, by row id: its adapter and its line."""

    document: int
    adapter: int
    line: int
    shares_line: bool


def delta(session: Session, corpus: str, before: int | None, after: int, names: Mapping[str, str]) -> VersionDelta:
    """Return how the version ``before`` becomes ``after``, whichever is newer; without ``before`` all is opened.

    ``names`` are ``published_names`` of the corpus in the repository; places come with those names. It costs what
    changed. What is opened comes in order of the documents' digests.

    Raises:
        NotFoundError: there is no such corpus or version.
    """
    number = corpus_id(session, corpus)
    for wanted in {before, after} - {None}:
        known = select(VersionRow.number).where(VersionRow.corpus_id == number, VersionRow.number == wanted)
        if session.scalar(known) is None:
            raise NotFoundError(f"corpus {corpus!r} has no version v{wanted}", hint=f"pragreg versions {corpus}")
    if before is None:
        new = _members(session, number, valid_at(MembershipRow, after))
        return VersionDelta(frozenset(), _standings(session, number, after, new.values(), names), {})
    old = _members(session, number, _only(MembershipRow, before, after))
    new = _members(session, number, _only(MembershipRow, after, before))
    # A document that went and came back with its adapter has two ranges and is no difference.
    same = {document for document, member in new.items() if document in old and old[document].adapter == member.adapter}
    opened = [member for document, member in new.items() if document not in same]
    gone = _digests(session, old.keys() - same)
    moved = _moved(session, number, before, after, names, without=(old.keys() | new.keys()) - same)
    return VersionDelta(frozenset(gone.values()), _standings(session, number, after, opened, names), moved)


def _only(row: type[MembershipRow] | type[PlaceRow], one: int, other: int) -> ColumnElement[bool]:
    """Return the condition that a range covers version ``one`` and not ``other``."""
    # Such a range has an end between them, which an index finds; that of places has only those that begin later.
    if one > other:
        later = row.from_version > literal_column("1")
        return row.from_version.between(other + 1, one) & valid_at(row, one) & later
    return row.to_version.between(one + 1, other) & valid_at(row, one)


def _members(session: Session, corpus: int, condition: ColumnElement[bool]) -> dict[int, _Member]:
    columns = (MembershipRow.document_id, MembershipRow.adapter_id, MembershipRow.line_id, MembershipRow.shares_line)
    rows = session.execute(select(*columns).where(MembershipRow.corpus_id == corpus, condition))
    return {row[0]: _Member(*row) for row in rows}


def _standings(
    session: Session, corpus: int, number: int, members: Iterable[_Member], names: Mapping[str, str]
) -> tuple[Standing, ...]:
    found: list[Standing] = []
    for chunk in chunked(members):
        documents = _digests(session, {one for member in chunk for one in (member.document, member.line)})
        adapters = {
            adapter: digest
            for adapter, digest in session.execute(
                select(AdapterRow.id, AdapterRow.digest).where(AdapterRow.id.in_({one.adapter for one in chunk}))
            )
        }
        places = _places(session, corpus, number, [member.document for member in chunk], names)
        found += (
            Standing(
                document_digest=documents[member.document],
                adapter_digest=adapters[member.adapter],
                line=documents.get(member.line, documents[member.document]),
                shares_line=member.shares_line,
                places=places.get(member.document, ()),
            )
            for member in chunk
        )
    return tuple(sorted(found, key=lambda standing: standing.document_digest))


def _moved(
    session: Session, corpus: int, before: int, after: int, names: Mapping[str, str], *, without: set[int]
) -> dict[str, tuple[Place, ...]]:
    """Return the documents of both versions whose places differ, with those in ``after``."""
    touched: set[int] = set()
    for one, other in ((before, after), (after, before)):
        ended = select(PlaceRow.document_id).where(PlaceRow.corpus_id == corpus, _only(PlaceRow, one, other))
        touched.update(session.scalars(ended))
    moved: dict[int, tuple[Place, ...]] = {}
    for chunk in chunked(touched - without):
        was = _places(session, corpus, before, chunk, names)
        now = _places(session, corpus, after, chunk, names)
        moved |= {one: now.get(one, ()) for one in chunk if was.get(one, ()) != now.get(one, ())}
    digests = _digests(session, moved)
    return {digests[document]: places for document, places in moved.items()}


def _places(
    session: Session, corpus: int, number: int, documents: Sequence[int], names: Mapping[str, str]
) -> dict[int, tuple[Place, ...]]:
    """Return the places of documents (at most a statement's worth) in a version, in order, each once."""
    rows = session.execute(
        select(PlaceRow.document_id, SourceRow.uri, PlaceRow.ordinal, PlaceRow.record_id)
        .join(SourceRow, SourceRow.id == PlaceRow.source_id)
        .where(PlaceRow.document_id.in_(documents), checked_at(PlaceRow, corpus, number))
    )
    found: dict[int, set[Place]] = {}
    for document, uri, ordinal, record in rows:
        found.setdefault(document, set()).add(Place(source_name(uri, names), ordinal, record))
    return {document: tuple(sorted(places, key=_order)) for document, places in found.items()}


def _order(place: Place) -> tuple[str, int, str]:
    return place.source_uri, place.ordinal, place.record_id or ""


def _digests(session: Session, documents: Iterable[int]) -> dict[int, str]:
    found: dict[int, str] = {}
    for chunk in chunked(documents):
        rows = session.execute(select(DocumentRow.id, DocumentRow.digest).where(DocumentRow.id.in_(chunk)))
        found |= {number: digest for number, digest in rows}
    return found
