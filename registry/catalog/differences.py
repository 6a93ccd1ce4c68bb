"""The difference of any two versions of a corpus: documents added, removed and changed, and adapters changed.

Documents of the two are matched along their lines (see ``lineage``): one walk over the ranges that begin or end between
the versions, in the order of indexes that hold all it needs. Texts are read only of what is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from sqlalchemy import ColumnElement, Select, and_, case, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from registry.catalog.chunks import chunked
from registry.catalog.members import checked_at, valid_at
from registry.catalog.models import AdapterRow, DocumentRow, MembershipRow, PlaceRow, SourceRow
from registry.catalog.references import corpus_id
from registry.errors import UsageError
from registry.records import Version

Kind = Literal["changed", "added", "removed", "re-encoded"]
KINDS: tuple[Kind, ...] = ("changed", "added", "removed", "re-encoded")
"""In the order in which they are listed."""

_BACK: dict[Kind, Kind] = {"changed": "changed", "added": "removed", "removed": "added", "re-encoded": "re-encoded"}

Member: TypeAlias = tuple[int, int]
"""The row ids of a document and of its adapter."""

_LOW = aliased(MembershipRow, name="low")
_HIGH = aliased(MembershipRow, name="high")


@dataclass(frozen=True, slots=True)
class DocumentState:
    """A document as a version has it, with its adapter and the first of its places there."""

    digest: str
    title: str
    adapter_digest: str
    source_uri: str | None
    ordinal: int | None


@dataclass(frozen=True, slots=True)
class DocumentChange:
    """What became of a document; ``old`` is None where it was added, ``new`` where it was removed."""

    kind: Kind
    old: DocumentState | None
    new: DocumentState | None


@dataclass(frozen=True, slots=True)
class Difference:
    """How ``new`` differs from ``old``, in numbers of documents.

    ``changed`` are those whose text or title was edited, ``reencoded`` those that stayed but have another adapter,
    ``kept`` those that stayed with theirs.
    """

    old: Version
    new: Version
    changed: int
    added: int
    removed: int
    reencoded: int
    kept: int


class _Span(NamedTuple):
    """Two versions of a corpus, the lower number first, whichever way they are compared."""

    corpus: int
    low: int
    high: int


class _Pair(NamedTuple):
    low: Member | None
    high: Member | None


def compare(session: Session, old: Version, new: Version) -> Difference:
    """Count what differs from ``old`` to ``new``, two versions of one corpus, whichever is newer.

    Raises:
        UsageError: they are versions of different corpora.
        NotFoundError: there is no such corpus.
    """
    span = _span(session, old, new)
    ended, matched, edited, again = session.execute(
        _ended(span).with_only_columns(
            func.count(),
            func.count(_HIGH.document_id),
            _sum(_HIGH.document_id != _LOW.document_id),
            _sum(_is_reencoded()),
        )
    ).one()
    shared = _shared_lines(session, span)
    changed, reencoded = edited + len(shared["changed"]), again + len(shared["re-encoded"])
    removed = ended - matched + len(shared["removed"])
    # Versions know how many documents they have, so what was added need not be counted.
    low, high = sorted((old, new), key=lambda version: version.number)
    added = high.documents - low.documents + removed
    if old.number > new.number:
        removed, added = added, removed
    kept = new.documents - added - changed - reencoded
    return Difference(old, new, changed=changed, added=added, removed=removed, reencoded=reencoded, kept=kept)


def list_changes(
    session: Session, difference: Difference, *, limit: int | None = None, offset: int = 0
) -> list[DocumentChange]:
    """Return what differs, one document each: the changed, the added, the removed, the re-encoded ones.

    Within a kind they follow the corpus' history. ``limit`` (None: all) and ``offset`` count over all kinds.

    Raises:
        NotFoundError: there is no such corpus.
    """
    old, new = difference.old, difference.new
    span = _span(session, old, new)
    is_back = old.number > new.number
    shared = _shared_lines(session, span)
    found: list[tuple[Kind, _Pair]] = []
    left = limit
    for kind, total in _totals(difference).items():
        if offset >= total or left == 0:
            offset = max(0, offset - total)
            continue
        wanted = total - offset if left is None else min(left, total - offset)
        forward = _BACK[kind] if is_back else kind
        found += [(kind, pair) for pair in _pairs(session, span, forward, shared[forward], wanted, offset)]
        left = None if left is None else left - wanted
        offset = 0
    sides = [(kind, pair.high, pair.low) if is_back else (kind, pair.low, pair.high) for kind, pair in found]
    before = _states(session, span.corpus, old, [item for _, item, _ in sides if item is not None])
    after = _states(session, span.corpus, new, [item for _, _, item in sides if item is not None])
    return [
        DocumentChange(kind, None if one is None else before[one], None if other is None else after[other])
        for kind, one, other in sides
    ]


def _totals(difference: Difference) -> dict[Kind, int]:
    found = difference
    return dict(zip(KINDS, (found.changed, found.added, found.removed, found.reencoded), strict=True))


def _span(session: Session, old: Version, new: Version) -> _Span:
    if old.corpus != new.corpus:
        raise UsageError(
            f"{old.reference} and {new.reference} are versions of different corpora",
            hint="compare two versions of one corpus, such as "
            f"{old.corpus}@v{max(1, old.number - 1)} and {old.reference}",
        )
    return _Span(corpus_id(session, old.corpus), min(old.number, new.number), max(old.number, new.number))


def _ended(span: _Span) -> Select[*tuple[Any, ...]]:
    """Select what only the lower version has, each with what the higher one has on the same line, if anything."""
    on_line = and_(
        _HIGH.corpus_id == span.corpus,
        _HIGH.line_id == _LOW.line_id,
        _HIGH.from_version.between(span.low + 1, span.high),
        or_(_HIGH.to_version.is_(None), _HIGH.to_version > span.high),
    )
    return (
        select(_LOW.document_id, _LOW.adapter_id, _HIGH.document_id, _HIGH.adapter_id)
        .select_from(_LOW)
        .outerjoin(_HIGH, on_line)
        .where(_LOW.corpus_id == span.corpus, _LOW.to_version.between(span.low + 1, span.high))
        .where(_LOW.from_version <= span.low, _LOW.line_id.not_in(_shared(span)))
    )


def _begun(span: _Span) -> Select[*tuple[Any, ...]]:
    """Select what only the higher version has."""
    return select(_HIGH.document_id, _HIGH.adapter_id).where(
        _HIGH.corpus_id == span.corpus,
        _HIGH.from_version.between(span.low + 1, span.high),
        or_(_HIGH.to_version.is_(None), _HIGH.to_version > span.high),
        _HIGH.line_id.not_in(_shared(span)),
    )


def _shared(span: _Span) -> Select[int]:
    row = aliased(MembershipRow)
    return select(row.line_id).where(row.corpus_id == span.corpus, row.shares_line)


def _sum(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)


def _is_reencoded() -> ColumnElement[bool]:
    return and_(_HIGH.document_id == _LOW.document_id, _HIGH.adapter_id != _LOW.adapter_id)


def _pairs(session: Session, span: _Span, kind: Kind, shared: Sequence[_Pair], limit: int, offset: int) -> list[_Pair]:
    """Return some pairs of a kind, as seen from the lower version: those on shared lines come first."""
    first = list(shared[offset : offset + limit])
    page = {"limit": limit - len(first), "offset": max(0, offset - len(shared))}
    if not page["limit"]:
        return first
    query = _begun(span) if kind == "added" else _ended(span)
    # The order of the index, so that a page is not sorted out of all of them.
    order: tuple[ColumnElement[Any] | InstrumentedAttribute[Any], ...] = (
        _LOW.to_version,
        _LOW.from_version,
        _LOW.line_id,
        _LOW.document_id,
    )
    if kind == "changed":
        query = query.where(_HIGH.document_id != _LOW.document_id)
    elif kind == "re-encoded":
        query = query.where(_is_reencoded())
    elif kind == "removed":
        query = query.where(_HIGH.document_id.is_(None))
    else:
        on_line = and_(_LOW.corpus_id == span.corpus, _LOW.line_id == _HIGH.line_id)
        query = query.where(~select(_LOW.document_id).where(on_line, valid_at(_LOW, span.low)).exists())
        order = (_HIGH.from_version, _HIGH.to_version, _HIGH.line_id, _HIGH.document_id)
    rows = session.execute(query.order_by(*order).limit(page["limit"]).offset(page["offset"]))
    if kind == "added":
        return first + [_Pair(None, (row[0], row[1])) for row in rows]
    return first + [_Pair((row[0], row[1]), None if row[2] is None else (row[2], row[3])) for row in rows]


def _shared_lines(session: Session, span: _Span) -> dict[Kind, list[_Pair]]:
    """Match the documents on lines that had several at once: each with itself, then in order of their row ids."""
    lines: dict[int, tuple[dict[int, int], dict[int, int]]] = {}
    for line, document, adapter, in_low, in_high in _rows_of_shared_lines(session, span):
        low, high = lines.setdefault(line, ({}, {}))
        if in_low:
            low[document] = adapter
        if in_high:
            high[document] = adapter
    found: dict[Kind, list[_Pair]] = {kind: [] for kind in KINDS}
    for _, (low, high) in sorted(lines.items()):
        for document in sorted(low.keys() & high.keys()):
            if low[document] != high[document]:
                found["re-encoded"].append(_Pair((document, low[document]), (document, high[document])))
        gone = [(document, low[document]) for document in sorted(low.keys() - high.keys())]
        new = [(document, high[document]) for document in sorted(high.keys() - low.keys())]
        pairs = min(len(gone), len(new))
        found["changed"] += map(_Pair, gone[:pairs], new[:pairs])
        found["removed"] += (_Pair(item, None) for item in gone[pairs:])
        found["added"] += (_Pair(None, item) for item in new[pairs:])
    return found


def _rows_of_shared_lines(session: Session, span: _Span) -> Iterator[Sequence[Any]]:
    columns = select(
        MembershipRow.line_id,
        MembershipRow.document_id,
        MembershipRow.adapter_id,
        # Of rows that hold for either version, this tells for which.
        MembershipRow.from_version <= span.low,
        or_(MembershipRow.to_version.is_(None), MembershipRow.to_version > span.high),
    )
    in_either = or_(checked_at(MembershipRow, span.corpus, span.low), checked_at(MembershipRow, span.corpus, span.high))
    for chunk in chunked(list(session.scalars(_shared(span).distinct()))):
        yield from session.execute(columns.where(MembershipRow.line_id.in_(chunk), in_either))


def _states(session: Session, corpus: int, version: Version, members: Sequence[Member]) -> dict[Member, DocumentState]:
    """Read what is shown of some members of a version."""
    documents: dict[int, tuple[str, str]] = {}
    adapters: dict[int, str] = {}
    places: dict[int, tuple[str, int]] = {}
    for chunk in chunked(members):
        numbers = [document for document, _ in chunk]
        texts = select(DocumentRow.id, DocumentRow.digest, DocumentRow.title).where(DocumentRow.id.in_(numbers))
        documents |= {number: (digest, title) for number, digest, title in session.execute(texts)}
        digests = select(AdapterRow.id, AdapterRow.digest).where(AdapterRow.id.in_(adapter for _, adapter in chunk))
        adapters |= {number: digest for number, digest in session.execute(digests)}
        standing = (
            select(PlaceRow.document_id, SourceRow.uri, PlaceRow.ordinal)
            .join(SourceRow, SourceRow.id == PlaceRow.source_id)
            .where(PlaceRow.document_id.in_(numbers), checked_at(PlaceRow, corpus, version.number))
            .order_by(SourceRow.uri, PlaceRow.ordinal)
        )
        for number, uri, ordinal in session.execute(standing):
            places.setdefault(number, (uri, ordinal))
    return {
        (document, adapter): DocumentState(*documents[document], adapters[adapter], *places.get(document, (None, None)))
        for document, adapter in members
    }
