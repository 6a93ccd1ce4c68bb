"""Adapters that were made elsewhere and belong to no version: kept until somebody lets go of them."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import ColumnElement, and_, select, update
from sqlalchemy.orm import Session

from registry.catalog.chunks import chunked
from registry.catalog.dialect import BULK
from registry.catalog.identifiers import complete_digest
from registry.catalog.models import AdapterRow, MembershipRow
from registry.errors import UsageError

IMPORTED = "imported"
FORGOTTEN = "forgotten"
"""The producer of adapters that were imported once and that nothing keeps any more."""


def is_kept() -> ColumnElement[bool]:
    """Return the condition that an adapter was imported, and is kept for that alone."""
    member = select(MembershipRow.adapter_id).where(MembershipRow.adapter_id == AdapterRow.id)
    return and_(AdapterRow.producer == IMPORTED, ~member.exists())


def keep_imported(session: Session, digests: Iterable[str]) -> None:
    """Keep imported adapters again that were let go of."""
    _change(session, digests, FORGOTTEN, IMPORTED)


def forget_imported(session: Session, prefixes: Iterable[str]) -> list[str]:
    """Let go of the imported adapters whose digests begin so, and return their digests.

    Raises:
        NotFoundError: there is no such adapter, or there are several.
        UsageError: it was not imported.
    """
    digests = [complete_digest(session, AdapterRow.digest, prefix, "adapter") for prefix in prefixes]
    known = (AdapterRow.digest.in_(digests), AdapterRow.producer.in_((IMPORTED, FORGOTTEN)))
    imported = set(session.scalars(select(AdapterRow.digest).where(*known)))
    if others := sorted(set(digests) - imported):
        raise UsageError(
            f"the adapter {others[0]} was not imported", hint="those of versions go with their versions: pragreg gc"
        )
    _change(session, digests, IMPORTED, FORGOTTEN)
    return list(dict.fromkeys(digests))


def _change(session: Session, digests: Iterable[str], old: str, new: str) -> None:
    for chunk in chunked(digests):
        rows = update(AdapterRow).where(AdapterRow.digest.in_(chunk), AdapterRow.producer == old)
        session.execute(rows.values(producer=new), execution_options=BULK)
