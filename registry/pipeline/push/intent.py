"""Which versions a push adds to a repository, and which it must not."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy.orm import Session

from registry.catalog.history import list_version_lines
from registry.catalog.listing import list_corpora
from registry.catalog.references import collected_error, resolve
from registry.catalog.remotes.publishing import corpus_versions
from registry.catalog.remotes.remotes import list_remotes
from registry.errors import DivergedError, IntegrityError, UsageError
from registry.hub.history import Relation, compare
from registry.published import PublishedVersion, Root
from registry.records import Version
from registry.settings import DEFAULT_CORPUS

_LISTED = 5


@dataclass(frozen=True, slots=True)
class Intent:
    """What is to be in the repository afterwards.

    ``versions`` are all of the corpus, as they are numbered here. ``added`` are those of them that the repository gets,
    ``numbers`` tells what number each version has there, by the one here; ``latest`` is a number there. ``before`` is
    the version here that the newest there is, None where there is none.
    """

    corpus: str
    target: Version
    relation: Relation
    versions: tuple[PublishedVersion, ...]
    added: tuple[PublishedVersion, ...]
    numbers: Mapping[int, int]
    latest: int
    before: int | None

    @property
    def published(self) -> list[PublishedVersion]:
        """Return the added versions as the repository lists them."""
        known = {version.number: version for version in self.versions}
        return [
            replace(version, number=self.numbers[version.number], parent=self._parent(version, known))
            for version in self.added
        ]

    def _parent(self, version: PublishedVersion, known: Mapping[int, PublishedVersion]) -> int | None:
        """Return the number of the nearest ancestor that the repository has."""
        parent = version.parent
        while parent is not None and parent not in self.numbers:
            parent = known[parent].parent
        return None if parent is None else self.numbers[parent]


def choose_corpus(session: Session, reference: str | None, endpoint: str, repository: str) -> str:
    """Return the reference of what is pushed.

    It is the given one; else the corpus that is known to lie in the repository; else ``default``, or the only one that
    there is.

    Raises:
        UsageError: several corpora lie in the repository.
    """
    if reference is not None:
        return reference
    there = [
        remote.corpus
        for remote in list_remotes(session)
        if (remote.endpoint, remote.repository) == (endpoint, repository)
    ]
    if len(there) > 1:
        raise UsageError(
            f"the corpora {', '.join(there)} all lie in {repository}", hint="say with --corpus which one is pushed"
        )
    known = there or [corpus.name for corpus in list_corpora(session, limit=2)]
    return known[0] if len(known) == 1 else DEFAULT_CORPUS


def intend(session: Session, reference: str, repository: str, root: Root | None) -> Intent:
    """Return what a push of ``reference`` adds to a repository with this root (None: with none yet).

    Where the repository has versions that the corpus has not, nothing is added.

    Raises:
        NotFoundError: there is no such corpus or version, or the version was collected and is not in the repository.
        DivergedError: each side has versions that the other has not.
        UsageError: the version can never be in the repository, since the corpus left it behind in a rebase.
        IntegrityError: a version lacks adapters that no collection took away.
    """
    target = resolve(session, reference)
    versions = tuple(corpus_versions(session, target.corpus, None))
    there = () if root is None else root.versions
    relation = compare([(version.number, version.digest) for version in versions], there)
    if relation.state == "diverged":
        raise diverged(repository, target.corpus, relation)
    numbers = {here: number for number, here in relation.numbers.items()}
    before = max(numbers, default=None)
    if relation.state == "behind" and root is not None:
        return Intent(target.corpus, target, relation, versions, (), numbers, root.latest, before)
    up_to = target.number if "@" in reference else versions[-1].number
    added = tuple(version for version in versions if version.number in relation.only_here and version.number <= up_to)
    numbers |= {version.number: len(there) + index for index, version in enumerate(added, 1)}
    if target.number not in numbers:
        raise UsageError(
            f"{target.reference} can never be in {repository}: what it changed was replayed there as another version",
            hint=_another(repository, target),
        )
    latest = numbers[target.number]
    if latest <= len(there) and not there[latest - 1].is_complete:
        raise UsageError(
            f"{target.reference} lies in {repository} without its adapters, since it was collected when it came",
            hint=_another(repository, target),
        )
    _check_complete(session, target, added)
    return Intent(target.corpus, target, relation, versions, added, numbers, latest, before)


def diverged(repository: str, corpus: str, relation: Relation) -> DivergedError:
    """Return the error that corpus and repository have each versions that the other has not."""
    return DivergedError(
        f"{corpus} and {repository} have diverged: {_numbers(relation.only_here)} of {corpus} "
        f"{'is' if len(relation.only_here) == 1 else 'are'} not there, "
        f"{_numbers(relation.only_there)} of {repository} {'is' if len(relation.only_there) == 1 else 'are'} not here",
        hint=f"pragreg push {repository} --rebase replays what is only here on what is there; "
        f"pragreg pull {repository} --as OTHER keeps both",
    )


def _check_complete(session: Session, target: Version, added: Sequence[PublishedVersion]) -> None:
    """Check that what is added has its adapters, but for what was collected and is history only."""
    incomplete = {version.number for version in added if not version.is_complete}
    if not incomplete:
        return
    lines = list_version_lines(session, target.corpus, limit=None)
    collected = {line.version: line.collected_at for line in lines if line.collected_at is not None}
    if target.number in incomplete and target.number in collected:
        raise collected_error(target, collected[target.number])
    if lost := incomplete - collected.keys():
        raise IntegrityError(
            f"{_numbers(lost)} of {target.corpus} cannot be published: adapters of it lie nowhere any more",
            hint="pragreg verify shows which, pragreg repair brings back what can be had; then push again",
        )


def _another(repository: str, target: Version) -> str:
    return (
        f"pragreg push {repository} --corpus {target.corpus}@vN, with a version that pragreg status {repository} "
        "does not leave out, or pragreg rollback to one"
    )


def _numbers(numbers: Collection[int]) -> str:
    ordered = sorted(numbers)
    if len(ordered) > _LISTED:
        return f"v{ordered[0]} to v{ordered[-1]}"
    return ", ".join(f"v{number}" for number in ordered)
