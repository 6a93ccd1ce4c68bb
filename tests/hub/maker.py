"""Makes homes whose adapters fit a real tiny model and were not trained: what push and pull are tried on."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from os import getpid
from pathlib import Path

import numpy as np

from registry.base_model import fingerprint, locate, target_shapes
from registry.catalog import schema
from registry.catalog.adapters import add_pack, find_adapters
from registry.catalog.augmentations import add_augmentations
from registry.catalog.builds import BuildCounts, begin_build, finish_build, stage
from registry.catalog.engine import Catalog
from registry.catalog.recipes import add_base_model, add_recipe
from registry.catalog.versions import assign_adapters, commit_version
from registry.digests import sha256_hex
from registry.pipeline.opened import opened
from registry.recipe import Recipe
from registry.records import (
    Augmentation,
    BaseModel,
    Document,
    EncodedAdapter,
    Pack,
    Place,
    PlacedDocument,
    QAPair,
    Training,
    Version,
)
from registry.settings import Home, create_home
from registry.store.layout import AdapterLayout
from registry.store.packs import PackStore
from registry.upkeep.processes import is_alive

TRAINING = Training(14, 2_310, 16, 2.75, 0.125, 1.5, "cpu", "float32", 4, {"torch": "2.13.0"})
SYLLABLES = [first + second for first in "bdfgklmnprstv" for second in "aeo"]
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PASSAGES = 1_000
"""Documents of one source file."""

Takes = Mapping[int, int]
"""Which text each document (a number) has: 0 the first, 1 the first edit, and so on."""


def new_home(folder: Path, model: Path) -> Home:
    """Make an empty home whose base model is the folder ``model``."""
    home = create_home(folder, base_model=str(model))
    schema.upgrade(home.catalog_url)
    return home


@dataclass(frozen=True)
class Maker:
    """Builds versions in a home as ``pragreg build`` does, with random adapters."""

    home: Home
    catalog: Catalog
    packs: PackStore
    base_model: BaseModel
    recipe: Recipe
    layout: AdapterLayout
    words: int

    def build(
        self, takes: Takes, *, corpus: str = "default", message: str = "", pack_size_bytes: int | None = None
    ) -> Version:
        """Commit a version with these documents; what has no adapter yet gets one, in the order of the digests."""
        with self.catalog.write() as session:
            build_id = begin_build(
                session,
                corpus,
                recipe_digest=self.recipe.digest,
                who="ada",
                host=socket.gethostname(),
                pid=getpid(),
                is_alive=is_alive,
            )
        documents = {(number, take): self.document(number, take) for number, take in takes.items()}
        with self.catalog.write() as session:
            stage(session, build_id, [_placed(number, document) for (number, _), document in documents.items()])
        made = {key: _augmentation(document) for key, document in documents.items()}
        pairs = [(item.document_digest, item.digest) for item in made.values()]
        with self.catalog.read() as session:
            known = find_adapters(session, self.recipe.digest, pairs)
        lacking = {key: item for key, item in made.items() if (item.document_digest, item.digest) not in known}
        fresh = dict(self._encode(build_id, lacking, pack_size_bytes or self.home.pack_size_bytes))
        adapters = {document: adapter for (document, _), adapter in known.items()} | fresh
        with self.catalog.write() as session:
            assign_adapters(session, build_id, adapters)
            version, _ = commit_version(session, build_id, {}, recipe_digest=self.recipe.digest, message=message)
            finish_build(session, build_id, status="finished", counts=BuildCounts(documents=len(takes)))
        return version

    def document(self, number: int, take: int = 0) -> Document:
        draw = random.Random(f"{number} {take}")
        words = ["".join(draw.choices(SYLLABLES, k=draw.randint(1, 3))) for _ in range(self.words)]
        return Document.of(f"Note {number}", f"{' '.join(words)}.")

    def adapter(self, document_digest: str) -> bytes:
        """Return the random adapter of a document."""
        draw = np.random.Generator(np.random.SFC64(int(document_digest[:16], 16)))
        values = draw.standard_normal(self.layout.elements, dtype=np.float32) * np.float32(0.01)
        return self.layout.serialise(values.data)

    def _encode(
        self, build_id: int, lacking: Mapping[tuple[int, int], Augmentation], pack_size_bytes: int
    ) -> Iterator[tuple[str, str]]:
        """Write packs of all that lacks an adapter, and yield (document, adapter)."""
        by_document = {item.document_digest: item for item in lacking.values()}
        order = iter(sorted(by_document))
        while some := list(islice(order, max(1, pack_size_bytes // self.layout.size_bytes))):
            made = [self._encoded(by_document[document]) for document in some]
            pack: Pack = self.packs.write((item.digest, item.data) for item in made)
            with self.catalog.write() as session:
                add_augmentations(session, [by_document[document] for document in some])
                add_pack(session, pack, made, build_id)
            yield from ((item.document_digest, item.digest) for item in made)

    def _encoded(self, augmentation: Augmentation) -> EncodedAdapter:
        data = self.adapter(augmentation.document_digest)
        return EncodedAdapter(
            digest=sha256_hex(data),
            document_digest=augmentation.document_digest,
            augmentation_digest=augmentation.digest,
            recipe_digest=self.recipe.digest,
            parameters=self.layout.elements,
            data=data,
            training=TRAINING,
        )


@contextmanager
def maker(home: Home, *, rank: int = 1, words: int = 12) -> Iterator[Maker]:
    """Open a home to build in; its base model is the folder that its settings name. Rank 1 makes adapters of 10 KB."""
    files = locate(home.base_model, models_path=home.models_path)
    base_model = fingerprint(files)
    recipe = Recipe(base_model=base_model.fingerprint, rank=rank, targets=TARGETS, first_layer=0, dtype="float32")
    layout = AdapterLayout.of(target_shapes(files.folder, TARGETS), rank, recipe.adapter_dtype)
    with opened(home) as registry:
        with registry.catalog.write() as session:
            add_base_model(session, base_model)
            add_recipe(session, recipe)
        yield Maker(home, registry.catalog, registry.packs, base_model, recipe, layout, words)


def _placed(number: int, document: Document) -> PlacedDocument:
    return PlacedDocument(document, Place(f"notes/{number // PASSAGES}.jsonl", number % PASSAGES, str(number)))


def _augmentation(document: Document) -> Augmentation:
    words = document.text.removesuffix(".").split()
    pairs = (QAPair(f"What follows {words[0]} {words[1]} in {document.title}?", words[2]),)
    return Augmentation(document.digest, sha256_hex(b"request"), "import", "1", (), pairs)
