"""Augmentations: stored as soon as they are generated, looked up by what was asked.

The content of an augmentation that came from others may be withheld: then its digest finds the adapters that were made
of it, and whatever needs the content asks for it anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from registry.catalog.chunks import chunked
from registry.catalog.dialect import insert_new
from registry.catalog.identifiers import ids_by_digest, require_ids
from registry.catalog.models import AdapterInputRow, AugmentationRequestRow, AugmentationRow, DocumentRow, utc_now
from registry.records import Augmentation, QAPair


@dataclass(frozen=True, slots=True)
class WithheldAugmentation:
    """What is known of an augmentation whose content is withheld; the numbers are as in ``Augmentation``."""

    digest: str
    rewrites: int
    pairs: int
    dropped_pairs: int
    dropped_rewrites: int
    tokens: int
    elapsed_seconds: float


def add_augmentations(session: Session, augmentations: Iterable[Augmentation]) -> None:
    """Record augmentations and the requests that they answer; the first answer to a request stands.

    One whose content was withheld is filled in, and gives way to another answer to its request.

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
                "withheld": False,
                "created_at": now,
            }
            for item in chunk
        ]
        insert_new(session, AugmentationRow, content)
        fill_augmentations(session, {item.digest: item.payload for item in chunk})
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
        add_answers(session, requests)


def fill_augmentations(session: Session, payloads: Mapping[str, Mapping[str, Any]]) -> None:
    """Fill in the content of those augmentations, by digest, whose content was withheld."""
    if not _any_withheld(session):
        return
    for chunk in chunked(sorted(payloads)):
        lacking = select(AugmentationRow.id, AugmentationRow.digest).where(
            AugmentationRow.withheld, AugmentationRow.digest.in_(chunk)
        )
        rows = [
            {"row": number, "content": dict(payloads[digest])}
            for number, digest in session.execute(lacking.order_by(AugmentationRow.digest)).all()
        ]
        if rows:
            filled = update(AugmentationRow).where(AugmentationRow.id == bindparam("row"))
            session.connection().execute(filled.values(payload=bindparam("content"), withheld=False), rows)


def add_answers(session: Session, requests: Sequence[Mapping[str, Any]]) -> None:
    """Record answers to requests (rows of their table); the first one stands, unless its content is withheld.

    Then one whose content is here takes its place, and gives the same adapters: they answer one request.
    """
    insert_new(session, AugmentationRequestRow, requests)
    if not _any_withheld(session):
        return
    for chunk in chunked(requests):
        wanted = {(row["document_id"], row["request_digest"]): row for row in chunk}
        standing = (
            select(
                AugmentationRequestRow.document_id,
                AugmentationRequestRow.request_digest,
                AugmentationRequestRow.augmentation_id,
            )
            .join(AugmentationRow, AugmentationRow.id == AugmentationRequestRow.augmentation_id)
            .where(AugmentationRequestRow.document_id.in_({row["document_id"] for row in chunk}))
            .where(AugmentationRow.withheld)
        )
        found = [(wanted[key], old) for *pair, old in session.execute(standing) if (key := tuple(pair)) in wanted]
        _replace(session, [(row, old) for row, old in found if row["augmentation_id"] != old])


def _any_withheld(session: Session) -> bool:
    return session.scalar(select(AugmentationRow.id).where(AugmentationRow.withheld).limit(1)) is not None


def _replace(session: Session, answers: Sequence[tuple[Mapping[str, Any], int]]) -> None:
    """Let requests have other answers than those of which the content is withheld, as far as theirs is here."""
    new = {row["augmentation_id"] for row, _ in answers}
    here = set(
        session.scalars(select(AugmentationRow.id).where(AugmentationRow.id.in_(new), ~AugmentationRow.withheld))
    )
    better = [(row, old) for row, old in answers if row["augmentation_id"] in here]
    if not better:
        return
    changed = update(AugmentationRequestRow).where(
        AugmentationRequestRow.document_id == bindparam("new_document_id"),
        AugmentationRequestRow.request_digest == bindparam("new_request_digest"),
    )
    columns = ("augmentation_id", "dropped_pairs", "dropped_rewrites", "tokens", "elapsed_seconds")
    session.connection().execute(
        changed.values({name: bindparam(f"new_{name}") for name in columns}),
        [{f"new_{name}": value for name, value in row.items()} for row, _ in better],
    )
    heirs: dict[int, set[int]] = {}
    for row, old in better:
        heirs.setdefault(old, set()).add(row["augmentation_id"])
    given = select(AdapterInputRow.augmentation_id, AdapterInputRow.recipe_id, AdapterInputRow.adapter_id)
    rows = [
        {"augmentation_id": heir, "recipe_id": recipe, "adapter_id": adapter}
        for old, recipe, adapter in session.execute(given.where(AdapterInputRow.augmentation_id.in_(heirs))).all()
        for heir in sorted(heirs[old])
    ]
    insert_new(session, AdapterInputRow, rows)


def find_augmentations(
    session: Session, request_digest: str, document_digests: Iterable[str]
) -> dict[str, Augmentation]:
    """Return the augmentations that were made for one request, by document digest; the others are left out."""
    return find_augmentations_by_request(session, dict.fromkeys(document_digests, request_digest))


def answered_requests(session: Session, requests: Mapping[str, str]) -> set[str]:
    """Return the documents of ``requests`` (document digest to request digest) whose request has an answer.

    One whose content is withheld is none.
    """
    answered: set[str] = set()
    for chunk in chunked(requests):
        rows = session.execute(
            select(DocumentRow.digest, AugmentationRequestRow.request_digest)
            .join(AugmentationRequestRow, AugmentationRequestRow.document_id == DocumentRow.id)
            .join(AugmentationRow, AugmentationRow.id == AugmentationRequestRow.augmentation_id)
            .where(DocumentRow.digest.in_(chunk), ~AugmentationRow.withheld)
        )
        answered |= {document for document, request in rows if requests[document] == request}
    return answered


def find_withheld(session: Session, requests: Mapping[str, str]) -> dict[str, WithheldAugmentation]:
    """Return the answers to ``requests`` (document digest to request digest) whose content is withheld.

    By document digest: what was made of them may be here, though they are not.
    """
    found: dict[str, WithheldAugmentation] = {}
    for chunk in chunked(requests):
        rows = session.execute(
            select(
                DocumentRow.digest,
                AugmentationRequestRow.request_digest,
                AugmentationRow.digest,
                AugmentationRow.rewrites,
                AugmentationRow.pairs,
                AugmentationRequestRow.dropped_pairs,
                AugmentationRequestRow.dropped_rewrites,
                AugmentationRequestRow.tokens,
                AugmentationRequestRow.elapsed_seconds,
            )
            .join(AugmentationRequestRow, AugmentationRequestRow.document_id == DocumentRow.id)
            .join(AugmentationRow, AugmentationRow.id == AugmentationRequestRow.augmentation_id)
            .where(DocumentRow.digest.in_(chunk), AugmentationRow.withheld)
        )
        found |= {row[0]: WithheldAugmentation(*row[2:]) for row in rows if requests[row[0]] == row[1]}
    return found


def find_augmentations_by_request(session: Session, requests: Mapping[str, str]) -> dict[str, Augmentation]:
    """Return the augmentations that were made for ``requests`` (document digest to request digest).

    By document digest; documents for which that was not asked yet, or the content of whose answer is withheld, are left
    out.
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
            .where(AugmentationRequestRow.document_id.in_(documents.values()), ~AugmentationRow.withheld)
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
