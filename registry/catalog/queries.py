"""The log of answered questions."""

from __future__ import annotations

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from registry.catalog.identifiers import ids_by_digest, require_ids
from registry.catalog.models import AdapterRow, BaseModelRow, DocumentRow, QueryHitRow, QueryRow, RecipeRow, utc_now
from registry.catalog.references import corpus_id, resolve
from registry.records import Answer

STEPS = ("search", "load", "merge", "inject", "prefill", "decode")
"""The steps whose milliseconds are kept, in order of their happening."""


def log_query(session: Session, answer: Answer, corpus: str | None = None) -> int:
    """Record an answered question with its hits, and return its number.

    ``answer.version`` is a reference such as ``handbook@v3``, or empty if no version was asked; then the question
    counts for ``corpus``, if one is given.

    Raises:
        NotFoundError: the version, a document or an adapter of it is not in the catalog.
    """
    corpus_number, version = None, None
    if answer.version:
        resolved = resolve(session, answer.version)
        corpus_number, version = corpus_id(session, resolved.corpus), resolved.number
    elif corpus is not None:
        corpus_number = corpus_id(session, corpus)
    values = {
        "corpus_id": corpus_number,
        "version": version,
        "recipe_id": ids_by_digest(session, RecipeRow, [answer.recipe_digest]).get(answer.recipe_digest),
        "base_model_id": session.scalar(select(BaseModelRow.id).where(BaseModelRow.fingerprint == answer.base_model)),
        "mode": answer.mode,
        "question": _storable(answer.question),
        "answer": _storable(answer.answer),
        "prompt_tokens": answer.prompt_tokens,
        "answer_tokens": answer.answer_tokens,
        "created_at": utc_now(),
        **{f"{step}_ms": answer.milliseconds.get(step) for step in STEPS},
    }
    number = session.execute(insert(QueryRow).values(values).returning(QueryRow.id)).scalar_one()
    _log_hits(session, number, answer)
    return number


def _log_hits(session: Session, query_id: int, answer: Answer) -> None:
    documents = require_ids(session, DocumentRow, (hit.document.digest for hit in answer.hits), "document")
    adapters = require_ids(session, AdapterRow, (hit.adapter_digest for hit in answer.hits), "adapter")
    rows = [
        {
            "query_id": query_id,
            "rank": hit.rank,
            "score": hit.score,
            "weight": answer.weights[index] if index < len(answer.weights) else None,
            "document_id": documents[hit.document.digest],
            "adapter_id": adapters[hit.adapter_digest],
        }
        for index, hit in enumerate(answer.hits)
    ]
    if rows:
        session.execute(insert(QueryHitRow), rows)


def _storable(text: str) -> str:
    """Replace NUL, which PostgreSQL does not store; a model may well generate it."""
    return text.replace("\x00", "\ufffd")
