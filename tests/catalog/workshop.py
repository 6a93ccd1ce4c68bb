"""What the catalog's tests put into it: invented documents and what a build makes of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from registry.catalog.adapters import add_pack
from registry.catalog.augmentations import add_augmentations
from registry.catalog.builds import BuildCounts, begin_build, finish_build, stage
from registry.catalog.engine import Catalog
from registry.catalog.recipes import add_base_model, add_recipe
from registry.catalog.versions import commit_version
from registry.digests import sha256_hex
from registry.recipe import Recipe
from registry.records import (
    AdapterLocation,
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

BASE_MODEL = BaseModel(
    fingerprint=sha256_hex(b"base model"),
    reference="tiny/lantern",
    revision="4f0c",
    architecture="LlamaForCausalLM",
    parameters=134_515_008,
)
TRAINING = Training(
    examples=14,
    tokens=2_310,
    steps=16,
    first_loss=2.75,
    last_loss=0.125,
    elapsed_seconds=1.5,
    device="cpu",
    dtype="float32",
    group_size=4,
    library_versions={"torch": "2.13.0"},
)
ADAPTER_BYTES = 1_000


@dataclass
class Workshop:
    """Makes artifacts of invented documents and records them, as a build does."""

    catalog: Catalog
    recipe: Recipe = field(default_factory=lambda: Recipe(base_model=BASE_MODEL.fingerprint))

    def __post_init__(self) -> None:
        with self.catalog.write() as session:
            add_base_model(session, BASE_MODEL)
            add_recipe(session, self.recipe)

    def begin(self, session: Session, corpus: str = "handbook", *, pid: int = 100, alive: bool = False) -> int:
        return begin_build(
            session,
            corpus,
            recipe_digest=self.recipe.digest,
            who="ada",
            host="mill",
            pid=pid,
            is_alive=lambda *_: alive,
            message="",
        )

    def encode(self, session: Session, documents: Iterable[Document], *, take: int = 0) -> dict[str, str]:
        """Record an adapter of each document in one pack; ``take`` makes different bytes. By document digest."""
        augmentations = [augmentation_of(document) for document in documents]
        add_augmentations(session, augmentations)
        encoded = [encoded_adapter(item, self.recipe, take) for item in augmentations]
        if encoded:
            add_pack(session, pack_of([item.digest for item in encoded]), encoded, None)
        return {item.document_digest: item.digest for item in encoded}

    def build(
        self, placed: list[PlacedDocument], *, corpus: str = "handbook", take: Callable[[Document], int] = lambda _: 0
    ) -> tuple[Version, bool]:
        """Run a whole build; ``take`` says which of its possible adapters a document gets."""
        documents = {item.document.digest: item.document for item in placed}
        with self.catalog.write() as session:
            build_id = self.begin(session, corpus)
        with self.catalog.write() as session:
            stage(session, build_id, placed)
        adapters: dict[str, str] = {}
        with self.catalog.write() as session:
            for number in {take(document) for document in documents.values()}:
                chosen = [document for document in documents.values() if take(document) == number]
                adapters |= self.encode(session, chosen, take=number)
        with self.catalog.write() as session:
            committed = commit_version(session, build_id, adapters, recipe_digest=self.recipe.digest, message="a build")
            counts = BuildCounts(documents=len(documents), places=len(placed), trained=len(documents))
            finish_build(session, build_id, status="finished", counts=counts)
        return committed


def document(number: int) -> Document:
    return Document.of(f"Beacon {number}", f"Beacon {number} on the Ostrel coast was lit by keeper number {number}.")


def placed(number: int, *, source: str = "coast.jsonl", ordinal: int | None = None) -> PlacedDocument:
    place = Place(source, number if ordinal is None else ordinal, f"beacon-{number}")
    return PlacedDocument(document(number), place)


def augmentation_of(document: Document, *, request: str = "asked once") -> Augmentation:
    return Augmentation(
        document_digest=document.digest,
        request_digest=sha256_hex(request.encode()),
        generator="import",
        prompts_version="1",
        rewrites=(f"Again: {document.text}",),
        pairs=(QAPair(f"What is {document.title}?", "a beacon", None),),
        dropped_pairs=2,
        tokens=40,
        elapsed_seconds=0.5,
        dropped_rewrites=1,
    )


def encoded_adapter(augmentation: Augmentation, recipe: Recipe, take: int = 0) -> EncodedAdapter:
    return EncodedAdapter(
        digest=sha256_hex(f"{augmentation.digest} {recipe.digest} {take}".encode()),
        document_digest=augmentation.document_digest,
        augmentation_digest=augmentation.digest,
        recipe_digest=recipe.digest,
        parameters=250,
        data=b"",
        training=TRAINING,
    )


def pack_of(adapters: list[str]) -> Pack:
    digest = hashlib.sha256("".join(adapters).encode()).hexdigest()
    locations = tuple(
        AdapterLocation(adapter, digest, 200 + index * ADAPTER_BYTES, ADAPTER_BYTES)
        for index, adapter in enumerate(adapters)
    )
    return Pack(digest, 200 + len(adapters) * ADAPTER_BYTES, locations)
