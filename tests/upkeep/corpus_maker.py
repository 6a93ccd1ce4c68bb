"""Makes registries of invented adapters, with real packs and without training."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import update
from sqlalchemy.orm import Session

from registry.catalog.adapters import add_pack, locate
from registry.catalog.augmentations import add_augmentations
from registry.catalog.builds import BuildCounts, begin_build, finish_build, stage
from registry.catalog.engine import Catalog
from registry.catalog.members import members
from registry.catalog.models import AdapterRow, AliasMoveRow
from registry.catalog.recipes import add_base_model, add_recipe
from registry.catalog.references import list_versions, resolve
from registry.catalog.task_adapters import add_task_adapter
from registry.catalog.versions import assign_adapters, commit_version
from registry.digests import sha256_hex
from registry.errors import NotFoundError
from registry.progress import Progress, Silent
from registry.recipe import Recipe
from registry.records import EncodedAdapter, Pack, TaskAdapter, Version
from registry.settings import Home
from registry.store.packs import PackStore
from registry.upkeep.gc.collect import collect
from registry.upkeep.gc.collection import CollectReport, CollectRequest
from registry.upkeep.processes import is_alive
from tests.catalog.workshop import BASE_MODEL, TRAINING, augmentation_of, document, placed

ADAPTER_BYTES = 3_000

Takes = Mapping[int, int]
"""Which of its possible adapters each document (a number) has."""


def adapter_of(number: int, take: int, recipe: Recipe) -> EncodedAdapter:
    data = random.Random(f"{number} {take} {recipe.digest}").randbytes(ADAPTER_BYTES)
    augmentation = augmentation_of(document(number))
    return EncodedAdapter(
        digest=sha256_hex(data),
        document_digest=augmentation.document_digest,
        augmentation_digest=augmentation.digest,
        recipe_digest=recipe.digest,
        parameters=750,
        data=data,
        training=TRAINING,
    )


@dataclass
class CorpusMaker:
    """Builds corpora as ``pragreg build`` does; all of a version's new adapters are one pack."""

    home: Home
    catalog: Catalog
    packs: PackStore
    recipe: Recipe = field(default_factory=lambda: Recipe(base_model=BASE_MODEL.fingerprint))

    def __post_init__(self) -> None:
        with self.catalog.write() as session:
            add_base_model(session, BASE_MODEL)
            add_recipe(session, self.recipe)

    def begin(self, corpus: str = "handbook", *, pid: int | None = None, recipe: Recipe | None = None) -> int:
        with self.catalog.write() as session:
            if recipe is not None:
                add_recipe(session, recipe)
            return begin_build(
                session,
                corpus,
                recipe_digest=(recipe or self.recipe).digest,
                who="ada",
                host=socket.gethostname(),
                pid=os.getpid() if pid is None else pid,
                is_alive=is_alive,
            )

    def end(self, build_id: int) -> None:
        with self.catalog.write() as session:
            finish_build(session, build_id, status="finished", counts=BuildCounts())

    def encode(self, build_id: int | None, takes: Takes) -> Pack:
        """Put adapters into a pack and into the catalog."""
        made = [adapter_of(number, take, self.recipe) for number, take in takes.items()]
        pack = self.packs.write((item.digest, item.data) for item in made)
        with self.catalog.write() as session:
            add_augmentations(session, [augmentation_of(document(number)) for number in takes])
            add_pack(session, pack, made, build_id)
        return pack

    def build(self, takes: Takes, *, corpus: str = "handbook") -> Version:
        """Commit a version with these documents and adapters; what lies in no pack yet is encoded."""
        build_id = self.begin(corpus)
        with self.catalog.write() as session:
            stage(session, build_id, [placed(number) for number in takes])
        missing = {number: take for number, take in takes.items() if not self.is_there(number, take)}
        if missing:
            self.encode(build_id, missing)
        made = {number: adapter_of(number, take, self.recipe) for number, take in takes.items()}
        pairs = {item.document_digest: item.digest for item in made.values()}
        with self.catalog.write() as session:
            assign_adapters(session, build_id, pairs)
            version, _ = commit_version(session, build_id, {}, recipe_digest=self.recipe.digest, message="")
        self.end(build_id)
        return version

    def warm_up(self) -> Pack:
        """Record a task adapter in a pack of its own."""
        data = bytes(ADAPTER_BYTES)
        pack = self.packs.write([(sha256_hex(data), data)])
        made = TaskAdapter(
            digest=sha256_hex(data),
            recipe_digest=self.recipe.digest,
            name="trivia",
            questions_digest=sha256_hex(b"questions"),
            question_digests=(sha256_hex(b"question"),),
            questions=1,
            parameters=750,
            size_bytes=len(data),
            training=TRAINING,
            created_at=datetime.now(UTC),
        )
        with self.catalog.write() as session:
            add_task_adapter(session, made, pack)
        return pack

    def is_there(self, number: int, take: int) -> bool:
        try:
            with self.catalog.read() as session:
                locate(session, [adapter_of(number, take, self.recipe).digest])
        except NotFoundError:
            return False
        return True

    def age(self, seconds: float = 10 * 86_400) -> None:
        """Let all that there is be older: adapters, moves of aliases, files."""
        moment = datetime.now(UTC) - timedelta(seconds=seconds)
        with self.catalog.write() as session:
            session.execute(update(AdapterRow).values(created_at=moment))
            session.execute(update(AliasMoveRow).values(moved_at=moment))
        for path in files_below(Path(self.home.path)):
            os.utime(path, (moment.timestamp(), moment.timestamp()))

    def collect(self, *, progress: Progress | None = None, **request: object) -> CollectReport:
        """Run gc, doing it and without a grace period unless the request says otherwise."""
        asked = CollectRequest(**({"yes": True, "grace_seconds": 0.0} | request))  # type: ignore[arg-type]
        return collect(self.home, self.catalog, self.packs, asked, progress or Silent())

    def version(self, reference: str) -> Version:
        with self.catalog.read() as session:
            return resolve(session, reference)

    def state(self, corpus: str = "handbook") -> dict[str, object]:
        """What there is: versions with whether all their adapters can be read, and the files."""
        with self.catalog.read() as session:
            versions = list_versions(session, corpus)
            whole = {version.reference: self._is_whole(session, version) for version in versions}
        stored = sorted((pack.digest, pack.size_bytes) for pack in self.packs.list())
        return {"whole": whole, "packs": stored, "partials": list(self.packs.partials())}

    def _is_whole(self, session: Session, version: Version) -> bool:
        digests = [adapter for _, adapter in members(session, version)]
        try:
            locations = locate(session, digests)
        except NotFoundError:
            return False
        # A store that has read nothing yet, so that every byte is hashed.
        fresh = PackStore(self.home.packs_url)
        return all(sha256_hex(fresh.read(locations[digest])) == digest for digest in digests)


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def size_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in files_below(folder))
