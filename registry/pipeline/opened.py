"""An opened registry: its home, catalog and packs, and the index of a version."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

from registry.catalog.adapters import find_locations, locate
from registry.catalog.builds import corpus_language
from registry.catalog.engine import Catalog, open_catalog
from registry.catalog.members import changes, indexed_documents, members_by_document, withheld_documents
from registry.catalog.recipes import get_base_model, get_recipe
from registry.catalog.references import resolve, resolve_open
from registry.catalog.remotes.remotes import locate_remote
from registry.digests import short
from registry.errors import IntegrityError, NotFoundError, StorageError
from registry.index import VersionIndex
from registry.recipe import Recipe
from registry.records import AdapterLocation, BaseModel, Document, Hit, Match, Pack, Version
from registry.retrieval import hits_of
from registry.settings import Home
from registry.store.packs import PackStore
from registry.upkeep.readers import reading

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from registry.pipeline.remote_adapters import RemoteAdapters

MOST_MOVES = 100
"""So often an adapter may have moved before it is read; a build moves it once at most, and gc."""
MOST_WRITES = 50


class _TakenAwayError(Exception):
    """A pack's file was deleted between its writing and its row."""


@dataclass(frozen=True)
class Registry:
    """Everything that the stages of one command read and write."""

    home: Home
    catalog: Catalog
    packs: PackStore

    def version(self, reference: str) -> Version:
        """Return the version that ``corpus@ref`` names, to query it.

        Raises:
            NotFoundError: there is none, or it was collected; the message lists what there is.
        """
        with self.catalog.read() as session:
            return resolve_open(session, reference)

    @contextmanager
    def leased(self, version: Version) -> Iterator[Version]:
        """Yield a version whose adapters stay for the time of the block, whatever builds and gc do meanwhile.

        Raises:
            NotFoundError: it was collected.
        """
        with reading(self.home, version):
            # Only now: what a garbage collection decided before is in the catalog, and the next one sees the reader.
            yield self.version(version.reference)

    def recipe_of(self, version: Version) -> tuple[Recipe, BaseModel]:
        """Return the recipe of a version and its base model."""
        with self.catalog.read() as session:
            recipe = get_recipe(session, version.recipe_digest)
            return recipe, get_base_model(session, recipe.base_model)

    def documents(self, version: Version, digests: Sequence[str]) -> Mapping[str, tuple[Document, str]]:
        """Return documents of a version and their adapters' digests, by document digest."""
        with self.catalog.read() as session:
            return members_by_document(session, version, digests)

    def members(self, version: Version) -> Callable[[Sequence[str]], Mapping[str, tuple[Document, str]]]:
        """Return ``documents`` of one version as a function of digests."""
        return partial(self.documents, version)

    def adapters(self, digests: Iterable[str]) -> dict[str, memoryview]:
        """Return the bytes of adapters by digest, checked the first time that this process reads them.

        Those that lie in no pack here are read from the repository that has them, and kept in a cache.

        Raises:
            NotFoundError: an adapter is unknown or lies nowhere.
            IntegrityError: bytes are missing or damaged.
            HubError: a repository with an adapter cannot be reached.
        """
        wanted = list(dict.fromkeys(digests))
        with self.catalog.read() as session:
            here = find_locations(session, wanted)
            elsewhere = [digest for digest in wanted if digest not in here]
            there = locate_remote(session, elsewhere) if elsewhere else {}
            locate(session, (digest for digest in elsewhere if digest not in there))  # says which lies nowhere
        fetched = self._remote_adapters.read(there) if there else {}
        return {digest: fetched[digest] if digest in there else self._read(here[digest]) for digest in wanted}

    def fetch(self, digests: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Yield those of the adapters that lie in repositories, from there and by digest, checked as they come.

        Raises:
            HubError: a repository cannot be reached.
            IntegrityError: what came is not the adapter.
        """
        with self.catalog.read() as session:
            places = locate_remote(session, digests)
        yield from self._remote_adapters.fetch(places)

    @cached_property
    def _remote_adapters(self) -> RemoteAdapters:
        from registry.pipeline.remote_adapters import RemoteAdapters  # brings the Hub's client

        return RemoteAdapters(self)

    def _locate(self, digests: Sequence[str]) -> dict[str, AdapterLocation]:
        with self.catalog.read() as session:
            return locate(session, digests)

    def _read(self, location: AdapterLocation) -> memoryview:
        """Read an adapter, wherever builds and gc move it between a look-up and the reading."""
        for attempt in range(MOST_MOVES):
            try:
                return self.packs.read(location)
            except IntegrityError:
                now = self._locate([location.adapter_digest])[location.adapter_digest]
                # Once more from the same place: its pack may have been deleted and written again.
                if attempt and now == location:
                    raise
                location = now
        return self.packs.read(location)

    def store(self, write: Callable[[], Pack], record: Callable[[Session, Pack], None]) -> Pack:
        """Put a pack into the store by ``write``, and into the catalog by ``record``: the only way to add one.

        First the bytes, then the catalog, which never points at what is not there. Whoever deletes files that no row
        names (see ``registry.upkeep.gc.collect``) may take this one in between; then it is written again. Both are done
        anew in that case, so they must not count on being called once.

        Raises:
            StorageError: the pack cannot be written, or is taken away every time.
        """
        for _ in range(MOST_WRITES):
            pack = write()
            with suppress(_TakenAwayError), self.catalog.write() as session:
                record(session, pack)
                # With its row written, nobody can begin to delete the file before this transaction ends.
                if not self.packs.exists(pack.digest):
                    raise _TakenAwayError
                return pack
        raise StorageError(
            f"the pack {short(pack.digest)} is gone from {self.home.packs_url} each time that it was written",
            hint="check that nothing but pragreg deletes files there",
        )

    def index(self, version: Version) -> VersionIndex:
        """Return the index of a version; it is derived, so a missing or damaged one is made again.

        So is one from before texts came that had been withheld.
        """
        folder = self.home.index_folder(version)
        with suppress(IntegrityError):
            index = VersionIndex.open(folder)
            if index.documents == self._searchable(version):
                return index
        self.make_index(version)
        return VersionIndex.open(folder)

    def _searchable(self, version: Version) -> int:
        """Return how many documents the index of a version holds: those whose texts are here."""
        with self.catalog.read() as session:
            return version.documents - withheld_documents(session, version)

    def nothing_found(self, version: Version) -> NotFoundError:
        """Return the error that a question found nothing in a version of which texts are withheld."""
        withheld = version.documents - self._searchable(version)
        return NotFoundError(
            f"nothing can be found in {withheld} of the {version.documents} documents of {version.reference}: their "
            "texts are not here, only their digests",
            hint=f"bring the texts: pragreg build SOURCE... --corpus {version.corpus}, or pragreg pull "
            "NAMESPACE/NAME --texts SOURCE...",
        )

    def make_index(self, version: Version, *, from_parent: bool = True) -> None:
        """Make the index of a version, from its parent's where there is one that is sound."""
        folder = self.home.index_folder(version)
        with self.catalog.read() as session:
            language = corpus_language(session, version.corpus) or "en"
            if from_parent and version.parent is not None:
                parent = resolve(session, f"{version.corpus}@v{version.parent}")
                before = self.home.index_folder(parent)
                searchable = parent.documents - withheld_documents(session, parent)
                difference = changes(session, version.corpus, version.parent, version.number)
                if VersionIndex.can_derive(before, language, len(difference.removed), documents=searchable):
                    with suppress(IntegrityError):
                        VersionIndex.derive(before, folder, difference.added, difference.removed)
                        return
            VersionIndex.build(folder, language, indexed_documents(session, version))


class Retriever:
    """Retrieval from one version: its index stays open, and is made anew where it turns out to be damaged."""

    def __init__(self, registry: Registry, version: Version) -> None:
        """Open the index, which is made if it is missing."""
        self._registry, self._version = registry, version
        self._index = registry.index(version)

    @property
    def has_all_texts(self) -> bool:
        """Whether every document of the version can be found."""
        return self._index.documents == self._version.documents

    def hits(self, questions: Sequence[str], k: int) -> list[tuple[Hit, ...]]:
        """Return the ``k`` best hits of every question, fewer where fewer documents share a word with it.

        Raises:
            NotFoundError: no text of the version is here, so that nothing can be found.
        """
        if not self._index.documents and self._version.documents:
            raise self._registry.nothing_found(self._version)
        try:
            return self._hits(questions, k)
        except IntegrityError:
            # Not from its parent's, with which it may share the damaged file.
            self._registry.make_index(self._version, from_parent=False)
            self._index = self._registry.index(self._version)
            return self._hits(questions, k)

    def join(self, matches: Sequence[Sequence[Match]]) -> list[tuple[Hit, ...]]:
        """Return the hits that matches of this version stand for."""
        return hits_of(matches, self._registry.members(self._version))

    def _hits(self, questions: Sequence[str], k: int) -> list[tuple[Hit, ...]]:
        return self.join(self._index.search_many(questions, k))


@contextmanager
def opened(home: Home) -> Iterator[Registry]:
    """Open a registry for the time of a block.

    Raises:
        HomeError: its catalog cannot be reached or has another schema.
    """
    catalog = open_catalog(home.catalog_url)
    packs = PackStore(home.packs_url)
    try:
        yield Registry(home, catalog, packs)
    finally:
        packs.close()
        catalog.close()
