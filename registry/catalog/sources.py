"""Sources by their URIs."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalog.chunks import chunked
from registry.catalog.dialect import insert_new
from registry.catalog.models import SourceRow, utc_now


def add_sources(session: Session, uris: Iterable[str]) -> dict[str, int]:
    """Record sources, unless they are there, and return their row ids."""
    wanted = set(uris)
    found = _ids(session, wanted)
    missing = sorted(wanted - found.keys())
    now = utc_now()
    insert_new(session, SourceRow, [{"uri": uri, "created_at": now} for uri in missing])
    return found | _ids(session, missing)


def _ids(session: Session, uris: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for chunk in chunked(uris):
        rows = session.execute(select(SourceRow.uri, SourceRow.id).where(SourceRow.uri.in_(chunk)))
        found.update((uri, number) for uri, number in rows)
    return found
