"""One line each: what lists show of documents, adapters, corpora, builds and queries."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select

from registry.catalog.models import (
    AdapterLocationRow,
    AdapterRow,
    BuildRow,
    CorpusRow,
    DocumentRow,
    PackRow,
    QueryRow,
    RecipeRow,
    VersionRow,
)
from registry.catalog.queries import STEPS

EXCERPT = 160
"""Characters of a document's text in a list."""


@dataclass(frozen=True, slots=True)
class DocumentLine:
    """A document in a list; ``places`` counts where it stands and ``source_uri`` is the first of them."""

    digest: str
    title: str
    excerpt: str
    characters: int
    places: int
    source_uri: str | None


@dataclass(frozen=True, slots=True)
class AdapterLine:
    """An adapter in a list; ``pack_digest`` is None if it lies in no pack."""

    digest: str
    document_digest: str
    title: str
    recipe_digest: str
    size_bytes: int
    first_loss: float
    last_loss: float
    elapsed_seconds: float
    pack_digest: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class CorpusLine:
    """A corpus in a list: ``digest``, ``version``, ``documents`` and ``recipe_digest`` are of the version that its
    ``latest`` names (None, and 0 documents, without one); ``versions`` counts all."""

    name: str
    digest: str | None
    version: int | None
    versions: int
    documents: int
    recipe_digest: str | None
    language: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class BuildLine:
    """A build in a list; ``version`` is the one it made, None if it made none."""

    build_id: int
    corpus: str
    status: str
    message: str
    who: str
    host: str
    pid: int
    started_at: datetime
    finished_at: datetime | None
    recipe_digest: str
    version: int | None
    sources: int
    documents: int
    places: int
    reused: int
    trained: int
    skipped: int
    without_augmentation: int
    size_bytes: int
    error: str | None


@dataclass(frozen=True, slots=True)
class QueryLine:
    """An answered question in a list; ``elapsed_ms`` is the sum over its steps, in milliseconds."""

    query_id: int
    question: str
    answer: str
    mode: str
    version: str | None
    elapsed_ms: float
    created_at: datetime


def adapter_lines() -> Select[*tuple[Any, ...]]:
    """Return a query whose rows are the fields of ``AdapterLine`` in order."""
    pack = (
        select(PackRow.digest)
        .join(AdapterLocationRow, AdapterLocationRow.pack_id == PackRow.id)
        .where(AdapterLocationRow.adapter_id == AdapterRow.id)
        .order_by(PackRow.id)
        .limit(1)
    )
    return (
        select(
            AdapterRow.digest,
            DocumentRow.digest,
            DocumentRow.title,
            RecipeRow.digest,
            AdapterRow.size_bytes,
            AdapterRow.first_loss,
            AdapterRow.last_loss,
            AdapterRow.elapsed_seconds,
            pack.scalar_subquery(),
            AdapterRow.created_at,
        )
        .join(DocumentRow, DocumentRow.id == AdapterRow.document_id)
        .join(RecipeRow, RecipeRow.id == AdapterRow.recipe_id)
        .order_by(AdapterRow.id)
    )


def build_lines() -> Select[*tuple[Any, ...]]:
    """Return a query whose rows are the fields of ``BuildLine`` in order."""
    version = select(func.max(VersionRow.number)).where(VersionRow.build_id == BuildRow.id)
    return (
        select(
            BuildRow.id,
            CorpusRow.name,
            BuildRow.status,
            BuildRow.message,
            BuildRow.who,
            BuildRow.host,
            BuildRow.pid,
            BuildRow.started_at,
            BuildRow.finished_at,
            RecipeRow.digest,
            version.scalar_subquery(),
            BuildRow.sources,
            BuildRow.documents,
            BuildRow.places,
            BuildRow.reused,
            BuildRow.trained,
            BuildRow.skipped,
            BuildRow.without_augmentation,
            BuildRow.size_bytes,
            BuildRow.error,
        )
        .join(CorpusRow, CorpusRow.id == BuildRow.corpus_id)
        .join(RecipeRow, RecipeRow.id == BuildRow.recipe_id)
    )


def query_line(row: QueryRow, corpus: str | None) -> QueryLine:
    """Return the line of an answered question about ``corpus``."""
    return QueryLine(
        query_id=row.id,
        question=row.question,
        answer=row.answer,
        mode=row.mode,
        version=None if row.version is None else f"{corpus}@v{row.version}",
        elapsed_ms=sum(milliseconds(row).values()),
        created_at=row.created_at,
    )


def milliseconds(row: QueryRow) -> dict[str, float]:
    """Return the milliseconds of the steps that a query had."""
    steps = {step: getattr(row, f"{step}_ms") for step in STEPS}
    return {step: value for step, value in steps.items() if value is not None}
