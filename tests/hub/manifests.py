"""Invented contents of a repository: roots, members and records that hang together."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from registry.catalog.versions import version_digest
from registry.digests import sha256_hex
from registry.hub.manifest.members import Members, Placement
from registry.hub.manifest.shards import read_shard
from registry.published import (
    AnsweredRequest,
    FileRef,
    Member,
    MemberRecord,
    PublishedTaskAdapter,
    PublishedVersion,
    Root,
    ShardEntry,
    Standing,
    VersionDelta,
)
from registry.recipe import Recipe
from registry.records import Augmentation, BaseModel, Document, Place, QAPair, TaskAdapter, Training

MOMENT = datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
TRAINING = Training(14, 2_310, 16, 2.75, 0.125, 1.5, "cpu", "float32", 4, {"torch": "2.13.0"})
BASE_MODEL = BaseModel(sha256_hex(b"base"), "ada/tiny", "c" * 40, "LlamaForCausalLM", 134_515_008)
RECIPE = Recipe(base_model=BASE_MODEL.fingerprint, rank=2, alpha=32.0, first_layer=0, dtype="float32")
ADAPTER_BYTES = 98_304


def digest(*parts: object) -> str:
    return sha256_hex(repr(parts).encode())


def canonical(recipe: Recipe) -> Mapping[str, Any]:
    """The recipe's settings as they come out of JSON."""
    return json.loads(json.dumps(recipe.canonical))  # type: ignore[no-any-return]


def record(
    number: int = 0, *, pairs: int = 2, withheld: bool = False, rng: random.Random | None = None
) -> MemberRecord:
    """All about a document; ``withheld``: its texts are not told."""
    draw = rng or random.Random(number)
    document = Document.of(f"Note {number}", f"The mill of {draw.randrange(10**6)} stands on the Énse.\nIt's old.")
    asked = tuple(QAPair(f"Where is mill {n}?", "on the Ense", None if n else "It is there.") for n in range(pairs))
    augmentation = Augmentation(document.digest, digest("request"), "self:tiny", "prompts-3", ("The mill.",), asked)
    return MemberRecord(
        document_digest=document.digest,
        title=None if withheld else document.title,
        text=None if withheld else document.text,
        augmentation_digest=augmentation.digest,
        generator=augmentation.generator,
        prompts_version=augmentation.prompts_version,
        rewrites=1,
        pairs=pairs,
        payload=None if withheld else augmentation.payload,
        requests=(AnsweredRequest(digest("request"), 1, 0, 120, 0.25),),
        adapter_digest=digest("adapter", document.digest),
        recipe_digest=RECIPE.digest,
        kind="lora",
        producer="trained",
        size_bytes=ADAPTER_BYTES,
        parameters=24_000,
        training=TRAINING,
        created_at=MOMENT + timedelta(microseconds=number),
    )


def member(number: int = 0, **changes: Any) -> Member:
    """A row; ``changes`` are fields that are otherwise."""
    document = digest("document", number)
    fields: dict[str, Any] = {
        "document_digest": document,
        "adapter_digest": digest("adapter", number),
        "from_version": 1,
        "to_version": None,
        "line": document,
        "shares_line": False,
        "places": (Place("notes.jsonl", number, f"note-{number}"),),
        "size_bytes": ADAPTER_BYTES,
        "pack": FileRef(digest("pack"), 10**9),
        "offset": 8_192 + number * ADAPTER_BYTES,
        "records": FileRef(digest("records"), 5_000_000),
    }
    return Member(**(fields | changes))


def members(count: int) -> list[Member]:
    return sorted((member(number) for number in range(count)), key=lambda row: row.document_digest)


@dataclass
class History:
    """A corpus that changes at random, and what its repository should say of it.

    ``versions`` are the members of every version, by document: adapter, line and places.
    """

    draw: random.Random
    members: Members = field(default_factory=Members)
    versions: list[dict[str, Standing]] = field(default_factory=list)
    published: list[PublishedVersion] = field(default_factory=list)
    placements: dict[tuple[str, str], Placement] = field(default_factory=dict)

    def advance(self, *, added: int, removed: int = 0, encoded_anew: int = 0, moved: int = 0, back: int = 0) -> None:
        """Make the next version: documents come, go, get other adapters, move, or come back as they were."""
        now = dict(self.versions[-1]) if self.versions else {}
        number = len(self.versions) + 1
        gone = self.draw.sample(sorted(now), removed)
        closed = set(gone)
        opened: dict[str, Standing] = {}
        for document in gone:
            del now[document]
        for document in self.draw.sample(sorted(now), encoded_anew):
            closed.add(document)
            opened[document] = _standing(document, number, now[document].line)
        before = {standing for version in self.versions for standing in version.values()}
        left = sorted({one.document_digest for one in before} - now.keys() - set(gone))
        for document in self.draw.sample(left, min(back, len(left))):
            opened[document] = next(version[document] for version in self.versions if document in version)
        for at in range(added):
            document = digest("document", number, at)
            line = self.draw.choice([document, *gone[:1]])
            opened[document] = _standing(document, number, line)
        stays = self.draw.sample(sorted(now.keys() - closed), moved)
        places = {document: (Place("moved.jsonl", self.draw.randrange(10**6)),) for document in stays}
        for document, there in places.items():
            one = now[document]
            now[document] = Standing(document, one.adapter_digest, one.line, one.shares_line, there)
        now |= opened
        self._commit(number, now, VersionDelta(frozenset(closed), tuple(opened.values()), places))

    def _commit(self, number: int, now: dict[str, Standing], delta: VersionDelta) -> None:
        pack = FileRef(digest("pack", number), 10**9)
        records = FileRef(digest("records", number), 10**6)
        for at, standing in enumerate(delta.opened):
            key = (standing.document_digest, standing.adapter_digest)
            known = self.members.placement_of(*key)
            assert known == self.placements.get(key)
            place = Placement(ADAPTER_BYTES, pack, 4_096 + at * ADAPTER_BYTES, records)
            self.placements.setdefault(key, place)
        self.members.apply(number, delta, lambda one: self.placements[one.document_digest, one.adapter_digest])
        self.versions.append(now)
        pairs = sorted((one.document_digest, one.adapter_digest) for one in now.values())
        self.published.append(
            PublishedVersion(
                number=number,
                digest=version_digest(RECIPE.digest, pairs),
                parent=number - 1 or None,
                recipe_digest=RECIPE.digest,
                message=f"change {number}",
                created_at=MOMENT,
                documents=len(pairs),
                size_bytes=len(pairs) * ADAPTER_BYTES,
            )
        )

    def publish(self, files: dict[str, bytes]) -> Root:
        """Write the shards into ``files`` and return the root that names them; go on from what was written."""
        written = self.members.write()
        files |= {file.digest: data for file, data in written.files.items()}
        made = root(self.members, self.published, written.bits, written.entries)
        self.members = reopened(made, files)
        return made


def reopened(made: Root, files: Mapping[str, bytes]) -> Members:
    """The members that a root names."""

    def load(number: int) -> list[Member]:
        entry = made.shards[number]
        assert entry is not None
        return read_shard(files[entry.file.digest], entry, number=number, bits=made.shard_bits)

    from registry.hub.manifest.members import Counts

    counts = Counts(made.documents, made.adapters, made.packs, made.packs_bytes)
    return Members(made.shard_bits, made.shards, load, counts=counts)


def root(
    of: Members, versions: Sequence[PublishedVersion], bits: int, shards: tuple[ShardEntry | None, ...], **changes: Any
) -> Root:
    counts = of.counts
    fields: dict[str, Any] = {
        "repository": "ada/handbook",
        "corpus": "handbook",
        "language": "en",
        "latest": len(versions),
        "has_text": True,
        "pack_size_bytes": 256 * 1024 * 1024,
        "base_models": (BASE_MODEL,),
        "recipes": (canonical(RECIPE),),
        "versions": tuple(versions),
        "task_adapters": (),
        "shard_bits": bits,
        "shards": shards,
        "documents": counts.documents,
        "adapters": counts.adapters,
        "packs": counts.packs,
        "packs_bytes": counts.packs_bytes,
        "card_digest": digest("card"),
        "written_by": "pragreg 0.1.0",
        "written_at": MOMENT,
    }
    return Root(**(fields | changes))


def small_root(**changes: Any) -> Root:
    """A root of two versions and a task adapter; ``changes`` are fields that are otherwise."""
    history = History(random.Random(1))
    history.advance(added=5)
    history.advance(added=2, removed=1)
    written = history.members.write()
    made = root(history.members, history.published, written.bits, written.entries)
    fields = {name: getattr(made, name) for name in made.__dataclass_fields__}
    return Root(**(fields | {"task_adapters": (task_adapter(),)} | changes))


def task_adapter() -> PublishedTaskAdapter:
    questions = tuple(sorted(digest("question", number) for number in range(3)))
    warmed = TaskAdapter(
        digest("task"), RECIPE.digest, "squad", digest("pairs"), questions, 3, 24_000, 98_304, TRAINING, MOMENT
    )
    return PublishedTaskAdapter(warmed, FileRef(digest("task pack"), 99_000), 256)


def _standing(document: str, number: int, line: str) -> Standing:
    places = (Place("notes.jsonl", int(document[:6], 16), document[:8]), Place("web/index.html", 3))
    return Standing(document, digest("adapter", document, number), line, line != document, places)
