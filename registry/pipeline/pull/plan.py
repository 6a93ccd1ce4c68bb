"""How the corpus here and the repository's offer stand to each other, and which versions are to come."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session

from registry.catalog.builds import corpus_language
from registry.catalog.references import list_versions
from registry.errors import DivergedError, UsageError
from registry.hub.history import Relation, compare
from registry.pipeline.pull.offer import Offer
from registry.published import PublishedVersion

Local = tuple[tuple[int, str], ...]
"""The versions of a corpus here: numbers and digests, oldest first."""


@dataclass(frozen=True)
class Plan:
    """What a pull is going to do: append the versions ``new`` after the repository's version ``after`` (0: none).

    ``local`` is what it was planned by. Where ``is_rebase``, the corpus has versions of its own after that one.
    """

    local: Local
    relation: Relation
    after: int
    new: tuple[PublishedVersion, ...]

    @property
    def is_rebase(self) -> bool:
        """Whether both sides have versions that the other has not."""
        return self.relation.state == "diverged"

    def number_here(self, number: int) -> int:
        """Return the number that a version of the repository has here, or will have."""
        if number <= self.after:
            return self.relation.numbers[number]
        return (self.local[-1][0] if self.local else 0) + number - self.after

    def parents_here(self) -> list[int | None]:
        """Return the numbers that the parents of the new versions have here."""
        return [None if version.parent is None else self.number_here(version.parent) for version in self.new]

    def reference_here(self, offer: Offer) -> str:
        """Return what the version that is pulled is called here."""
        return f"{offer.corpus}@v{self.number_here(offer.target.number)}"


def make_plan(session: Session, offer: Offer, *, rebase: bool) -> Plan:
    """Compare the versions here with those that are offered.

    Raises:
        UsageError: the corpus here is in another language.
        DivergedError: both have versions that the other has not, and it was not asked for a ``rebase``, or they have
            no version in common.
    """
    local = local_versions(session, offer.corpus)
    own = corpus_language(session, offer.corpus)
    if own is not None and own != offer.root.language:
        raise UsageError(
            f"the corpus {offer.corpus!r} here is in language {own!r}, and that of {offer.repository} in "
            f"{offer.root.language!r}",
            hint=f"pragreg pull {offer.repository} --as OTHER",
        )
    relation = compare(local, offer.versions)
    after = len(relation.numbers)
    if relation.state == "diverged" and not (rebase and after):
        raise _diverged(offer, relation)
    return Plan(local, relation, after, offer.versions[after:])


def local_versions(session: Session, corpus: str) -> Local:
    """Return the versions of a corpus, none where there is no such corpus."""
    if corpus_language(session, corpus) is None:
        return ()
    return tuple((version.number, version.digest) for version in list_versions(session, corpus))


def _diverged(offer: Offer, relation: Relation) -> DivergedError:
    def named(numbers: tuple[int, ...]) -> str:
        return f"v{numbers[0]}" + (f" to v{numbers[-1]}" if len(numbers) > 1 else "")

    other = f"pragreg pull {offer.repository} --as OTHER brings it beside"
    if not relation.numbers:
        return DivergedError(
            f"the corpus {offer.corpus!r} here and {offer.repository} have no version in common", hint=other
        )
    return DivergedError(
        f"the corpus {offer.corpus!r} and {offer.repository} have diverged: {named(relation.only_here)} here "
        f"{'are' if relation.only_here[1:] else 'is'} not there, and {named(relation.only_there)} there "
        f"{'are' if relation.only_there[1:] else 'is'} not here",
        hint=f"{other}; pragreg pull {offer.repository} --rebase puts yours on top of theirs",
    )
