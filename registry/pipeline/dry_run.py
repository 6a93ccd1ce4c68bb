"""Dry run: what a build would change, and whether a new version would come of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from registry.catalog.builds import check_language, corpus_language
from registry.catalog.documents import get_documents
from registry.catalog.members import member_digests
from registry.catalog.names import LATEST
from registry.catalog.recipes import get_recipe
from registry.catalog.references import aliased_version, latest_version
from registry.pipeline.augment import make_augmenter
from registry.pipeline.build import BuildRequest
from registry.pipeline.opened import Registry, opened
from registry.pipeline.recipes import Chosen, complete_recipe
from registry.pipeline.staging import Known, look_up, scratch_registry, staged_in
from registry.progress import Progress
from registry.records import Document, Skipped, Version
from registry.settings import Home

LISTED = 100
"""Documents of one kind that are named; all are counted."""


@dataclass(frozen=True, slots=True)
class Named:
    """A document, named without its text."""

    digest: str
    title: str


@dataclass(frozen=True, slots=True)
class Some:
    """Documents of one kind: how many, and the first of them."""

    count: int
    first: tuple[Named, ...]


@dataclass(frozen=True, slots=True)
class Changed:
    """A setting of the recipe that is another one than before."""

    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a build would do.

    ``against`` is the version that ``latest`` names (None: there is none yet); ``added``, ``kept`` and ``removed``
    are documents against it. Of all documents ``reused`` have their adapters, ``to_train`` have none that lies
    anywhere under the recipe, and of those ``to_augment`` await an augmentation, which a model or endpoint writes.
    ``recipe_changes`` are the settings that differ from the recipe of ``against``.

    ``version`` is the one that ``latest`` would name, and ``created`` whether it would be new. ``created`` is None
    where only lost adapters are trained: it is new if their bytes come out otherwise than before.
    """

    corpus: str
    against: str | None
    version: str
    created: bool | None
    documents: int
    places: int
    added: Some
    kept: int
    removed: Some
    reused: int
    to_augment: Some
    to_train: Some
    augmenter: str
    recipe_digest: str
    recipe_changes: Mapping[str, Changed]
    skipped: tuple[Skipped, ...]

    @property
    def is_nothing_to_do(self) -> bool:
        """Whether a build would leave all as it is."""
        return self.version == self.against and self.created is False


def dry_run(home: Home, request: BuildRequest, progress: Progress) -> DryRun:
    """Say what `build` would do for a request; nothing is trained, and the registry stays as it is.

    The base model is fetched or converted first where it is not there yet, as for a build.

    Raises:
        PragregError: see ``registry.errors``; what would stop a build before it trains stops this.
    """
    with opened(home) as registry, scratch_registry() as scratch:
        against, newest = _versions(registry, request)
        chosen = complete_recipe(registry, request.corpus, request.recipe, request.augmenter, progress)
        augmenter = make_augmenter(chosen, request.augmenter, "cpu")  # it is not asked to write anything
        gone = _members(registry, against)
        found = _Found()
        with staged_in(scratch, request, chosen, progress) as sources:
            progress.start("comparing", sources.counts.documents)
            for batch in look_up(registry, augmenter, chosen.recipe.digest, sources.documents):
                for known in batch:
                    found.add(known, is_new=gone.pop(known.staged.document.digest, None) is None)
                progress.advance(len(batch))
            progress.done()
        augmenter.finish()
        version, created = _outcome(registry, request.corpus, chosen, found, against, newest)
        return DryRun(
            corpus=request.corpus,
            against=against.reference if against else None,
            version=version,
            created=created,
            documents=sources.counts.documents,
            places=sources.counts.places,
            added=found.added.some,
            kept=len(found.adapters) - found.added.count,
            removed=_removed(registry, list(gone)),
            reused=len(found.adapters) - found.to_train.count,
            to_augment=found.to_augment.some,
            to_train=found.to_train.some,
            augmenter=chosen.recipe.augmenter,
            recipe_digest=chosen.recipe.digest,
            recipe_changes=_recipe_changes(registry, against, chosen),
            skipped=sources.skipped,
        )


@dataclass(slots=True)
class _Counter:
    """Counts documents and keeps the first."""

    count: int = 0
    first: list[Named] = field(default_factory=list)

    def add(self, document: Document) -> None:
        self.count += 1
        if len(self.first) < LISTED:
            self.first.append(Named(document.digest, document.title))

    @property
    def some(self) -> Some:
        return Some(self.count, tuple(self.first))


@dataclass(slots=True)
class _Found:
    """The documents of the sources; ``adapters`` are by document digest, None where one is to be trained."""

    adapters: dict[str, str | None] = field(default_factory=dict)
    added: _Counter = field(default_factory=_Counter)
    to_augment: _Counter = field(default_factory=_Counter)
    to_train: _Counter = field(default_factory=_Counter)

    def add(self, known: Known, *, is_new: bool) -> None:
        document = known.staged.document
        self.adapters[document.digest] = known.adapter_digest
        for counter, counts in (
            (self.added, is_new),
            (self.to_augment, known.augmentation is None and known.adapter_digest is None),
            (self.to_train, known.adapter_digest is None),
        ):
            if counts:
                counter.add(document)


def _versions(registry: Registry, request: BuildRequest) -> tuple[Version | None, Version | None]:
    """Return the version that a build would follow, and the newest; None where there is none."""
    with registry.catalog.read() as session:
        language = corpus_language(session, request.corpus)
        if language is None:
            return None, None
        check_language(request.corpus, language, request.language)
        newest = latest_version(session, request.corpus)
        return aliased_version(session, request.corpus, LATEST) or newest, newest


def _members(registry: Registry, version: Version | None) -> dict[str, str]:
    if version is None:
        return {}
    with registry.catalog.read() as session:
        return dict(member_digests(session, version))


def _removed(registry: Registry, digests: Sequence[str]) -> Some:
    with registry.catalog.read() as session:
        documents = get_documents(session, digests[:LISTED])
    return Some(len(digests), tuple(Named(digest, documents[digest].title) for digest in digests[:LISTED]))


def _recipe_changes(registry: Registry, against: Version | None, chosen: Chosen) -> dict[str, Changed]:
    if against is None or against.recipe_digest == chosen.recipe.digest:
        return {}
    with registry.catalog.read() as session:
        before = get_recipe(session, against.recipe_digest).canonical
    after = chosen.recipe.canonical
    names = sorted(before.keys() | after.keys())
    return {name: Changed(before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def _outcome(
    registry: Registry, corpus: str, chosen: Chosen, found: _Found, against: Version | None, newest: Version | None
) -> tuple[str, bool | None]:
    """Return the version that a build would end in, and whether it is new, None where that is open."""
    for version in dict.fromkeys(filter(None, (against, newest))):
        if version.recipe_digest == chosen.recipe.digest and version.documents == len(found.adapters):
            members = _members(registry, version)
            # One that is to be trained may come out as the one that the version has.
            if all(
                digest in members and adapter in (None, members[digest]) for digest, adapter in found.adapters.items()
            ):
                return version.reference, None if found.to_train.count else False
    return f"{corpus}@v{newest.number + 1 if newest else 1}", True
