"""Lists for people to look at: a page of plain lines, and what the whole registry holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session, aliased

from registry.catalog.evaluations import EvaluationRecord, get_evaluation, list_evaluations
from registry.catalog.identifiers import complete_digest
from registry.catalog.lines import (
    EXCERPT,
    AdapterLine,
    BuildLine,
    CorpusLine,
    DocumentLine,
    QueryLine,
    adapter_lines,
    build_lines,
    query_line,
)
from registry.catalog.members import checked_at, valid_at
from registry.catalog.models import (
    AdapterRow,
    AugmentationRow,
    BaseModelRow,
    BuildRow,
    CorpusRow,
    DocumentRow,
    MembershipRow,
    PackRow,
    PlaceRow,
    QueryRow,
    RecipeRow,
    SourceRow,
    VersionRow,
)
from registry.catalog.references import corpus_id, current_number, resolve
from registry.catalog.showing import (
    AdapterDetail,
    CorpusDetail,
    DocumentDetail,
    QueryDetail,
    show_adapter,
    show_build,
    show_corpus,
    show_document,
    show_query,
)
from registry.records import Version

show_evaluation = get_evaluation
"""Called like the others."""

__all__ = [
    "AdapterDetail",
    "AdapterLine",
    "BuildLine",
    "CorpusDetail",
    "CorpusLine",
    "DocumentDetail",
    "DocumentLine",
    "EvaluationRecord",
    "QueryDetail",
    "QueryLine",
    "Summary",
    "list_adapters",
    "list_builds",
    "list_corpora",
    "list_documents",
    "list_evaluations",
    "list_queries",
    "show_adapter",
    "show_build",
    "show_corpus",
    "show_document",
    "show_evaluation",
    "show_query",
    "summary",
]

PAGE = 50
"""Lines of a list, unless asked for otherwise."""


GATHERED = 20_000
"""Up to so many documents of a version are gathered before a list of them is begun."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a registry holds: numbers of rows, and bytes of adapters and of packs."""

    corpora: int
    versions: int
    documents: int
    sources: int
    augmentations: int
    recipes: int
    base_models: int
    adapters: int
    adapters_size_bytes: int
    packs: int
    packs_size_bytes: int
    builds: int
    queries: int


def list_documents(
    session: Session,
    *,
    reference: str | None = None,
    title: str | None = None,
    limit: int | None = PAGE,
    offset: int = 0,
) -> list[DocumentLine]:
    """Return documents, oldest first: of a version (``corpus`` or ``corpus@ref``), with ``title`` in their title.

    Raises:
        NotFoundError: there is no such version.
    """
    query = select(
        DocumentRow.id,
        DocumentRow.digest,
        DocumentRow.title,
        func.substr(DocumentRow.text, 1, EXCERPT),
        DocumentRow.characters,
    ).order_by(DocumentRow.id)
    where: ColumnElement[bool] = PlaceRow.to_version.is_(None)
    if reference is not None:
        version = resolve(session, reference)
        query = query.where(_is_member(session, version, DocumentRow.id, MembershipRow.document_id))
        where = checked_at(PlaceRow, corpus_id(session, version.corpus), version.number)
    if title:
        query = query.where(DocumentRow.title.icontains(title, autoescape=True))
    rows = session.execute(query.limit(limit).offset(offset)).all()
    places = _places(session, [row[0] for row in rows], where)
    return [
        DocumentLine(digest, name, excerpt, characters, *places.get(number, (0, None)))
        for number, digest, name, excerpt, characters in rows
    ]


def list_adapters(
    session: Session,
    *,
    reference: str | None = None,
    title: str | None = None,
    recipe: str | None = None,
    document: str | None = None,
    limit: int | None = PAGE,
    offset: int = 0,
) -> list[AdapterLine]:
    """Return adapters, oldest first: of a version, by title, by recipe or document (digests may be abbreviated).

    Raises:
        NotFoundError: there is no such version, recipe or document.
    """
    query = adapter_lines()
    if reference is not None:
        version = resolve(session, reference)
        query = query.where(_is_member(session, version, AdapterRow.id, MembershipRow.adapter_id))
    if title:
        query = query.where(DocumentRow.title.icontains(title, autoescape=True))
    if recipe:
        query = query.where(RecipeRow.digest == complete_digest(session, RecipeRow.digest, recipe, "recipe"))
    if document:
        query = query.where(DocumentRow.digest == complete_digest(session, DocumentRow.digest, document, "document"))
    return [AdapterLine(*row) for row in session.execute(query.limit(limit).offset(offset))]


def list_corpora(session: Session, *, limit: int | None = PAGE, offset: int = 0) -> list[CorpusLine]:
    """Return corpora by name, each with the version that its ``latest`` names."""
    versions = select(func.count()).where(VersionRow.corpus_id == CorpusRow.id).scalar_subquery()
    current = aliased(VersionRow)
    rows = session.execute(
        select(
            CorpusRow.name,
            current.digest,
            current.number,
            versions,
            func.coalesce(current.documents, 0),
            RecipeRow.digest,
            CorpusRow.language,
            CorpusRow.created_at,
        )
        .select_from(CorpusRow)
        .outerjoin(current, (current.corpus_id == CorpusRow.id) & (current.number == current_number(CorpusRow.id)))
        .outerjoin(RecipeRow, RecipeRow.id == current.recipe_id)
        .order_by(CorpusRow.name)
        .limit(limit)
        .offset(offset)
    )
    return [CorpusLine(*row) for row in rows]


def list_builds(
    session: Session,
    *,
    corpus: str | None = None,
    status: str | None = None,
    limit: int | None = PAGE,
    offset: int = 0,
) -> list[BuildLine]:
    """Return builds, newest first.

    Raises:
        NotFoundError: there is no such corpus.
    """
    query = build_lines().order_by(BuildRow.id.desc())
    if corpus is not None:
        query = query.where(BuildRow.corpus_id == corpus_id(session, corpus))
    if status is not None:
        query = query.where(BuildRow.status == status)
    return [BuildLine(*row) for row in session.execute(query.limit(limit).offset(offset))]


def list_queries(
    session: Session,
    *,
    corpus: str | None = None,
    mode: str | None = None,
    text: str | None = None,
    limit: int | None = PAGE,
    offset: int = 0,
) -> list[QueryLine]:
    """Return answered questions, newest first: of a corpus, in a mode, with ``text`` in the question.

    Raises:
        NotFoundError: there is no such corpus.
    """
    query = select(QueryRow, CorpusRow.name).outerjoin(CorpusRow, CorpusRow.id == QueryRow.corpus_id)
    if corpus is not None:
        query = query.where(QueryRow.corpus_id == corpus_id(session, corpus))
    if mode is not None:
        query = query.where(QueryRow.mode == mode)
    if text:
        query = query.where(QueryRow.question.icontains(text, autoescape=True))
    rows = session.execute(query.order_by(QueryRow.id.desc()).limit(limit).offset(offset))
    return [query_line(row, name) for row, name in rows]


def summary(session: Session) -> Summary:
    """Count what the registry holds."""

    def total(column: Any) -> int:
        return int(session.scalar(select(column)) or 0)

    return Summary(
        corpora=total(func.count(CorpusRow.id)),
        versions=total(func.count(VersionRow.number)),
        documents=total(func.count(DocumentRow.id)),
        sources=total(func.count(SourceRow.id)),
        augmentations=total(func.count(AugmentationRow.id)),
        recipes=total(func.count(RecipeRow.id)),
        base_models=total(func.count(BaseModelRow.id)),
        adapters=total(func.count(AdapterRow.id)),
        adapters_size_bytes=total(func.sum(AdapterRow.size_bytes)),
        packs=total(func.count(PackRow.id)),
        packs_size_bytes=total(func.sum(PackRow.size_bytes)),
        builds=total(func.count(BuildRow.id)),
        queries=total(func.count(QueryRow.id)),
    )


def _is_member(session: Session, version: Version, own: Any, column: Any) -> ColumnElement[bool]:
    """Return the condition that ``own`` is among the values of a membership column in a version.

    The rows of a large version are checked one by one until a page is full; those of a small one are gathered first,
    so that the page is not searched for in a registry full of others.
    """
    corpus = corpus_id(session, version.corpus)
    if version.documents <= GATHERED:
        inside = select(column).where(MembershipRow.corpus_id == corpus, valid_at(MembershipRow, version.number))
        gathered: ColumnElement[bool] = own.in_(inside)
        return gathered
    row = select(column).where(column == own, checked_at(MembershipRow, corpus, version.number))
    return row.exists()


def _places(
    session: Session, documents: Sequence[int], where: ColumnElement[bool]
) -> dict[int, tuple[int, str | None]]:
    rows = session.execute(
        select(PlaceRow.document_id, SourceRow.uri)
        .join(SourceRow, SourceRow.id == PlaceRow.source_id)
        .where(PlaceRow.document_id.in_(documents), where)
        .order_by(PlaceRow.document_id, SourceRow.uri, PlaceRow.ordinal)
    )
    found: dict[int, tuple[int, str | None]] = {}
    for document, uri in rows:
        count, first = found.get(document, (0, uri))
        found[document] = (count + 1, first)
    return found
