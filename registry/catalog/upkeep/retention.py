"""Which versions garbage collection keeps and why, and the mark on those that it takes adapters from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from registry.catalog.models import AliasMoveRow, AliasRow, CorpusRow, PinRow, VersionRow
from registry.catalog.references import corpus_id, versions_query
from registry.records import Version


@dataclass(frozen=True, slots=True)
class Retention:
    """Which versions are kept besides those that an alias or a pin names and the newest of each corpus.

    With neither ``keep_last`` nor ``keep_since`` all are. Else the newest ``keep_last`` of each corpus, those made
    since ``keep_since``, and those that an alias named at any time since ``named_since``. ``corpora`` are those that
    this is about: of others all versions are kept (empty: it is about all).
    """

    named_since: datetime
    keep_last: int | None = None
    keep_since: datetime | None = None
    corpora: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JudgedVersion:
    """A version and why it is kept, in words; without a reason it is not."""

    version: Version
    reasons: tuple[str, ...]

    @property
    def key(self) -> tuple[str, int]:
        """The name of its corpus and its number."""
        return self.version.corpus, self.version.number


def judge_versions(session: Session, retention: Retention) -> list[JudgedVersion]:
    """Judge all versions that were not collected yet, by corpus and number.

    Raises:
        NotFoundError: there is no corpus of a name that ``retention`` has.
    """
    for name in retention.corpora:
        corpus_id(session, name)
    named = _reasons(session, retention)
    query = versions_query().where(VersionRow.collected_at.is_(None))
    rows = [Version(*row) for row in session.execute(query.order_by(CorpusRow.name, VersionRow.number))]
    judged: list[JudgedVersion] = []
    for corpus, versions in groupby(rows, key=lambda version: version.corpus):
        for rank, version in enumerate(reversed(list(versions)), 1):
            reasons = (*named.get((corpus, version.number), ()), *_by_age(version, rank, retention))
            judged.append(JudgedVersion(version, tuple(reasons)))
    return sorted(judged, key=lambda item: item.key)


def lock_versions(session: Session) -> None:
    """Let nobody move an alias or begin a build until this transaction ends; SQLite's write lock does that already."""
    session.execute(select(CorpusRow.id).order_by(CorpusRow.id).with_for_update()).all()


def mark_collected(session: Session, versions: Iterable[Version], now: datetime) -> None:
    """Mark versions as collected: adapters of theirs are gone, or are about to go."""
    corpora = {name: number for number, name in session.execute(select(CorpusRow.id, CorpusRow.name))}
    rows = [
        {"corpus_id": corpora[version.corpus], "number": version.number, "collected_at": now} for version in versions
    ]
    if rows:
        session.execute(update(VersionRow), rows)


def indexed_digests(session: Session, without: Collection[tuple[str, int]] = ()) -> dict[str, set[str]]:
    """Return the digests of all versions that were not collected, by corpus; those of ``without`` are left out."""
    query = select(CorpusRow.name, VersionRow.number, VersionRow.digest).join(CorpusRow)
    found: dict[str, set[str]] = {}
    for corpus, number, digest in session.execute(query.where(VersionRow.collected_at.is_(None))):
        if (corpus, number) not in without:
            found.setdefault(corpus, set()).add(digest)
    return found


def _by_age(version: Version, rank: int, retention: Retention) -> Iterator[str]:
    """Yield why a version is kept that is the ``rank``-th newest of its corpus."""
    last, since = retention.keep_last, retention.keep_since
    if last is None and since is None:
        yield "all are kept"
    elif retention.corpora and version.corpus not in retention.corpora:
        yield "of another corpus"
    elif rank <= (last or 1):
        yield "newest" if rank == 1 else f"among the newest {last}"
    elif since is not None and version.created_at >= since:
        yield "made since then"


def _reasons(session: Session, retention: Retention) -> dict[tuple[str, int], list[str]]:
    """Return why versions are kept that something names, by corpus and number."""
    found: dict[tuple[str, int], list[str]] = {}
    aliases = select(CorpusRow.name, AliasRow.version, AliasRow.name).join(
        CorpusRow, CorpusRow.id == AliasRow.corpus_id
    )
    for corpus, number, alias in session.execute(aliases.order_by(AliasRow.name)):
        found.setdefault((corpus, number), []).append(f"alias {alias}")
    pins = select(CorpusRow.name, PinRow.version).join(CorpusRow, CorpusRow.id == PinRow.corpus_id)
    for corpus, number in session.execute(pins):
        found.setdefault((corpus, number), []).append("pinned")
    moves = select(CorpusRow.name, AliasMoveRow.name, AliasMoveRow.from_version, AliasMoveRow.to_version)
    recent = moves.join(CorpusRow, CorpusRow.id == AliasMoveRow.corpus_id).where(
        AliasMoveRow.moved_at >= retention.named_since
    )
    for corpus, alias, before, after in session.execute(recent.order_by(AliasMoveRow.id)):
        for version in (before, after):
            reasons = found.setdefault((corpus, version), []) if version is not None else []
            if not {f"alias {alias}", f"was {alias} lately"} & set(reasons):
                reasons.append(f"was {alias} lately")
    return found
