"""Rebase: the versions of both sides after the last common one, theirs first, and our difference on top of them.

What is replayed is how the version here that ``latest`` names differs from the common one: what went goes, what came
comes. Where theirs changed the same line, ours stays. The versions that were here keep their numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from heapq import merge

from sqlalchemy.orm import Session

from registry.catalog.adapters import find_locations
from registry.catalog.aliases import aliases
from registry.catalog.names import LATEST
from registry.catalog.references import resolve
from registry.catalog.remotes.publishing import delta
from registry.catalog.remotes.remotes import locate_remote
from registry.catalog.remotes.source_names import published_names
from registry.catalog.versions import version_digest
from registry.errors import UsageError
from registry.hub.manifest.members import is_in
from registry.pipeline.pull.content import Content
from registry.pipeline.pull.offer import Offer
from registry.pipeline.pull.plan import Plan
from registry.pipeline.pull.recording import Step
from registry.published import Member, PublishedVersion, Standing, VersionDelta


@dataclass(frozen=True)
class Rebase:
    """The versions to append, and the digests of those documents of theirs that give way to ours."""

    steps: list[Step]
    conflicts: tuple[str, ...]


def own_version(session: Session, offer: Offer, plan: Plan) -> int:
    """Return the number of the version here whose difference is replayed.

    Raises:
        UsageError: it has another recipe than theirs, or theirs was rolled back.
    """
    number = aliases(session, offer.corpus).get(LATEST, plan.local[-1][0])
    own = resolve(session, f"{offer.corpus}@v{number}")
    if offer.target.number != offer.versions[-1].number:
        raise UsageError(
            f"{offer.repository} was rolled back to v{offer.target.number}, and a rebase goes on from its newest",
            hint=f"pragreg pull {offer.repository} --as OTHER",
        )
    if own.recipe_digest != offer.target.recipe_digest:
        raise UsageError(
            f"{own.reference} and v{offer.target.number} of {offer.repository} have different recipes, so one cannot "
            "be put on top of the other",
            hint=f"pragreg pull {offer.repository} --as OTHER, and build your sources into that corpus anew",
        )
    return number


def rebased(session: Session, offer: Offer, plan: Plan, content: Content) -> Rebase:
    """Return what puts ours on top of theirs.

    Raises:
        UsageError: see ``own_version``.
    """
    own, newest, common = own_version(session, offer, plan), plan.local[-1][0], plan.relation.numbers[plan.after]
    deltas = [_after_newest(session, offer, newest, common, content.deltas[0]), *content.deltas[1:]]
    steps = [
        Step(version, made, parent) for version, made, parent in zip(plan.new, deltas, plan.parents_here(), strict=True)
    ]
    if own in plan.relation.numbers.values():
        return Rebase(steps, ())
    replayed, conflicts = _replay(session, offer, plan.after, common, own, content)
    if replayed.closed or replayed.opened:
        version = _describe(session, offer, own, content, replayed)
        steps.append(Step(version, replayed, newest + len(plan.new), is_own=True))
    return Rebase(steps, conflicts)


def _after_newest(session: Session, offer: Offer, newest: int, common: int, theirs: VersionDelta) -> VersionDelta:
    """Return what makes their first version of our newest one: back to the common one, and from there on."""
    remote = None if offer.known is None else offer.known.remote_id
    names = published_names(session, offer.corpus, offer.repository, remote)
    back = delta(session, offer.corpus, newest, common, names)
    held = {standing.document_digest: standing for standing in delta(session, offer.corpus, common, newest, {}).opened}
    return followed(back, theirs, held)


def followed(first: VersionDelta, second: VersionDelta, held: Mapping[str, Standing]) -> VersionDelta:
    """Return one delta for two that follow each other; ``held`` are those that the first one closes, before it."""
    restored = {standing.document_digest for standing in first.opened}
    there: dict[str, Standing | None] = dict.fromkeys(first.closed)
    there |= {standing.document_digest: standing for standing in first.opened}
    there |= dict.fromkeys(second.closed)
    there |= {standing.document_digest: standing for standing in second.opened}
    moved = dict(first.moved)
    for document, places in second.moved.items():
        standing = there.get(document)
        if standing is None:
            moved[document] = places
        else:
            there[document] = replace(standing, places=places)
    closed: set[str] = set()
    opened: list[Standing] = []
    for document in sorted(there):
        standing = there[document]
        before = held.get(document)
        was_there = before is not None or (document in second.closed and document not in restored)
        moved.pop(document, None)
        if before is not None and standing is not None and before.adapter_digest == standing.adapter_digest:
            moved[document] = standing.places
            continue
        if was_there:
            closed.add(document)
        if standing is not None:
            opened.append(standing)
    return VersionDelta(frozenset(closed), tuple(opened), moved)


@dataclass(frozen=True)
class _Theirs:
    """Rows of their newest version: of documents that ours touched, and what they put on lines that ours touched."""

    documents: Mapping[str, Member]
    lines: Mapping[str, list[Member]]


def _replay(
    session: Session, offer: Offer, after: int, common: int, own: int, content: Content
) -> tuple[VersionDelta, tuple[str, ...]]:
    """Return what our difference makes of their newest version, and which documents of theirs give way."""
    ours = delta(session, offer.corpus, common, own, {})
    gone = delta(session, offer.corpus, own, common, {}).opened
    theirs = _their_rows(offer, after, content, ours, gone)
    back = {standing.document_digest for standing in ours.opened}
    closed = {document for document in ours.closed - back if document in theirs.documents}
    opened = []
    for standing in ours.opened:
        row = theirs.documents.get(standing.document_digest)
        if row is None or row.adapter_digest != standing.adapter_digest:
            opened.append(standing)
        if row is not None and row.adapter_digest != standing.adapter_digest:
            closed.add(row.document_digest)
    for rows in theirs.lines.values():
        closed |= {row.document_digest for row in rows if row.document_digest not in back}
    new = {row.document_digest for row in theirs.documents.values() if row.from_version > after}
    new |= {row.document_digest for rows in theirs.lines.values() for row in rows}
    stays = theirs.documents.keys() - closed
    moved = {document: places for document, places in ours.moved.items() if document in stays}
    return VersionDelta(frozenset(closed), tuple(opened), moved), tuple(sorted(closed & new))


def _their_rows(offer: Offer, after: int, content: Content, ours: VersionDelta, gone: Iterable[Standing]) -> _Theirs:
    touched = {*ours.closed, *ours.moved, *(standing.document_digest for standing in ours.opened)}
    lines: dict[str, list[Member]] = {standing.line: [] for standing in (*ours.opened, *gone)}
    documents: dict[str, Member] = {}
    for row in content.rows():
        if is_in(row, offer.target.number):
            if row.document_digest in touched:
                documents[row.document_digest] = row
            if row.line in lines and row.from_version > after:
                lines[row.line].append(row)
    return _Theirs(documents, lines)


def _describe(session: Session, offer: Offer, own: int, content: Content, replayed: VersionDelta) -> PublishedVersion:
    """Return the version that the replayed difference makes of theirs."""
    target = offer.target
    kept = (pair for pair in content.members.version_pairs(target.number) if pair[0] not in replayed.closed)
    new = sorted((standing.document_digest, standing.adapter_digest) for standing in replayed.opened)
    theirs = (row for row in content.rows() if is_in(row, target.number))
    freed = sum(row.size_bytes for row in theirs if row.document_digest in replayed.closed)
    return PublishedVersion(
        number=target.number + 1,
        digest=version_digest(target.recipe_digest, merge(kept, new)),
        parent=target.number,
        recipe_digest=target.recipe_digest,
        message=f"rebase of {offer.corpus}@v{own} on {offer.repository}@v{target.number}",
        created_at=datetime.now(UTC),
        documents=target.documents - len(replayed.closed) + len(replayed.opened),
        size_bytes=target.size_bytes - freed + _size_of(session, [adapter for _, adapter in new]),
    )


def _size_of(session: Session, adapters: list[str]) -> int:
    """Return how many bytes adapters have that lie here or in a repository; one that comes twice counts twice."""
    sizes = {digest: place.size_bytes for digest, place in locate_remote(session, adapters).items()}
    sizes |= {digest: place.size_bytes for digest, place in find_locations(session, adapters).items()}
    return sum(sizes.get(digest, 0) for digest in adapters)
