"""From digests, whole or abbreviated, to rows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeAlias

from sqlalchemy import select
from sqlalchemy.orm import InstrumentedAttribute, Session

from registry.catalog.chunks import chunked
from registry.catalog.dialect import MARKS
from registry.catalog.models import AdapterRow, AugmentationRow, DocumentRow, PackRow, RecipeRow
from registry.catalog.models.base import DIGEST_LENGTH
from registry.errors import NotFoundError

DigestModel: TypeAlias = type[DocumentRow] | type[AdapterRow] | type[AugmentationRow] | type[RecipeRow] | type[PackRow]

_PREFIX = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})")
_CANDIDATES = 5


def ids_by_digest(session: Session, model: DigestModel, digests: Iterable[str]) -> dict[str, int]:
    """Return the row ids of those ``digests`` that are in the table of ``model``."""
    found: dict[str, int] = {}
    connection = session.connection()
    mark = MARKS[connection.dialect.name]
    for chunk in chunked(set(digests)):
        # As text: SQLAlchemy takes several times as long to write a long list as the database to look it up.
        listed = ", ".join([mark] * len(chunk))
        query = f"SELECT digest, id FROM {model.__tablename__} WHERE digest IN ({listed})"
        found.update((digest, number) for digest, number in connection.exec_driver_sql(query, tuple(chunk)))
    return found


def require_ids(session: Session, model: DigestModel, digests: Iterable[str], noun: str) -> dict[str, int]:
    """Return the row ids of all ``digests``; ``noun`` says in the message what they are.

    Raises:
        NotFoundError: some are not in the catalog.
    """
    wanted = set(digests)
    found = ids_by_digest(session, model, wanted)
    if len(found) < len(wanted):
        missing = sorted(wanted - found.keys())
        more = f" (nor are {len(missing) - 1} others)" if len(missing) > 1 else ""
        raise NotFoundError(f"{noun} {missing[0]} is not in the catalog{more}")
    return found


def complete_digest(session: Session, column: InstrumentedAttribute[str], identifier: str, noun: str) -> str:
    """Return the one digest in ``column`` that begins with ``identifier`` (``sha256:`` before it is allowed).

    Raises:
        NotFoundError: none does, or several do (the message lists some).
    """
    # Recipes are seen where they are used.
    hint = f"pragreg {'corpora' if noun == 'recipe' else noun + 's'} list"
    match = _PREFIX.fullmatch(identifier.strip().lower())
    if match is None:
        raise NotFoundError(f"{identifier!r} is not the digest of any {noun}", hint=hint)
    prefix = match[1]
    # A range instead of LIKE: every database answers it from the index, whatever its collation.
    first, last = prefix.ljust(DIGEST_LENGTH, "0"), prefix.ljust(DIGEST_LENGTH, "f")
    query = select(column).where(column.between(first, last)).order_by(column).limit(_CANDIDATES + 1)
    found = list(session.scalars(query))
    if not found:
        raise NotFoundError(f"there is no {noun} {identifier}", hint=hint)
    if len(found) > 1:
        listed = ", ".join(digest[: len(prefix) + 8] for digest in found[:_CANDIDATES])
        more = ", ..." if len(found) > _CANDIDATES else ""
        raise NotFoundError(
            f"{identifier} is the beginning of several {noun}s: {listed}{more}", hint="give more digits"
        )
    return found[0]
