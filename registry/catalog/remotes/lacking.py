"""What of a repository's records is not here yet."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalog.chunks import chunked
from registry.catalog.models import AdapterRow, AugmentationRow, DocumentRow


def lacking_records(session: Session, pairs: Iterable[tuple[str, str]], *, has_text: bool) -> set[tuple[str, str]]:
    """Return those pairs (document digest, adapter digest) of which the document or the adapter is not catalogued.

    With ``has_text`` also those whose title and text, or the augmentation behind the adapter, are withheld here.
    """
    lacking: set[tuple[str, str]] = set()
    for chunk in chunked(pairs):
        documents = {document for document, _ in chunk}
        texts = select(DocumentRow.digest).where(DocumentRow.digest.in_(documents))
        made = (
            select(AdapterRow.digest)
            .join(AugmentationRow, AugmentationRow.id == AdapterRow.augmentation_id)
            .where(AdapterRow.digest.in_({adapter for _, adapter in chunk}))
        )
        if has_text:
            texts, made = texts.where(~DocumentRow.withheld), made.where(~AugmentationRow.withheld)
        known, adapters = set(session.scalars(texts)), set(session.scalars(made))
        lacking |= {pair for pair in chunk if pair[0] not in known or pair[1] not in adapters}
    return lacking
