"""Augmentations: stored as soon as they are generated, looked up by what was asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalog.chunks import chunked
from registry.catalog.dialect import insert_new
from registry.catalog.identifiers import ids_by_digest, require_ids
from registry.catalog.models import AugmentationRequestRow, AugmentationRow, DocumentRow, utc_now
from registry.records import Augmentation, QAPair


def add_augmentations(session: Session, augmentations: Iterable[Augmentation]) -> None:
    """Record augmentations and the requests that they answer; the first answer to a request stands.

    Raises:
        NotFoundError: a document is not in the catalog.
    """
    for chunk in chunked(augmentations):
        now = utc_now()
        documents = require_ids(session, DocumentRow, (item.document_digest for item in chunk), "document")
        content = [
            {
                "digest": item.digest,
                "document_id": documents[item.document_digest],
                "generator": item.generator,
                "prompts_version": item.prompts_version,
                "payload": item.payload,
                "rewrites": len(item.rewrites),
                "pairs": len(item.pairs),
                "created_at": now,
            }
            for item in chunk
        ]
        insert_new(session, AugmentationRow, content)
        numbers = ids_by_digest(session, AugmentationRow, (item.digest for item in chunk))
        requests = [
            {
                "document_id": documents[item.document_digest],
                "request_digest": item.request_digest,
                "augmentation_id": numbers[item.digest],
                "dropped_pairs": item.dropped_pairs,
                "tokens": item.tokens,
                "elapsed_seconds": item.elapsed_seconds,
                "dropped_rewrites": item.dropped_rewrites,
                "created_at": now,
            }
            for item in chunk
        ]
        insert_new(session, AugmentationRequestRow, requests)


def find_augmentations(
    session: Session, request_digest: str, document_digests: Iterable[str]
) -> dict[str, Augmentation]:
    """Return the augmentations that were made for one request, by document digest; the others are left out."""
    return find_augmentations_by_request(session, dict.fromkeys(document_digests, request_digest))


def answered_requests(session: Session, requests: Mapping[str, str]) -> set[str]:
    """Return the documents of ``requests`` (document digest to request digest) whose request has an answer."""
    answered: set[str] = set()
    for chunk in chunked(requests):
        rows = session.execute(
            select(DocumentRow.digest, AugmentationRequestRow.request_digest)
            .join(AugmentationRequestRow, AugmentationRequestRow.document_id == DocumentRow.id)
            .where(DocumentRow.digest.in_(chunk))
        )
        answered |= {document for document, request in rows if requests[document] == request}
    return answered


def find_augmentations_by_request(session: Session, requests: Mapping[str, str]) -> dict[str, Augmentation]:
    """Return the augmentations that were made for ``requests`` (document digest to request digest).

    By document digest; documents for which that was not asked yet are left out.
    """
    found: dict[str, Augmentation] = {}
    for chunk in chunked(requests):
        documents = ids_by_digest(session, DocumentRow, chunk)
        query = (
            select(
                DocumentRow.digest,
                AugmentationRequestRow.request_digest,
                AugmentationRow.generator,
                AugmentationRow.prompts_version,
                AugmentationRow.payload,
                AugmentationRequestRow.dropped_pairs,
                AugmentationRequestRow.tokens,
                AugmentationRequestRow.elapsed_seconds,
                AugmentationRequestRow.dropped_rewrites,
            )
            .join(AugmentationRequestRow, AugmentationRequestRow.document_id == DocumentRow.id)
            .join(AugmentationRow, AugmentationRow.id == AugmentationRequestRow.augmentation_id)
            .where(AugmentationRequestRow.document_id.in_(documents.values()))
        )
        asked = {requests[document] for document in chunk}
        if len(asked) == 1:
            # Two long lists would be tried out each with each; which belong together is decided below.
            query = query.where(AugmentationRequestRow.request_digest == asked.pop())
        for document, request, generator, prompts_version, payload, *measured in session.execute(query):
            if requests[document] == request:
                rewrites, pairs = read_payload(payload)
                found[document] = Augmentation(
                    document, request, generator, prompts_version, rewrites, pairs, *measured
                )
    return found


def read_payload(payload: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[QAPair, ...]]:
    """Return the rewrites and the question-answer pairs of a stored payload."""
    pairs = (QAPair(pair["question"], pair["answer"], pair["full_answer"]) for pair in payload["qa"])
    return tuple(payload["rewrites"]), tuple(pairs)
