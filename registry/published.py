"""What a repository on the Hub says of a corpus, as frozen records.

The catalog reads and writes them, the manifest of a repository is made of them (``docs/hub-format.md``). Digests are
64 lower-case hexadecimal digits; the numbers of versions are the repository's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from registry.records import BaseModel, Place, TaskAdapter, Training


@dataclass(frozen=True, slots=True)
class FileRef:
    """A file of a repository that is named by its digest."""

    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class PublishedVersion:
    """A version as a repository lists it.

    ``is_complete`` says that the repository has all adapters of it; one that was collected before it was published has
    not. ``parent`` is the number of a version in the same list.
    """

    number: int
    digest: str
    parent: int | None
    recipe_digest: str
    message: str
    created_at: datetime
    documents: int
    size_bytes: int
    is_complete: bool = True


@dataclass(frozen=True, slots=True)
class Standing:
    """A document in one version: its adapter, its line (the digest of the line's first document) and its places."""

    document_digest: str
    adapter_digest: str
    line: str
    shares_line: bool
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class VersionDelta:
    """How one version becomes another: what goes (``closed``, document digests), then what comes (``opened``).

    A document that gets another adapter is both. ``moved`` are documents that stay, with their new places.
    """

    closed: frozenset[str]
    opened: tuple[Standing, ...]
    moved: Mapping[str, tuple[Place, ...]]


@dataclass(frozen=True, slots=True)
class Member:
    """A row of the manifest: a document with its adapter in the versions from ``from_version`` until ``to_version``.

    The latter has it no more; None: the newest has it. ``pack`` and ``offset`` say where the adapter's ``size_bytes``
    lie, both None for one that the repository has not; ``records`` is the file that tells the rest. ``places`` are
    those of the last version of the range.
    """

    document_digest: str
    adapter_digest: str
    from_version: int
    to_version: int | None
    line: str
    shares_line: bool
    places: tuple[Place, ...]
    size_bytes: int
    pack: FileRef | None
    offset: int | None
    records: FileRef


@dataclass(frozen=True, slots=True)
class AnsweredRequest:
    """A request for an augmentation that was answered by it; see ``Augmentation``."""

    request_digest: str
    dropped_pairs: int
    dropped_rewrites: int
    tokens: int
    elapsed_seconds: float


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """All that a catalog knows of a document and one adapter of it, besides the adapter's bytes.

    ``title`` and ``text`` are None together, and so is ``payload`` then, where texts are withheld: the digests still
    say what they are digests of. ``rewrites`` and ``pairs`` count what is in the payload.
    """

    document_digest: str
    title: str | None
    text: str | None
    augmentation_digest: str
    generator: str
    prompts_version: str
    rewrites: int
    pairs: int
    payload: Mapping[str, Any] | None
    requests: tuple[AnsweredRequest, ...]
    adapter_digest: str
    recipe_digest: str
    kind: str
    producer: str
    size_bytes: int
    parameters: int
    training: Training
    created_at: datetime


@dataclass(frozen=True, slots=True)
class PublishedTaskAdapter:
    """A task adapter that recipes of a repository start from, and the pack that holds it alone."""

    task_adapter: TaskAdapter
    pack: FileRef
    offset: int


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """A file of the manifest: the members whose documents' digests begin with certain bits."""

    file: FileRef
    rows: int


@dataclass(frozen=True, slots=True)
class Root:
    """The root manifest of a repository: all that a reader trusts, at one commit.

    ``shards`` has 2 ** ``shard_bits`` entries; a member is in the one whose number is the first bits of its document's
    digest, None where no document's digest begins so. ``latest`` is the number of the version that is asked by
    default. ``documents``, ``adapters`` (of each document, those that lie in a pack), ``packs`` and ``packs_bytes``
    count what the members of all versions together have here; the packs of task adapters are not among them.
    ``card_digest`` is the sha256 of the README.md that was written last, so that one edited by hand is left alone.
    """

    repository: str
    corpus: str
    language: str
    latest: int
    has_text: bool
    pack_size_bytes: int
    base_models: tuple[BaseModel, ...]
    recipes: tuple[Mapping[str, Any], ...]
    versions: tuple[PublishedVersion, ...]
    task_adapters: tuple[PublishedTaskAdapter, ...]
    shard_bits: int
    shards: tuple[ShardEntry | None, ...]
    documents: int
    adapters: int
    packs: int
    packs_bytes: int
    card_digest: str | None
    written_by: str
    written_at: datetime
