"""Versions for people to look at: a list of them, and all that is known of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, distinct, func, select
from sqlalchemy.orm import Session

from registry.catalog.differences import Difference, compare
from registry.catalog.listing import PAGE
from registry.catalog.members import valid_at
from registry.catalog.models import AliasRow, BaseModelRow, CorpusRow, PinRow, PlaceRow, RecipeRow, VersionRow
from registry.catalog.pins import PinLine
from registry.catalog.references import corpus_id, resolve
from registry.records import Version


@dataclass(frozen=True, slots=True)
class VersionLine:
    """A version in a list; ``size_bytes`` are those of its adapters, ``collected_at`` is None if it can be queried."""

    corpus: str
    version: int
    digest: str
    aliases: tuple[str, ...]
    pinned: bool
    documents: int
    size_bytes: int
    message: str
    recipe_digest: str
    parent: int | None
    build_id: int | None
    created_at: datetime
    collected_at: datetime | None


@dataclass(frozen=True, slots=True)
class VersionDetail:
    """A version with what stands beside it; ``difference`` is the one to its parent, None for one without."""

    line: VersionLine
    base_model: str
    sources: int
    pin: PinLine | None
    difference: Difference | None


def list_version_lines(
    session: Session, corpus: str | None = None, *, limit: int | None = PAGE, offset: int = 0
) -> list[VersionLine]:
    """Return the versions of a corpus, or of all, newest first.

    Raises:
        NotFoundError: there is no such corpus.
    """
    query = _lines().order_by(VersionRow.created_at.desc(), VersionRow.corpus_id, VersionRow.number.desc())
    if corpus is not None:
        query = _lines().where(VersionRow.corpus_id == corpus_id(session, corpus)).order_by(VersionRow.number.desc())
    return _version_lines(session, session.execute(query.limit(limit).offset(offset)).all())


def show_version(session: Session, reference: str) -> VersionDetail:
    """Return the version that a reference names, collected or not.

    Raises:
        NotFoundError: there is none.
    """
    version = resolve(session, reference)
    corpus = corpus_id(session, version.corpus)
    key = (VersionRow.corpus_id == corpus, VersionRow.number == version.number)
    (line,) = _version_lines(session, session.execute(_lines().where(*key)).all())
    base_model = session.scalars(
        select(BaseModelRow.fingerprint)
        .join(RecipeRow, RecipeRow.base_model_id == BaseModelRow.id)
        .join(VersionRow, VersionRow.recipe_id == RecipeRow.id)
        .where(*key)
    ).one()
    sources = session.scalar(
        select(func.count(distinct(PlaceRow.source_id))).where(
            PlaceRow.corpus_id == corpus, valid_at(PlaceRow, version.number)
        )
    )
    pin = session.execute(
        select(PinRow.reason, PinRow.who, PinRow.pinned_at).where(
            PinRow.corpus_id == corpus, PinRow.version == version.number
        )
    ).one_or_none()
    return VersionDetail(
        line=line,
        base_model=base_model,
        sources=sources or 0,
        pin=None if pin is None else PinLine(version.corpus, version.number, *pin),
        difference=_to_parent(session, version),
    )


def _to_parent(session: Session, version: Version) -> Difference | None:
    if version.parent is None:
        return None
    return compare(session, resolve(session, f"{version.corpus}@v{version.parent}"), version)


def _lines() -> Select[*tuple[Any, ...]]:
    return (
        select(
            VersionRow.corpus_id,
            CorpusRow.name,
            VersionRow.number,
            VersionRow.digest,
            VersionRow.documents,
            VersionRow.size_bytes,
            VersionRow.message,
            RecipeRow.digest.label("recipe_digest"),
            VersionRow.parent,
            VersionRow.build_id,
            VersionRow.created_at,
            VersionRow.collected_at,
        )
        .join(CorpusRow, CorpusRow.id == VersionRow.corpus_id)
        .join(RecipeRow, RecipeRow.id == VersionRow.recipe_id)
    )


def _version_lines(session: Session, rows: Sequence[Row[*tuple[Any, ...]]]) -> list[VersionLine]:
    corpora = {row.corpus_id for row in rows}
    # Aliases and pins are few: all those of the corpora shown are read.
    names: dict[tuple[int, int], list[str]] = {}
    for corpus, number, name in session.execute(
        select(AliasRow.corpus_id, AliasRow.version, AliasRow.name)
        .where(AliasRow.corpus_id.in_(corpora))
        .order_by(AliasRow.name)
    ):
        names.setdefault((corpus, number), []).append(name)
    pins = select(PinRow.corpus_id, PinRow.version).where(PinRow.corpus_id.in_(corpora))
    pinned = {(corpus, number) for corpus, number in session.execute(pins)}
    return [
        VersionLine(
            corpus=row.name,
            version=row.number,
            digest=row.digest,
            aliases=tuple(names.get((row.corpus_id, row.number), ())),
            pinned=(row.corpus_id, row.number) in pinned,
            documents=row.documents,
            size_bytes=row.size_bytes,
            message=row.message,
            recipe_digest=row.recipe_digest,
            parent=row.parent,
            build_id=row.build_id,
            created_at=row.created_at,
            collected_at=row.collected_at,
        )
        for row in rows
    ]
