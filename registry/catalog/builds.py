"""Builds: one at a time for a corpus, with staging rows for what they have read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import groupby
from typing import Literal, NamedTuple

from sqlalchemy import Select, delete, distinct, func, insert, select, update
from sqlalchemy.orm import Session

from registry.catalog.chunks import KEYS, chunked
from registry.catalog.dialect import BULK, insert_new
from registry.catalog.documents import document_row, documents_by_id, fill_documents
from registry.catalog.identifiers import ids_by_digest
from registry.catalog.models import (
    BuildAdapterRow,
    BuildItemRow,
    BuildRow,
    CorpusRow,
    DocumentRow,
    utc_now,
)
from registry.catalog.names import check_corpus_name
from registry.catalog.recipes import recipe_id
from registry.catalog.sources import add_sources
from registry.errors import BusyError, NotFoundError, UsageError
from registry.records import PlacedDocument, StagedDocument

DEFAULT_LANGUAGE = "en"

IsAlive = Callable[[str, int, datetime], bool]
"""Whether the process of that host and number, which began a build at that moment, may still run."""


@dataclass(frozen=True, slots=True)
class StagedCounts:
    """What a running build has read: distinct documents, their places, the sources."""

    documents: int
    places: int
    sources: int


@dataclass(frozen=True, slots=True)
class BuildCounts:
    """What a build did.

    ``reused`` and ``trained`` count adapters, ``skipped`` invalid inputs, ``without_augmentation`` documents encoded
    from their own text only; ``size_bytes`` are the bytes of adapters written.
    """

    sources: int = 0
    documents: int = 0
    places: int = 0
    reused: int = 0
    trained: int = 0
    skipped: int = 0
    without_augmentation: int = 0
    size_bytes: int = 0


class Holder(NamedTuple):
    """A build that is marked as running, and whose."""

    build_id: int
    who: str
    host: str
    pid: int
    started_at: datetime

    def __str__(self) -> str:
        """Who builds, where, and since when."""
        since = f"{self.started_at:%Y-%m-%d %H:%M:%S} UTC"
        return f"build {self.build_id} by {self.who} on {self.host}, process {self.pid}, since {since}"

    def holds(self, is_alive: IsAlive, host: str, take_over: bool) -> bool:
        """Return whether it keeps out a build of the same corpus that would begin on ``host``."""
        return is_alive(self.host, self.pid, self.started_at) and (self.host == host or not take_over)


def find_holder(
    session: Session, corpus: str, *, host: str, is_alive: IsAlive, take_over: bool = False
) -> Holder | None:
    """Return the build for which ``begin_build`` would raise BusyError, None if it would not."""
    number = session.scalar(select(CorpusRow.id).where(CorpusRow.name == corpus))
    builds = [] if number is None else _running_builds(session, number)
    return next((build for build in builds if build.holds(is_alive, host, take_over)), None)


def begin_build(
    session: Session,
    corpus: str,
    *,
    recipe_digest: str,
    who: str,
    host: str,
    pid: int,
    is_alive: IsAlive,
    message: str = "",
    language: str | None = None,
    take_over: bool = False,
) -> int:
    """Begin a build of ``corpus``, which is created if it is new, and return the build's number.

    A build that is marked as running but whose process is gone is marked as interrupted. Of a process on another host
    nothing is known, so its build is ended only to ``take_over``; should it live, it cannot commit any more.
    ``language`` (ISO 639-1) is the corpus' for good once it is created; None means the corpus' own, or English.

    Raises:
        BusyError: another process is building this corpus.
        NotFoundError: the recipe is not in the catalog.
        UsageError: the corpus cannot have that name, or has another language.
    """
    check_corpus_name(corpus)
    recipe = recipe_id(session, recipe_digest)
    number = _lock_corpus(session, corpus, language)
    for build in _running_builds(session, number):
        if build.holds(is_alive, host, take_over):
            raise _busy(corpus, build, is_here=build.host == host)
        _end_build(session, build.build_id, f"its process is gone; {who} on {host} took over")
    _clear_staging(session, select(BuildRow.id).where(BuildRow.corpus_id == number))
    result = session.execute(
        insert(BuildRow)
        .values(
            corpus_id=number,
            recipe_id=recipe,
            message=message,
            who=who,
            host=host,
            pid=pid,
            status="running",
            started_at=utc_now(),
        )
        .returning(BuildRow.id)
    )
    return result.scalar_one()


def stage(session: Session, build_id: int, documents: Iterable[PlacedDocument]) -> None:
    """Record documents, their sources and places as read by a build. The same place twice counts once.

    Documents whose texts were withheld are filled in.

    Give a few thousand documents a transaction: other writers wait for its end.
    """
    # All of one kind in one order, then all of the next: two builds that read the same texts follow each other.
    items = list(documents)
    numbers = _document_ids(session, items)
    sources = add_sources(session, (item.place.source_uri for item in items))
    places = [
        {
            "build_id": build_id,
            "source_id": sources[item.place.source_uri],
            "ordinal": item.place.ordinal,
            "record_id": item.place.record_id,
            "document_id": numbers[item.document.digest],
        }
        for item in items
    ]
    insert_new(session, BuildItemRow, places)


def staged_documents(
    session: Session, build_id: int, digests: Collection[str] | None = None
) -> Iterator[StagedDocument]:
    """Yield the distinct documents of a build, in order of (characters, digest), or those of ``digests`` among them.

    Streams: the session must stay open, so do not train meanwhile; ask again by ``digests`` for texts.
    """
    query = (
        select(DocumentRow.id, BuildItemRow.record_id)
        .join(BuildItemRow, BuildItemRow.document_id == DocumentRow.id)
        .where(BuildItemRow.build_id == build_id)
        .order_by(DocumentRow.characters, DocumentRow.digest, BuildItemRow.source_id, BuildItemRow.ordinal)
        .execution_options(yield_per=KEYS)
    )
    if digests is not None:
        query = query.where(DocumentRow.digest.in_(digests))
    # Only numbers are sorted; the texts follow by the thousand.
    grouped = groupby(session.execute(query), key=lambda row: row[0])
    staged = ((number, tuple(record for _, record in rows if record is not None)) for number, rows in grouped)
    for chunk in chunked(staged):
        texts = documents_by_id(session, (number for number, _ in chunk))
        for number, record_ids in chunk:
            yield StagedDocument(texts[number], tuple(dict.fromkeys(record_ids)))


def staged_counts(session: Session, build_id: int) -> StagedCounts:
    """Return how many documents, places and sources a running build has read."""
    documents, places, sources = session.execute(
        select(
            func.count(distinct(BuildItemRow.document_id)), func.count(), func.count(distinct(BuildItemRow.source_id))
        ).where(BuildItemRow.build_id == build_id)
    ).one()
    return StagedCounts(documents, places, sources)


def finish_build(
    session: Session,
    build_id: int,
    *,
    status: Literal["finished", "failed", "interrupted"],
    counts: BuildCounts,
    error: str | None = None,
) -> None:
    """End a build: record what came of it and drop its staging rows.

    Raises:
        NotFoundError: there is no such build.
        BusyError: it was ended already, by a process that took it for dead.
    """
    require_running(session, build_id)
    session.execute(
        update(BuildRow)
        .where(BuildRow.id == build_id)
        .values(status=status, error=error, finished_at=utc_now(), **asdict(counts))
    )
    _clear_staging(session, select(BuildRow.id).where(BuildRow.id == build_id))


def require_running(session: Session, build_id: int) -> int:
    """Lock a running build and return the row id of its corpus.

    Raises:
        NotFoundError: there is no such build.
        BusyError: it is over.
    """
    row = session.execute(
        select(BuildRow.corpus_id, BuildRow.status).where(BuildRow.id == build_id).with_for_update()
    ).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no build {build_id}", hint="pragreg builds list")
    corpus, status = row
    if status != "running":
        raise BusyError(
            f"build {build_id} is {status}: another process took it for dead and took the corpus over",
            hint="pragreg builds list shows who; run the build again when that one is done",
        )
    return corpus


def corpus_language(session: Session, corpus: str) -> str | None:
    """Return the language of a corpus, None if there is no such corpus."""
    return session.scalar(select(CorpusRow.language).where(CorpusRow.name == corpus))


def check_language(corpus: str, own: str, asked: str | None) -> None:
    """Check that a corpus in language ``own`` may be built as one in the language that is ``asked`` for.

    Raises:
        UsageError: it is another.
    """
    if asked is not None and asked != own:
        raise UsageError(
            f"corpus {corpus!r} is in language {own!r}, not {asked!r}",
            hint=f"leave the language out, or build another corpus with --corpus {corpus}-{asked}",
        )


def _lock_corpus(session: Session, corpus: str, language: str | None) -> int:
    row = {"name": corpus, "language": language or DEFAULT_LANGUAGE, "created_at": utc_now()}
    insert_new(session, CorpusRow, [row])
    number, own = session.execute(
        select(CorpusRow.id, CorpusRow.language).where(CorpusRow.name == corpus).with_for_update()
    ).one()
    check_language(corpus, own, language)
    return number


def _running_builds(session: Session, corpus: int) -> list[Holder]:
    query = select(BuildRow.id, BuildRow.who, BuildRow.host, BuildRow.pid, BuildRow.started_at)
    rows = session.execute(query.where(BuildRow.corpus_id == corpus, BuildRow.status == "running"))
    return [Holder(*row) for row in rows.all()]


def _busy(corpus: str, build: Holder, *, is_here: bool) -> BusyError:
    return BusyError(
        f"corpus {corpus!r} is being built: {build}",
        hint=f"wait for its end with --wait, or stop it (kill {build.pid}) and try again"
        if is_here
        else f"wait for its end with --wait; if that process is gone: pragreg build SOURCE... --corpus {corpus} "
        "--take-over",
    )


def _end_build(session: Session, build_id: int, error: str) -> None:
    ended = update(BuildRow).where(BuildRow.id == build_id)
    session.execute(ended.values(status="interrupted", finished_at=utc_now(), error=error))


def _clear_staging(session: Session, builds: Select[int]) -> None:
    for model in (BuildItemRow, BuildAdapterRow):
        session.execute(delete(model).where(model.build_id.in_(builds)), execution_options=BULK)


def _document_ids(session: Session, items: Collection[PlacedDocument]) -> dict[str, int]:
    # Looked up first: most documents of a build are there from the last one, and a lookup locks nothing.
    documents = {item.document.digest: item.document for item in items}
    known = ids_by_digest(session, DocumentRow, documents)
    new = sorted(documents.keys() - known.keys())
    now = utc_now()
    insert_new(session, DocumentRow, [{**document_row(documents[digest]), "created_at": now} for digest in new])
    # After that, since a pull may just have brought one without its text.
    fill_documents(session, documents.values())
    return known | ids_by_digest(session, DocumentRow, new)
