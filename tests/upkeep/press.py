"""Builds with real packs and invented adapters: fast enough to make versions by the dozen."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from registry.catalog.adapters import add_pack, forget_covered, locate, pack_digests
from registry.catalog.augmentations import add_augmentations
from registry.catalog.builds import BuildCounts, finish_build, stage
from registry.catalog.engine import Catalog, open_catalog
from registry.catalog.members import members
from registry.catalog.references import resolve
from registry.catalog.versions import commit_version
from registry.digests import sha256_hex
from registry.records import Document, Version
from registry.settings import Home
from registry.store.packs import PackStore
from tests.catalog.workshop import Workshop, augmentation_of, encoded_adapter, placed

ADAPTER_BYTES = 5_000


@dataclass(frozen=True)
class Press:
    """Writes packs of random adapters into a home, and records them as builds do."""

    home: Home
    catalog: Catalog
    packs: PackStore
    workshop: Workshop

    def build(self, numbers: Iterable[int], *, corpus: str = "handbook", take: int = 0) -> Version:
        """Commit a version of the documents ``numbers``, two adapters a pack; another ``take`` gives other bytes."""
        items = [placed(number) for number in numbers]
        with self.catalog.write() as session:
            build = self.workshop.begin(session, corpus)
        with self.catalog.write() as session:
            stage(session, build, items)
        adapters: dict[str, str] = {}
        for start in range(0, len(items), 2):
            adapters |= self.encode([item.document for item in items[start : start + 2]], take)
        with self.catalog.write() as session:
            recipe = self.workshop.recipe.digest
            version, _ = commit_version(session, build, adapters, recipe_digest=recipe, message="pressed")
            counts = BuildCounts(documents=len(items), places=len(items), trained=len(items))
            finish_build(session, build, status="finished", counts=counts)
        return version

    def encode(self, documents: Iterable[Document], take: int = 0) -> dict[str, str]:
        """Write one pack, record it, and return the adapters by document."""
        augmentations = [augmentation_of(document) for document in documents]
        data = {item.digest: adapter_bytes(item.document_digest, take) for item in augmentations}
        encoded = [
            replace(encoded_adapter(item, self.workshop.recipe), digest=sha256_hex(data[item.digest]))
            for item in augmentations
        ]
        pack = self.packs.write((item.digest, data[item.augmentation_digest]) for item in encoded)
        with self.catalog.write() as session:
            add_augmentations(session, augmentations)
            add_pack(session, pack, encoded, None)
        return {item.document_digest: item.digest for item in encoded}

    def combine(self) -> str:
        """Move all adapters into one pack, as a build or gc does, and return its digest."""
        with self.catalog.read() as session:
            old = list(pack_digests(session))
        held = [place for digest in old for place in self.packs.inspect(digest).adapters]
        new = self.packs.combine(held)
        with self.catalog.write() as session:
            add_pack(session, new, (), None)
            forgotten = forget_covered(session, [digest for digest in old if digest != new.digest])
        for digest in forgotten:
            self.packs.delete(digest)
        return new.digest


def adapter_bytes(document_digest: str, take: int = 0) -> bytes:
    return random.Random(f"{document_digest} {take}").randbytes(ADAPTER_BYTES)


@contextmanager
def pressing(home: Home) -> Iterator[Press]:
    """Open a home for building, as long as the block lasts."""
    packs = PackStore(home.packs_url)
    with open_catalog(home.catalog_url) as catalog:
        yield Press(home, catalog, packs, Workshop(catalog))
    packs.close()


def held(home: Home) -> dict[str, dict[str, str]]:
    """Return every version's adapters by document, having read and checked all their bytes."""
    packs = PackStore(home.packs_url)
    found: dict[str, dict[str, str]] = {}
    with open_catalog(home.catalog_url) as catalog, catalog.read() as session:
        for corpus in ("handbook", "mill"):
            number = 1
            while (version := _version(catalog, f"{corpus}@v{number}")) is not None:
                pairs = {document.digest: adapter for document, adapter in members(session, version)}
                for place in locate(session, pairs.values()).values():
                    packs.read(place)
                found[version.reference] = pairs
                number += 1
    packs.close()
    return found


def _version(catalog: Catalog, reference: str) -> Version | None:
    from registry.errors import NotFoundError

    with catalog.read() as session:
        try:
            return resolve(session, reference)
        except NotFoundError:
            return None
