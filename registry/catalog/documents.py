"""Texts by digest."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalog.chunks import chunked
from registry.catalog.identifiers import complete_digest
from registry.catalog.models import DocumentRow
from registry.errors import NotFoundError
from registry.records import Document


def get_documents(session: Session, digests: Iterable[str]) -> dict[str, Document]:
    """Return the documents of ``digests`` by digest.

    Raises:
        NotFoundError: one is not in the catalog.
    """
    wanted = set(digests)
    found: dict[str, Document] = {}
    for chunk in chunked(wanted):
        rows = session.execute(
            select(DocumentRow.digest, DocumentRow.title, DocumentRow.text).where(DocumentRow.digest.in_(chunk))
        )
        found.update((digest, Document(digest, title, text)) for digest, title, text in rows)
    if len(found) < len(wanted):
        raise NotFoundError(f"document {min(wanted - found.keys())} is not in the catalog")
    return found


def resolve_document(session: Session, identifier: str) -> Document:
    """Return the document whose digest begins with ``identifier``.

    Raises:
        NotFoundError: there is none, or there are several.
    """
    digest = complete_digest(session, DocumentRow.digest, identifier, "document")
    return get_documents(session, [digest])[digest]


def documents_by_id(session: Session, ids: Iterable[int]) -> dict[int, Document]:
    """Return the documents of these row ids (at most a statement's worth) by row id."""
    rows = session.execute(
        select(DocumentRow.id, DocumentRow.digest, DocumentRow.title, DocumentRow.text).where(DocumentRow.id.in_(ids))
    )
    return {number: Document(digest, title, text) for number, digest, title, text in rows}
