"""Text as it is published: in all that is no content, what controls a terminal or is too long is replaced."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace
from functools import lru_cache

from registry.digests import sha256_hex, short
from registry.hub.manifest.limits import NAME_LENGTH
from registry.hub.manifest.text import plain
from registry.published import MemberRecord, PublishedVersion, VersionDelta
from registry.records import Place, TaskAdapter, Training

_UNNAMED = "unknown"


def plain_version(version: PublishedVersion) -> PublishedVersion:
    """Return a version whose message is plain."""
    return replace(version, message=plain(version.message))


def plain_delta(delta: VersionDelta, withheld: Set[str] | None) -> VersionDelta:
    """Return a delta whose record ids are plain; names of sources are already.

    Documents that are ``withheld`` (None: all) come without places: file names and record ids are often titles.
    """

    def places_of(document: str, places: tuple[Place, ...]) -> tuple[Place, ...]:
        return () if withheld is None or document in withheld else _places(places)

    opened = tuple(replace(item, places=places_of(item.document_digest, item.places)) for item in delta.opened)
    moved = {document: places_of(document, places) for document, places in delta.moved.items()}
    return VersionDelta(delta.closed, opened, moved)


def plain_record(record: MemberRecord) -> MemberRecord:
    """Return a record whose training is told in plain text."""
    training = plain_training(record.training)
    return record if training == record.training else replace(record, training=training)


def plain_task_adapter(task_adapter: TaskAdapter) -> TaskAdapter:
    """Return a task adapter whose training is told in plain text."""
    return replace(task_adapter, training=plain_training(task_adapter.training))


def plain_training(training: Training) -> Training:
    """Return how an adapter came to be with plain names of devices and libraries."""
    return replace(
        training,
        device=_name(training.device),
        dtype=_name(training.dtype),
        library_versions={_name(library): _name(version) for library, version in training.library_versions.items()},
    )


def plain_names(names: Mapping[str, str]) -> dict[str, str]:
    """Return the names of source files, plain; those that differ still do."""
    found: dict[str, str] = {}
    taken = {name for name in names.values() if plain(name) == name}
    for uri, name in names.items():
        clean = plain(name) or _UNNAMED
        if clean != name and clean in taken:
            clean = f"{clean} {short(sha256_hex(uri.encode(errors='surrogatepass')))}"
        found[uri] = clean
        taken.add(clean)
    return found


def _places(places: tuple[Place, ...]) -> tuple[Place, ...]:
    return tuple(
        place
        if place.record_id is None or (record := plain(place.record_id)) == place.record_id
        else _at(place, record)
        for place in places
    )


def _at(place: Place, record: str) -> Place:
    return replace(place, record_id=record or None)


@lru_cache(maxsize=4096)
def _name(text: str) -> str:
    return plain(text)[:NAME_LENGTH].strip() or _UNNAMED
