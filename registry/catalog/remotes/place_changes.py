"""Where documents stand from a version on, as a delta says it; places that stay the same are not touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from registry.catalog.chunks import chunked
from registry.catalog.dialect import insert_new, refresh_statistics
from registry.catalog.identifiers import ids_by_digest
from registry.catalog.models import DocumentRow, MembershipRow, PlaceRow
from registry.catalog.references import corpus_id, latest_version, lock_corpus
from registry.catalog.remotes.source_names import local_uris
from registry.catalog.sources import add_sources
from registry.records import Place, PlacedDocument


class _Standing(NamedTuple):
    """A document (row id) at a source (row id), and what else is the place's own."""

    document: int
    source: int
    ordinal: int
    record: str | None


def change_places(
    session: Session,
    corpus: int,
    number: int,
    places: Mapping[int, tuple[Place, ...]],
    *,
    repository: str | None,
    remote_id: int | None,
) -> None:
    """Let documents (row ids) stand at these places, and no others, from version ``number`` of a corpus on.

    With ``repository`` sources are called as there. Of two documents that come to one place the first stands there.
    """
    sources = _sources(session, places.values(), repository, remote_id)
    has_earlier = session.scalar(select(PlaceRow.document_id).where(PlaceRow.corpus_id == corpus).limit(1)) is not None
    for chunk in chunked(places):
        wanted = {
            _Standing(document, sources[place.source_uri], place.ordinal, place.record_id): None
            for document in chunk
            for place in places[document]
        }
        stood = _standing(session, corpus, chunk) if has_earlier else set()
        _end(session, corpus, number, [one for one in stood if one not in wanted])
        rows = [
            {
                "corpus_id": corpus,
                "source_id": one.source,
                "ordinal": one.ordinal,
                "from_version": number,
                "record_id": one.record,
                "document_id": one.document,
            }
            for one in wanted
            if one not in stood
        ]
        insert_new(session, PlaceRow, rows)
    refresh_statistics(session, PlaceRow)


def add_places(session: Session, corpus: str, placed: Iterable[PlacedDocument]) -> None:
    """Let documents of a corpus' newest version that stand nowhere stand at all of these places.

    A repository that withholds texts withholds their places too, so that they come with the texts.

    Raises:
        NotFoundError: there is no such corpus.
    """
    newest = latest_version(session, corpus)
    items = list(placed)
    if newest is None:
        return
    number = corpus_id(session, corpus)
    lock_corpus(session, number)
    documents = ids_by_digest(session, DocumentRow, (item.document.digest for item in items))
    for chunk in chunked(documents.values()):
        stands = select(PlaceRow.document_id).where(
            PlaceRow.corpus_id + 0 == number,
            PlaceRow.document_id == MembershipRow.document_id,
            PlaceRow.to_version.is_(None),
        )
        homeless = set(
            session.scalars(
                select(MembershipRow.document_id)
                .where(MembershipRow.corpus_id + 0 == number, MembershipRow.document_id.in_(chunk))
                .where(MembershipRow.to_version.is_(None), ~stands.exists())
            )
        )
        places: dict[int, tuple[Place, ...]] = dict.fromkeys(sorted(homeless), ())
        for item in items:
            if (document := documents.get(item.document.digest)) in homeless:
                places[document] = (*places[document], item.place)
        change_places(session, number, newest.number, places, repository=None, remote_id=None)


def _sources(
    session: Session, places: Iterable[tuple[Place, ...]], repository: str | None, remote_id: int | None
) -> dict[str, int]:
    """Return the row ids of sources, which are recorded, by what the places call them."""
    names = {place.source_uri for standing in places for place in standing}
    uris = {name: name for name in names}
    if repository is not None:
        uris = local_uris(session, repository, remote_id, names)
    numbers = add_sources(session, uris.values())
    return {name: numbers[uri] for name, uri in uris.items()}


def _standing(session: Session, corpus: int, documents: Sequence[int]) -> set[_Standing]:
    query = select(PlaceRow.document_id, PlaceRow.source_id, PlaceRow.ordinal, PlaceRow.record_id).where(
        PlaceRow.corpus_id + 0 == corpus, PlaceRow.document_id.in_(documents), PlaceRow.to_version.is_(None)
    )
    return {_Standing(*row) for row in session.execute(query)}


def _end(session: Session, corpus: int, number: int, places: Sequence[_Standing]) -> None:
    ended = update(PlaceRow).where(
        PlaceRow.corpus_id == corpus,
        PlaceRow.source_id == bindparam("source"),
        PlaceRow.ordinal == bindparam("place"),
        PlaceRow.document_id == bindparam("document"),
        PlaceRow.to_version.is_(None),
    )
    rows = [{"source": one.source, "place": one.ordinal, "document": one.document} for one in places]
    if rows:
        session.connection().execute(ended.values(to_version=number), rows)
