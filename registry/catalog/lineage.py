"""Lines: a document through its edits, by which the documents of two versions are matched.

Whether a document is the edited form of another is decided once, when a version is made, and kept as the number of
their line. So the difference of any two versions is one join on a number, and an edit is recognised through a hundred
versions even where the text has moved meanwhile. Within a corpus a document stays on its line for good.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple, TypeAlias

from sqlalchemy import and_, bindparam, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from registry.catalog.models import BuildItemRow, DocumentRow, MembershipRow, PlaceRow


class Standing(NamedTuple):
    """A document on its line at one of its places."""

    document: int
    line: int
    source: int
    ordinal: int
    record: str | None
    title: str


Rule: TypeAlias = Callable[[Standing], Hashable]

RULES: tuple[Rule, ...] = (
    lambda it: it.record and (it.source, it.record, it.ordinal),
    lambda it: it.record and (it.source, it.record),
    lambda it: it.record,
    lambda it: (it.source, it.ordinal),
    lambda it: it.title and (it.source, it.title),
)
"""What makes a new document the edited form of one that is gone, surest first: the same record of the same source, the
same record elsewhere, the same place, the same title in the same source. None or empty: the rule does not apply."""


def assign_lines(session: Session, build_id: int, corpus: int, number: int, parent: int | None) -> None:
    """Put the documents that version ``number`` adds on the lines of those that they are edits of.

    Its memberships are written, each on its document's own or earlier line, and the places are not yet. A line is free
    for one new document if nothing of the version is on it, and the version before or ``parent`` had it.
    """
    if number == 1:
        return
    gone = _gone(session, corpus, number, number - 1 if parent is None else parent)
    found = match(_new(session, build_id, corpus, number), gone) if gone else {}
    if found:
        moved = update(MembershipRow).where(
            MembershipRow.corpus_id == corpus,
            MembershipRow.from_version == number,
            MembershipRow.document_id == bindparam("document"),
        )
        rows = [{"document": document, "line": line} for document, line in found.items()]
        session.connection().execute(moved.values(line_id=bindparam("line")), rows)
    mark_shared(session, corpus, number)


def match(new: Iterable[Standing], gone: Iterable[Standing]) -> dict[int, int]:
    """Return the lines that new documents take over, by document; every line goes to one, the first in order."""
    new, gone = list(new), list(gone)
    found: dict[int, int] = {}
    taken: set[int] = set()
    for rule in RULES:
        free: dict[Hashable, deque[int]] = {}
        for item in gone:
            if item.line not in taken and (key := rule(item)):
                free.setdefault(key, deque()).append(item.line)
        for item in new:
            if item.document in found or not (lines := free.get(rule(item))):
                continue
            while lines:
                line = lines.popleft()
                if line not in taken:
                    taken.add(line)
                    found[item.document] = line
                    break
    return found


def _new(session: Session, build_id: int, corpus: int, number: int) -> list[Standing]:
    """Return what the corpus has for the first time, in the order of its places."""
    earlier = aliased(MembershipRow)
    known = select(earlier.document_id).where(
        earlier.corpus_id == corpus,
        earlier.document_id == MembershipRow.document_id,
        earlier.from_version < number,
    )
    rows = session.execute(
        select(
            MembershipRow.document_id,
            MembershipRow.line_id,
            BuildItemRow.source_id,
            BuildItemRow.ordinal,
            BuildItemRow.record_id,
            DocumentRow.title,
        )
        .join(BuildItemRow, BuildItemRow.document_id == MembershipRow.document_id)
        .join(DocumentRow, DocumentRow.id == MembershipRow.document_id)
        .where(MembershipRow.corpus_id == corpus, MembershipRow.from_version == number, ~known.exists())
        .where(BuildItemRow.build_id == build_id)
        .order_by(BuildItemRow.source_id, BuildItemRow.ordinal)
    )
    return [Standing(*row) for row in rows]


def _gone(session: Session, corpus: int, number: int, parent: int) -> list[Standing]:
    """Return the documents on free lines where they stood last: those of the parent first, then in order of places."""
    holder = aliased(MembershipRow)
    is_held = select(holder.document_id).where(
        holder.corpus_id == corpus, holder.line_id == MembershipRow.line_id, holder.to_version.is_(None)
    )
    in_parent = and_(MembershipRow.from_version <= parent, MembershipRow.to_version > parent)
    stood = and_(
        PlaceRow.corpus_id == corpus,
        PlaceRow.document_id == MembershipRow.document_id,
        PlaceRow.from_version < MembershipRow.to_version,
        or_(PlaceRow.to_version.is_(None), PlaceRow.to_version >= MembershipRow.to_version),
    )
    rows = session.execute(
        select(
            MembershipRow.document_id,
            MembershipRow.line_id,
            PlaceRow.source_id,
            PlaceRow.ordinal,
            PlaceRow.record_id,
            DocumentRow.title,
        )
        .join(PlaceRow, stood)
        .join(DocumentRow, DocumentRow.id == MembershipRow.document_id)
        .where(MembershipRow.corpus_id == corpus, MembershipRow.to_version.between(parent + 1, number))
        .where(or_(in_parent, MembershipRow.to_version == number), ~is_held.exists())
        .order_by(in_parent.desc(), PlaceRow.source_id, PlaceRow.ordinal, MembershipRow.document_id)
    )
    return [Standing(*row) for row in rows]


def mark_shared(session: Session, corpus: int, number: int) -> None:
    """Mark the rows of lines with several documents in this version: an old text that came back beside its edit."""
    added = select(MembershipRow.line_id).where(MembershipRow.corpus_id == corpus, MembershipRow.from_version == number)
    holder = aliased(MembershipRow)
    shared = list(
        session.scalars(
            select(holder.line_id)
            .where(holder.corpus_id == corpus, holder.to_version.is_(None), holder.line_id.in_(added))
            .group_by(holder.line_id)
            .having(func.count() > 1)
        )
    )
    if shared:
        marked = update(MembershipRow).where(
            MembershipRow.corpus_id == corpus,
            MembershipRow.to_version.is_(None),
            MembershipRow.line_id == bindparam("line"),
        )
        session.connection().execute(marked.values(shares_line=True), [{"line": line} for line in shared])
