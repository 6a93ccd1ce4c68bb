"""Mending versions: members that have the version's digest again, and counters that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from sqlalchemy.orm import Session

from registry.catalog.upkeep.repairs_versions import (
    Range,
    Ranges,
    corpora,
    ranges_of,
    set_counters,
    set_identity,
    set_ranges,
)
from registry.catalog.upkeep.version_checks import VersionState, counted_members, member_digests, version_states
from registry.pipeline.repair.bench import RESTORE, Bench
from registry.upkeep.findings import Finding


def mend_versions(bench: Bench, findings: Sequence[Finding]) -> None:
    """Make the members of versions have their digests again, then the counters that follow from them."""
    every: list[str] = []
    with bench.noting(findings), bench.registry.catalog.read() as session:
        every = corpora(session)
    for corpus in every:
        concerned = [finding for finding in findings if corpus in _corpora(finding, every)]
        if concerned:
            with bench.noting(concerned):
                _mend_corpus(bench, corpus, concerned)


def _corpora(finding: Finding, every: Sequence[str]) -> set[str]:
    """Return the corpora that a finding is about; all of them where it does not say."""
    named = {reference.partition("@")[0] for reference in (finding.subject, *finding.versions)}
    return named & set(every) or set(every)


def _mend_corpus(bench: Bench, corpus: str, concerned: Sequence[Finding]) -> None:
    catalog = bench.registry.catalog
    done: list[str] = []
    with catalog.read() as session:
        is_right = not _wrong(session, corpus) and not _overlapping(ranges_of(session, corpus))
    if not is_right and bench.backup is not None and (text := _from_backup(bench, corpus)):
        done.append(text)
    with catalog.read() as session:
        ranges = ranges_of(session, corpus)
        overlapping = _overlapping(ranges)
    if overlapping and _disentangle(bench, corpus, {digest: ranges[digest] for digest in overlapping}):
        done.append(f"the ranges of {len(overlapping)} documents that overlapped were cut as the digests demand")
    with catalog.read() as session:
        wrong = _wrong(session, corpus)  # takes long with many versions, so not while others wait to write
    with catalog.write() as session:
        _count(session, corpus, wrong)
    for finding in concerned:
        numbers = {f"{corpus}@v{number}" for number in wrong}
        if numbers & {finding.subject, *finding.versions}:
            bench.note([finding], "the members that the catalog gives it do not have its digest", RESTORE)
        else:
            bench.note([finding], "; ".join(done) or "its counters were derived again from its members")


def _count(session: Session, corpus: str, wrong: set[int]) -> None:
    """Derive the counters of the versions that have their digests again."""
    states = _states(session, corpus)
    counted = counted_members(session, states)
    for state in states:
        members = counted[state.corpus_id, state.version.number]
        are_right = (state.version.documents, state.size_bytes) == (members.documents, members.size_bytes)
        if state.version.number not in wrong and not are_right:
            set_counters(session, state.version, members.documents, members.size_bytes)


def _states(session: Session, corpus: str) -> list[VersionState]:
    return [state for state in version_states(session) if state.version.corpus == corpus]


def _wrong(session: Session, corpus: str) -> set[int]:
    """Return the numbers of the versions whose members do not have their digest."""
    states = _states(session, corpus)
    digests = member_digests(session, states) if states else {}
    return {state.version.number for state in states if digests[state.version.number] != state.version.digest}


def _from_backup(bench: Bench, corpus: str) -> str:
    """Take digests and ranges of versions from the backup, as far as it has the same versions, whole; say how many."""
    assert bench.backup is not None
    with bench.backup.catalog.read() as other:
        if corpus not in corpora(other):
            return ""
        unsound = _wrong(other, corpus)
        kept = {state.version.number: state.version for state in _states(other, corpus)}
        theirs = ranges_of(other, corpus)
    with bench.registry.catalog.write() as session:
        last = 0
        versions = [state.version for state in _states(session, corpus)]
        for version in versions:
            same = kept.get(version.number)
            if same is None or same.number in unsound or same.created_at != version.created_at:
                break
            if (same.digest, same.recipe_digest) != (version.digest, version.recipe_digest):
                set_identity(session, same)
            last = version.number
        if not last:
            return ""
        ours = ranges_of(session, corpus)
        follows = last < versions[-1].number
        changed = {
            digest: _joined(theirs.get(digest, []), ours.get(digest, []), last, follows)
            for digest in ours.keys() | theirs.keys()
            if _until(ours.get(digest, []), last) != _until(theirs.get(digest, []), last)
        }
        set_ranges(session, corpus, changed)
    return f"the backup's members were taken up to v{last} ({len(changed)} documents differed)"


def _until(ranges: Iterable[Range], last: int) -> list[Range]:
    """Cut ranges to the versions up to ``last``; those that go on are open."""
    return [
        Range(one.first, None if one.end is None or one.end > last else one.end, one.adapter)
        for one in ranges
        if one.first <= last
    ]


def _joined(theirs: Iterable[Range], ours: Sequence[Range], last: int, follows: bool) -> list[Range]:
    """Return their ranges up to version ``last``, and ours that begin after it, if any version ``follows``.

    What goes on over that border in ours is one row, so in theirs it goes on as long; and so does what we have lost.
    """
    joined = _until(theirs, last)
    if not follows:
        return joined
    over = [one.end for one in ours if one.first <= last and (one.end is None or one.end > last)]
    end = over[0] if over else (last + 1 if ours else None)
    after = [one for one in ours if one.first > last]
    return [one._replace(end=end) if one.end is None else one for one in joined] + after


def _overlapping(ranges: Ranges) -> set[str]:
    """Return the documents with two ranges that both cover some version."""
    return {
        digest
        for digest, own in ranges.items()
        if any(one.end is None or one.end > other.first for one, other in pairwise(own))
    }


class _NotItError(Exception):
    """Rolls a trial back."""


def _disentangle(bench: Bench, corpus: str, ranges: Ranges) -> bool:
    """Try the ways in which ranges may have come to overlap; keep the one with which every version has its digest."""
    ways: list[Callable[[list[Range]], list[Range]]] = [_cut, _first_only, _last_only]
    for way in ways:
        try:
            with bench.registry.catalog.write() as session:
                set_ranges(session, corpus, {digest: way(own) for digest, own in ranges.items()})
                if _wrong(session, corpus):
                    raise _NotItError
            return True
        except _NotItError:
            continue
    return False


def _cut(own: list[Range]) -> list[Range]:
    """End every range where the next begins; one that was cut so and goes on with the same adapter goes on."""
    cut: list[Range] = []
    for one, other in zip(own, [*own[1:], None], strict=True):
        overlaps = other is not None and (one.end is None or one.end > other.first)
        end = other.first if other is not None and overlaps else one.end
        cut.append(Range(one.first, end, one.adapter))
    return cut


def _first_only(own: list[Range]) -> list[Range]:
    """Leave out ranges that begin within another."""
    kept: list[Range] = []
    for one in own:
        if not kept or (kept[-1].end is not None and kept[-1].end <= one.first):
            kept.append(one)
    return kept


def _last_only(own: list[Range]) -> list[Range]:
    """Leave out ranges in which another begins."""
    return [one for one, other in zip(own, [*own[1:], None], strict=True) if other is None or _ends_before(one, other)]


def _ends_before(one: Range, other: Range) -> bool:
    return one.end is not None and one.end <= other.first
