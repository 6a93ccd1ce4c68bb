"""What a registry holds of a corpus, so that a pulled one can be compared with the one that was pushed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from registry.catalog.differences import DocumentChange, DocumentState, compare, list_changes
from registry.catalog.members import member_digests
from registry.catalog.references import list_versions
from registry.catalog.remotes.deltas import delta
from registry.catalog.remotes.publishing import member_records
from registry.digests import sha256_hex
from registry.pipeline.opened import opened
from registry.pipeline.pull.request import PullReport, PullRequest
from registry.pipeline.pull.run import pull
from registry.pipeline.push.request import PushReport, PushRequest
from registry.pipeline.push.run import push
from registry.progress import Progress, Silent
from registry.published import MemberRecord, Standing
from registry.records import Version
from registry.settings import Home
from tests.hub.server import HubServer
from tests.pipeline.conftest import SHARED


def publish(home: Home, **changes: Any) -> PushReport:
    """Push the corpus of a home."""
    return push(home, PushRequest(**{"repository": SHARED} | changes), Silent())


def bring(home: Home, repository: str = SHARED, *, progress: Progress | None = None, **changes: Any) -> PullReport:
    """Pull into a home."""
    return pull(home, PullRequest(repository, **changes), progress or Silent())


@dataclass(frozen=True)
class Corpus:
    """All versions of a corpus: digests, messages and parents, who stands where on which line, records, and bytes."""

    versions: tuple[Version, ...]
    standings: tuple[tuple[Standing, ...], ...]
    records: Mapping[tuple[str, str], MemberRecord]
    changes: tuple[Any, ...]


def corpus_of(home: Home, corpus: str = "default", repository: str = SHARED) -> Corpus:
    """Read a corpus whole, and check that the bytes of the last version's adapters are right.

    Places are called as in the repository.
    """
    with opened(home) as registry, registry.catalog.read() as session:
        versions = list_versions(session, corpus)
        standings = [delta(session, corpus, None, version.number, {}).opened for version in versions]
        pairs = {pair for version in versions for pair in member_digests(session, version)}
        records = {(it.document_digest, it.adapter_digest): it for it in member_records(session, sorted(pairs))}
        changes = []
        for old, new in pairwise(versions):
            difference = compare(session, old, new)
            # The order within a kind follows row ids, which are a catalog's own.
            listed = {repr(_unnamed(change, repository)) for change in list_changes(session, difference)}
            counts = (difference.changed, difference.added, difference.removed, difference.reencoded, difference.kept)
            changes.append((counts, listed))
        adapters = [standing.adapter_digest for standing in standings[-1]]
        for digest, data in registry.adapters(adapters).items():
            assert sha256_hex(data) == digest
    return Corpus(
        tuple(replace(version, corpus="") for version in versions),
        tuple(tuple(_named(standing, repository) for standing in version) for version in standings),
        records,
        tuple(changes),
    )


def _named(standing: Standing, repository: str) -> Standing:
    prefix = f"hub:{repository}/"
    places = sorted(
        (replace(place, source_uri=place.source_uri.removeprefix(prefix)) for place in standing.places),
        key=lambda place: (place.source_uri, place.ordinal),
    )
    return replace(standing, places=tuple(places))


def _unnamed(change: DocumentChange, repository: str) -> DocumentChange:
    def named(state: DocumentState | None) -> DocumentState | None:
        if state is None or state.source_uri is None:
            return state
        return replace(state, source_uri=state.source_uri.removeprefix(f"hub:{repository}/"))

    return replace(change, old=named(change.old), new=named(change.new))


def files_of(home: Home) -> dict[str, bytes]:
    """Return all files of a home but the catalog's and what is remembered of models, by path."""
    found = {}
    for folder, _, names in os.walk(home.path):
        for name in names:
            path = Path(folder, name)
            if "catalog.sqlite" not in name and not path.is_relative_to(home.models_path):
                found[str(path.relative_to(home.path))] = path.read_bytes()
    return found


def wire_bytes(hub: HubServer) -> int:
    """Return how many bytes the server sent of files, since the counters were reset."""
    counted = hub.counters()["bytes_out"]
    return int(counted["main"] + counted["files"])
