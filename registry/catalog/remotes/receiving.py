"""What a pull writes to the catalog of texts, augmentations and adapters as others made them.

What comes was checked by whoever calls this: texts, augmentations and recipes have their digests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalog.adapters import add_inputs, training_columns
from registry.catalog.augmentations import add_answers, fill_augmentations
from registry.catalog.builds import check_language
from registry.catalog.chunks import chunked
from registry.catalog.dialect import insert_new
from registry.catalog.documents import document_row, fill_documents, withheld_row
from registry.catalog.identifiers import ids_by_digest, require_ids
from registry.catalog.models import AdapterRow, AugmentationRow, CorpusRow, DocumentRow, RecipeRow, utc_now
from registry.catalog.names import check_corpus_name
from registry.catalog.remotes.appending import append_version, check_versions
from registry.catalog.remotes.place_changes import add_places
from registry.published import MemberRecord
from registry.records import Document

__all__ = ["add_places", "add_records", "append_version", "check_versions", "create_corpus", "fill_documents"]

RECORDS = 5_000
"""Recorded together, so that those who record the same follow each other."""

_NO_PAYLOAD: dict[str, list[object]] = {"rewrites": [], "qa": []}


def create_corpus(session: Session, name: str, language: str) -> int:
    """Create a corpus, unless it is there, lock it until the transaction ends, and return its row id.

    Raises:
        UsageError: it cannot have that name, or is there in another language.
    """
    check_corpus_name(name)
    insert_new(session, CorpusRow, [{"name": name, "language": language, "created_at": utc_now()}])
    number, own = session.execute(
        select(CorpusRow.id, CorpusRow.language).where(CorpusRow.name == name).with_for_update()
    ).one()
    check_language(name, own, language)
    return number


def add_records(session: Session, records: Iterable[MemberRecord]) -> None:
    """Record documents, augmentations, requests and adapters; their recipes must be there.

    What is known already keeps its first history; what was withheld is filled where it comes now. Adapters lie nowhere
    by this: ``add_pack`` or ``add_remote_locations`` says where. It may be done again, wholly or in part. Give a few
    thousand records a transaction.

    Raises:
        NotFoundError: a recipe is not in the catalog.
    """
    for chunk in chunked(records, RECORDS):
        now = utc_now()
        recipes = require_ids(session, RecipeRow, (record.recipe_digest for record in chunk), "recipe")
        documents = _add_documents(session, chunk, now)
        augmentations = _add_augmentations(session, chunk, documents, now)
        _add_requests(session, chunk, documents, augmentations, now)
        _add_adapters(session, chunk, documents, augmentations, recipes, now)


def _add_documents(session: Session, records: Sequence[MemberRecord], now: datetime) -> dict[str, int]:
    """Record documents, in order of their digests as builds do, and return their row ids."""
    texts = {
        record.document_digest: Document(record.document_digest, record.title, record.text)
        for record in records
        if record.title is not None and record.text is not None
    }
    every = sorted({record.document_digest for record in records})
    rows = [document_row(texts[digest]) if digest in texts else withheld_row(digest) for digest in every]
    insert_new(session, DocumentRow, [{**row, "created_at": now} for row in rows])
    fill_documents(session, texts.values())
    return ids_by_digest(session, DocumentRow, every)


def _add_augmentations(
    session: Session, records: Sequence[MemberRecord], documents: dict[str, int], now: datetime
) -> dict[str, int]:
    rows: dict[str, dict[str, Any]] = {}
    for record in records:
        row = {
            "digest": record.augmentation_digest,
            "document_id": documents[record.document_digest],
            "generator": record.generator,
            "prompts_version": record.prompts_version,
            "payload": _NO_PAYLOAD if record.payload is None else dict(record.payload),
            "rewrites": record.rewrites,
            "pairs": record.pairs,
            "withheld": record.payload is None,
            "created_at": now,
        }
        if record.payload is not None or record.augmentation_digest not in rows:
            rows[record.augmentation_digest] = row
    insert_new(session, AugmentationRow, [rows[digest] for digest in sorted(rows)])
    fill_augmentations(session, {row["digest"]: row["payload"] for row in rows.values() if not row["withheld"]})
    return ids_by_digest(session, AugmentationRow, rows)


def _add_requests(
    session: Session,
    records: Sequence[MemberRecord],
    documents: dict[str, int],
    augmentations: dict[str, int],
    now: datetime,
) -> None:
    rows = {
        (record.document_digest, request.request_digest): {
            "document_id": documents[record.document_digest],
            "request_digest": request.request_digest,
            "augmentation_id": augmentations[record.augmentation_digest],
            "dropped_pairs": request.dropped_pairs,
            "dropped_rewrites": request.dropped_rewrites,
            "tokens": request.tokens,
            "elapsed_seconds": request.elapsed_seconds,
            "created_at": now,
        }
        for record in records
        for request in record.requests
    }
    add_answers(session, [rows[key] for key in sorted(rows)])


def _add_adapters(
    session: Session,
    records: Sequence[MemberRecord],
    documents: dict[str, int],
    augmentations: dict[str, int],
    recipes: dict[str, int],
    now: datetime,
) -> None:
    rows = {
        record.adapter_digest: {
            "digest": record.adapter_digest,
            "document_id": documents[record.document_digest],
            "augmentation_id": augmentations[record.augmentation_digest],
            "recipe_id": recipes[record.recipe_digest],
            "build_id": None,
            "kind": record.kind,
            "producer": record.producer,
            "size_bytes": record.size_bytes,
            "parameters": record.parameters,
            **training_columns(record.training),
            # What claims to be of the future would never grow old.
            "created_at": min(record.created_at, now),
        }
        for record in records
    }
    insert_new(session, AdapterRow, [rows[digest] for digest in sorted(rows)])
    numbers = ids_by_digest(session, AdapterRow, rows)
    add_inputs(
        session,
        [
            {
                "augmentation_id": augmentations[record.augmentation_digest],
                "recipe_id": recipes[record.recipe_digest],
                "adapter_id": numbers[record.adapter_digest],
            }
            for record in records
        ],
    )
