"""An opened registry: its home, catalog and packs, and the index of a version."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from registry.catalog.adapters import locate
from registry.catalog.builds import corpus_language
from registry.catalog.engine import Catalog, open_catalog
from registry.catalog.members import changes, members, members_by_document
from registry.catalog.references import resolve, resolve_open
from registry.digests import short
from registry.errors import IntegrityError, StorageError
from registry.index import VersionIndex
from registry.records import AdapterLocation, Document, Hit, Match, Pack, Version
from registry.retrieval import hits_of
from registry.settings import Home
from registry.store.packs import PackStore

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

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

    def documents(self, version: Version, digests: Sequence[str]) -> Mapping[str, tuple[Document, str]]:
        """Return documents of a version and their adapters' digests, by document digest."""
        with self.catalog.read() as session:
            return members_by_document(session, version, digests)

    def members(self, version: Version) -> Callable[[Sequence[str]], Mapping[str, tuple[Document, str]]]:
        """Return ``documents`` of one version as a function of digests."""
        return partial(self.documents, version)

    def adapters(self, digests: Iterable[str]) -> dict[str, memoryview]:
        """Return the bytes of adapters by digest, checked the first time that this process reads them.

        Raises:
            NotFoundError: an adapter is unknown or lies in no pack.
            IntegrityError: bytes are missing or damaged.
        """
        wanted = list(dict.fromkeys(digests))
        locations = self._locate(wanted)
        return {digest: self._read(locations[digest]) for digest in wanted}

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
        """Return the index of a version; it is derived, so a missing or damaged one is made again."""
        folder = self.home.index_folder(version)
        try:
            return VersionIndex.open(folder)
        except IntegrityError:
            self.make_index(version)
            return VersionIndex.open(folder)

    def make_index(self, version: Version, *, from_parent: bool = True) -> None:
        """Make the index of a version, from its parent's where there is one that is sound."""
        folder = self.home.index_folder(version)
        with self.catalog.read() as session:
            language = corpus_language(session, version.corpus) or "en"
            if from_parent and version.parent is not None:
                parent = self.home.index_folder(resolve(session, f"{version.corpus}@v{version.parent}"))
                difference = changes(session, version.corpus, version.parent, version.number)
                if VersionIndex.can_derive(parent, language, len(difference.removed)):
                    with suppress(IntegrityError):
                        VersionIndex.derive(parent, folder, difference.added, difference.removed)
                        return
            VersionIndex.build(folder, language, (document for document, _ in members(session, version)))


class Retriever:
    """Retrieval from one version: its index stays open, and is made anew where it turns out to be damaged."""

    def __init__(self, registry: Registry, version: Version) -> None:
        """Open the index, which is made if it is missing."""
        self._registry, self._version = registry, version
        self._index = registry.index(version)

    def hits(self, questions: Sequence[str], k: int) -> list[tuple[Hit, ...]]:
        """Return the ``k`` best hits of every question, fewer where fewer documents share a word with it."""
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
