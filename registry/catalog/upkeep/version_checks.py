"""What `pragreg verify` asks of versions: their members, ranges, sizes and digests, and the names that they have."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from sqlalchemy import Select, case, func, select
from sqlalchemy.orm import Session

from registry.catalog.chunks import chunked
from registry.catalog.members import valid_at
from registry.catalog.models import (
    AdapterRow,
    AliasRow,
    BuildRow,
    CorpusRow,
    DocumentRow,
    MembershipRow,
    PinRow,
    RecipeRow,
    VersionRow,
)
from registry.catalog.names import LATEST
from registry.records import Version

ENDLESS = 2**62
"""Stands for the end of a range that is still open."""

_LINE_BYTES = 130  # two digests, a space and a line end
_LINES = 20_000


@dataclass(frozen=True, slots=True)
class VersionState:
    """A version as its row says it is.

    ``is_wanted``: it must be ready to be asked, being the newest or named by an alias or a pin.
    ``is_building``: the build that made it is not over yet.
    """

    version: Version
    corpus_id: int
    size_bytes: int
    is_collected: bool
    is_wanted: bool
    is_building: bool


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two validity ranges of a document that both cover the versions from ``begin`` to before ``end``."""

    corpus_id: int
    document_digest: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Members:
    """What the memberships say of a version: how many documents, and the bytes of their adapters.

    Of ``withheld`` documents the texts are not here.
    """

    documents: int
    size_bytes: int
    withheld: int


def version_states(session: Session) -> list[VersionState]:
    """Return all versions of all corpora, by corpus and number."""
    named = {(corpus, number) for corpus, number in session.execute(select(AliasRow.corpus_id, AliasRow.version))}
    named |= {(corpus, number) for corpus, number in session.execute(select(PinRow.corpus_id, PinRow.version))}
    newest = select(VersionRow.corpus_id, func.max(VersionRow.number)).group_by(VersionRow.corpus_id)
    named |= {(corpus, number) for corpus, number in session.execute(newest)}
    rows = session.execute(
        select(
            CorpusRow.name,
            VersionRow.number,
            VersionRow.digest,
            VersionRow.parent,
            VersionRow.message,
            VersionRow.created_at,
            VersionRow.documents,
            RecipeRow.digest,
            CorpusRow.id,
            VersionRow.size_bytes,
            VersionRow.collected_at,
            BuildRow.status,
        )
        .join(CorpusRow, CorpusRow.id == VersionRow.corpus_id)
        .join(RecipeRow, RecipeRow.id == VersionRow.recipe_id)
        .outerjoin(BuildRow, BuildRow.id == VersionRow.build_id)
        .order_by(CorpusRow.name, VersionRow.number)
    )
    return [
        VersionState(
            version=Version(name, number, *fields),
            corpus_id=corpus,
            size_bytes=size_bytes,
            is_collected=collected_at is not None,
            is_wanted=(corpus, number) in named and collected_at is None,
            is_building=status == "running",
        )
        for name, number, *fields, corpus, size_bytes, collected_at, status in rows
    ]


def unnamed_corpora(session: Session) -> list[str]:
    """Return the corpora that have versions, but whose ``latest`` names none of them."""
    has_versions = select(VersionRow.number).where(VersionRow.corpus_id == CorpusRow.id)
    has_latest = (
        select(AliasRow.name)
        .join(VersionRow, (VersionRow.corpus_id == AliasRow.corpus_id) & (VersionRow.number == AliasRow.version))
        .where(AliasRow.corpus_id == CorpusRow.id, AliasRow.name == LATEST)
    )
    query = select(CorpusRow.name).where(has_versions.exists(), ~has_latest.exists())
    return list(session.scalars(query.order_by(CorpusRow.name)))


def overlaps(session: Session) -> list[Overlap]:
    """Return where a document is in a version twice."""
    until = func.coalesce(MembershipRow.to_version, ENDLESS)
    ranges = select(
        MembershipRow.corpus_id,
        MembershipRow.document_id,
        MembershipRow.from_version,
        until.label("until"),
        func.lag(until)
        .over(
            partition_by=(MembershipRow.corpus_id, MembershipRow.document_id),
            order_by=MembershipRow.from_version,
        )
        .label("before"),
    ).subquery()
    first_end = case((ranges.c.before < ranges.c.until, ranges.c.before), else_=ranges.c.until)
    rows = session.execute(
        select(ranges.c.corpus_id, DocumentRow.digest, ranges.c.from_version, first_end)
        .join(DocumentRow, DocumentRow.id == ranges.c.document_id)
        .where(ranges.c.before > ranges.c.from_version)
        .order_by(ranges.c.corpus_id, DocumentRow.digest)
    )
    return [Overlap(*row) for row in rows]


def counted_members(session: Session, versions: Sequence[VersionState]) -> dict[tuple[int, int], Members]:
    """Return what every version has, by corpus and number; costs a look at every membership, not at every member."""
    changes: dict[tuple[int, int], list[int]] = {}
    size = func.coalesce(func.sum(AdapterRow.size_bytes), 0)
    for end, sign in ((MembershipRow.from_version, 1), (MembershipRow.to_version, -1)):
        grouped = select(MembershipRow.corpus_id, end).where(end.is_not(None)).group_by(MembershipRow.corpus_id, end)
        every = grouped.outerjoin(AdapterRow, AdapterRow.id == MembershipRow.adapter_id)
        for corpus, number, documents, size_bytes in session.execute(every.add_columns(func.count(), size)):
            change = changes.setdefault((corpus, number or 0), [0, 0, 0])
            change[0] += sign * documents
            change[1] += sign * int(size_bytes)
        textless = grouped.join(DocumentRow, DocumentRow.id == MembershipRow.document_id).where(DocumentRow.withheld)
        for corpus, number, documents in session.execute(textless.add_columns(func.count())):
            changes[corpus, number or 0][2] += sign * documents
    counted: dict[tuple[int, int], Members] = {}
    for corpus in {state.corpus_id for state in versions}:
        numbers = [state.version.number for state in versions if state.corpus_id == corpus]
        steps = [changes.get((corpus, number), [0, 0, 0]) for number in numbers]
        sums = zip(*(accumulate([step[part] for step in steps]) for part in range(3)), strict=True)
        counted |= {(corpus, number): Members(*parts) for number, parts in zip(numbers, sums, strict=True)}
    return counted


def member_digests(session: Session, versions: Sequence[VersionState]) -> dict[int, str]:
    """Return the digests that versions of one corpus have by their members, by number.

    All are computed in one walk through the corpus' memberships, of which a bounded number is held at a time. What it
    costs beyond that walk is the hashing of every version's members.
    """
    import numpy as np  # costs 0.1 s, which other commands need not pay

    hashes = {state.version.number: hashlib.sha256(f"{state.version.recipe_digest}\n".encode()) for state in versions}
    for chunk in chunked(_ranges(session, versions[0].corpus_id), _LINES):
        begins, ends = (np.array([row[column] for row in chunk], dtype=np.int64) for column in (0, 1))
        text = "".join(f"{document} {adapter}\n" for _, _, document, adapter in chunk)
        lines = np.frombuffer(text.encode("ascii", "replace"), dtype=np.uint8).reshape(len(chunk), _LINE_BYTES)
        for number, digest in hashes.items():
            digest.update(lines[(begins <= number) & (ends > number)].tobytes())
    return {number: digest.hexdigest() for number, digest in hashes.items()}


def document_digests(session: Session, state: VersionState) -> list[str]:
    """Return the digests of a version's documents whose texts are here, in order."""
    query = (
        select(DocumentRow.digest)
        .join(MembershipRow, MembershipRow.document_id == DocumentRow.id)
        .where(MembershipRow.corpus_id == state.corpus_id, valid_at(MembershipRow, state.version.number))
        .where(~DocumentRow.withheld)
        .order_by(DocumentRow.digest)
    )
    return list(session.scalars(query))


def references_of_adapters(session: Session, adapter_digests: Iterable[str]) -> tuple[str, ...]:
    """Return the versions, not collected, that have any of these adapters, as references in order."""
    held = _held().join(AdapterRow, AdapterRow.id == MembershipRow.adapter_id)
    return _references(session, (held.where(AdapterRow.digest.in_(chunk)) for chunk in chunked(adapter_digests)))


def references_of_documents(session: Session, document_digests: Iterable[str]) -> tuple[str, ...]:
    """Return the versions, not collected, that have any of these documents, as references in order."""
    held = _held().join(DocumentRow, DocumentRow.id == MembershipRow.document_id)
    return _references(session, (held.where(DocumentRow.digest.in_(chunk)) for chunk in chunked(document_digests)))


def references_of_recipes(session: Session, recipe_digests: Sequence[str]) -> tuple[str, ...]:
    """Return the versions, not collected, of these recipes, as references in order."""
    rows = session.execute(
        select(CorpusRow.name, VersionRow.number)
        .join(CorpusRow, CorpusRow.id == VersionRow.corpus_id)
        .join(RecipeRow, RecipeRow.id == VersionRow.recipe_id)
        .where(RecipeRow.digest.in_(recipe_digests), VersionRow.collected_at.is_(None))
        .order_by(CorpusRow.name, VersionRow.number)
    )
    return tuple(f"{name}@v{number}" for name, number in rows)


def _held() -> Select[int, int, int]:
    end = func.coalesce(MembershipRow.to_version, ENDLESS)
    return select(MembershipRow.corpus_id, MembershipRow.from_version, end).distinct()


def _references(session: Session, queries: Iterable[Select[int, int, int]]) -> tuple[str, ...]:
    ranges = {(corpus, begin, end) for query in queries for corpus, begin, end in session.execute(query)}
    rows = session.execute(
        select(CorpusRow.id, CorpusRow.name, VersionRow.number)
        .join(CorpusRow, CorpusRow.id == VersionRow.corpus_id)
        .where(VersionRow.corpus_id.in_({corpus for corpus, _, _ in ranges}), VersionRow.collected_at.is_(None))
        .order_by(CorpusRow.name, VersionRow.number)
    )
    return tuple(
        f"{name}@v{number}"
        for corpus, name, number in rows
        if any(corpus == wanted and begin <= number < end for wanted, begin, end in ranges)
    )


def _ranges(session: Session, corpus: int) -> Iterator[Any]:
    """Yield begin, end, document and adapter of a corpus' memberships, in order of the documents' digests."""
    query = (
        select(
            MembershipRow.from_version,
            func.coalesce(MembershipRow.to_version, ENDLESS),
            DocumentRow.digest,
            AdapterRow.digest,
        )
        .join(DocumentRow, DocumentRow.id == MembershipRow.document_id)
        .join(AdapterRow, AdapterRow.id == MembershipRow.adapter_id)
        .where(MembershipRow.corpus_id == corpus)
        .order_by(DocumentRow.digest)
        .execution_options(yield_per=_LINES)
    )
    return iter(session.execute(query))
