"""What push, pull and status look at first: a repository's head, its root manifest and its members."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from registry.catalog.remotes.remotes import Remote
from registry.digests import json_digest
from registry.hub.client import Hub, Refs
from registry.hub.manifest.limits import ROOT_LIMIT_BYTES
from registry.hub.manifest.members import Counts, Members
from registry.hub.manifest.mirror import Mirror
from registry.hub.manifest.root import read_root
from registry.hub.names import ROOT, shard_path
from registry.published import Member, Root, ShardEntry
from registry.settings import Home

MIRRORS_FOLDER = "mirrors"


@dataclass(frozen=True, slots=True)
class Seen:
    """A repository as one look found it: ``head`` is None while it has no commit, ``root`` while it has no manifest.

    ``is_there`` is False for a repository that does not exist, or is hidden from us.
    """

    is_there: bool
    head: str | None = None
    tags: Mapping[str, str] | None = None
    root: Root | None = None
    root_bytes: bytes = b""


def look(hub: Hub, repository: str, known: Remote | None) -> Seen:
    """Look at a repository: one request where the head is the commit that is ``known``, two otherwise.

    Raises:
        HubError: the Hub cannot be reached, or refuses.
        IntegrityError: the root manifest is malformed.
    """
    refs = hub.refs(repository)
    if refs is None:
        return Seen(is_there=False)
    return seen_at(hub, repository, refs, known)


def seen_at(hub: Hub, repository: str, refs: Refs, known: Remote | None) -> Seen:
    """Return what a repository is at the head that ``refs`` tell; see ``look``."""
    if refs.head is None:
        return Seen(True, None, refs.tags)
    if known is not None and known.commit_id == refs.head:
        data: bytes | None = known.root.encode()
    else:
        data = hub.read_small(repository, refs.head, ROOT, limit_bytes=ROOT_LIMIT_BYTES)
    if data is None:
        return Seen(True, refs.head, refs.tags)
    return Seen(True, refs.head, refs.tags, read_root(data, repository=repository), data)


def mirror_of(home: Home, endpoint: str, repository: str) -> Mirror:
    """Return where the shards of a repository are kept in a home."""
    return Mirror(home.hub_path / MIRRORS_FOLDER / json_digest([endpoint, repository])[:32])


def members_of(home: Home, hub: Hub, repository: str, commit: str, root: Root) -> Members:
    """Return the members that a root names; a shard that is not kept here is downloaded when it is asked for."""
    mirror = mirror_of(home, hub.endpoint, repository)

    def fetch(entry: ShardEntry, into: Path) -> None:
        file = entry.file
        hub.download(
            repository,
            commit,
            shard_path(file.digest),
            into,
            digest=file.digest,
            size_bytes=file.size_bytes,
            on_bytes=lambda _: None,
        )

    def load(number: int) -> list[Member]:
        entry = root.shards[number]
        return [] if entry is None else mirror.shard(entry, number, root.shard_bits, fetch)

    counts = Counts(root.documents, root.adapters, root.packs, root.packs_bytes)
    return Members(root.shard_bits, root.shards, load, counts=counts)
