"""Texts by digest. Where a text is withheld, only its digest is known, and title and text read as empty."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from registry.catalog.chunks import chunked
from registry.catalog.identifiers import complete_digest
from registry.catalog.models import DocumentRow
from registry.digests import text_key
from registry.errors import NotFoundError
from registry.records import Document


def document_row(document: Document) -> dict[str, Any]:
    """Return what the catalog keeps of a document, besides when it came."""
    return {
        "digest": document.digest,
        "title": document.title,
        "text": document.text,
        "characters": len(document.text),
        "text_key": text_key(document.text),
        "withheld": False,
    }


def withheld_row(digest: str) -> dict[str, Any]:
    """Return what the catalog keeps of a document whose text is withheld; no two such have one text key."""
    key = int.from_bytes(bytes.fromhex(digest)[:8], "big", signed=True)
    return {"digest": digest, "title": "", "text": "", "characters": 0, "text_key": key, "withheld": True}


def fill_documents(session: Session, documents: Iterable[Document]) -> int:
    """Fill in documents whose texts were withheld, by digest; return how many were.

    Documents that are not in the catalog, or whose text is there, are passed over.
    """
    filled = 0
    if session.scalar(select(DocumentRow.id).where(DocumentRow.withheld).limit(1)) is None:
        return filled
    # In order of the digests, so that two who fill in the same follow each other.
    for chunk in chunked(sorted(documents, key=lambda document: document.digest)):
        texts = {document.digest: document for document in chunk}
        lacking = select(DocumentRow.digest).where(DocumentRow.withheld, DocumentRow.digest.in_(texts))
        rows = [
            {f"new_{name}": value for name, value in document_row(texts[digest]).items()}
            for digest in sorted(session.scalars(lacking))
        ]
        if rows:
            columns = [name.removeprefix("new_") for name in rows[0]]
            lacks = update(DocumentRow).where(DocumentRow.digest == bindparam("new_digest"), DocumentRow.withheld)
            changed = lacks.values({name: bindparam(f"new_{name}") for name in columns})
            session.connection().execute(changed, rows)
        filled += len(rows)
    return filled


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
