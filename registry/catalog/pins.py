"""Pins: marks on versions that garbage collection must leave."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from registry.catalog.aliases import require_open
from registry.catalog.dialect import BULK
from registry.catalog.models import CorpusRow, PinRow, utc_now
from registry.catalog.references import corpus_id, lock_corpus
from registry.records import Version


@dataclass(frozen=True, slots=True)
class PinLine:
    """A pinned version; ``reason`` may be empty."""

    corpus: str
    version: int
    reason: str
    who: str
    pinned_at: datetime


def pin(session: Session, version: Version, *, reason: str = "", who: str = "") -> bool:
    """Pin a version; return False if it was pinned already, whose reason then changes to one that is given.

    Raises:
        NotFoundError: there is no such corpus, or the version was collected.
    """
    corpus = corpus_id(session, version.corpus)
    lock_corpus(session, corpus)
    require_open(session, corpus, version)
    key = (PinRow.corpus_id == corpus, PinRow.version == version.number)
    if session.scalar(select(PinRow.version).where(*key)) is None:
        values = {"corpus_id": corpus, "version": version.number, "reason": reason, "who": who}
        session.execute(insert(PinRow).values(**values, pinned_at=utc_now()))
        return True
    if reason:
        session.execute(update(PinRow).where(*key).values(reason=reason, who=who), execution_options=BULK)
    return False


def unpin(session: Session, version: Version) -> bool:
    """Take the pin off a version; return False if it had none.

    Raises:
        NotFoundError: there is no such corpus.
    """
    corpus = corpus_id(session, version.corpus)
    lock_corpus(session, corpus)
    key = (PinRow.corpus_id == corpus, PinRow.version == version.number)
    if session.scalar(select(PinRow.version).where(*key)) is None:
        return False
    session.execute(delete(PinRow).where(*key), execution_options=BULK)
    return True


def list_pins(session: Session, corpus: str | None = None) -> list[PinLine]:
    """Return the pins of a corpus, or of all, by corpus and version.

    Raises:
        NotFoundError: there is no such corpus.
    """
    query = (
        select(CorpusRow.name, PinRow.version, PinRow.reason, PinRow.who, PinRow.pinned_at)
        .join(CorpusRow, CorpusRow.id == PinRow.corpus_id)
        .order_by(CorpusRow.name, PinRow.version)
    )
    if corpus is not None:
        query = query.where(PinRow.corpus_id == corpus_id(session, corpus))
    return [PinLine(*row) for row in session.execute(query)]
