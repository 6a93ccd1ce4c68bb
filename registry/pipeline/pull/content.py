"""What a repository's manifest says of the versions that come: members, and how each version became the next."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from registry.hub.manifest.counts import check_counts
from registry.hub.manifest.members import Members, deltas, is_in
from registry.hub.manifest.mirror import Mirror
from registry.hub.names import shard_path
from registry.pipeline.pull.arriving import Arriving, Wanted
from registry.pipeline.pull.offer import Offer
from registry.pipeline.pull.plan import Plan
from registry.published import Member, Root, ShardEntry, VersionDelta

MOST_HELD = 300_000
"""Rows of a manifest that are held in memory, some hundred bytes each; of more, shards are read when needed."""


@dataclass(frozen=True)
class Content:
    """The members of a repository, checked against its root; ``deltas`` make the plan's new versions, in their order.

    ``target`` are the rows of the version that is pulled, by the adapter's digest. ``changed`` are the numbers of the
    shards that may tell something new, since all of what the others tell is here.
    """

    members: Members
    deltas: tuple[VersionDelta, ...]
    target: dict[str, Member]
    changed: Collection[int]

    def rows(self) -> Iterator[Member]:
        """Yield all rows."""
        return (row for shard in self.members.walk() for row in shard)

    def changed_rows(self) -> Iterator[Member]:
        """Yield the rows of the shards that may tell something new."""
        shards = (rows for number, rows in enumerate(self.members.walk()) if number in self.changed)
        return (row for rows in shards for row in rows)


def read_content(mirror: Mirror, offer: Offer, plan: Plan, arrived: Arriving) -> Content:
    """Bring the shards that are not kept here, and check that they are what the root says, version by version.

    Raises:
        IntegrityError: a shard is malformed, or they are not what the root says.
        HubError: the Hub cannot be reached, or refuses.
    """
    root, number = offer.root, offer.target.number
    arrived.each("reading the manifest", partial(_bring, mirror, arrived), [entry for entry in root.shards if entry])
    load: Callable[[int], list[Member]] = partial(_load, mirror, root, arrived)
    if sum(entry.rows for entry in root.shards if entry) <= MOST_HELD:
        held = [load(number) for number in range(len(root.shards))]
        load = held.__getitem__
    members = Members(root.shard_bits, root.shards, load)
    # The one before the new ones too: what is told of it must be what is here, or the differences would not fit.
    hashed = {number, *(version.number for version in plan.new)} | ({plan.after} if plan.after else set())
    check_counts(root, members, versions=hashed)
    target = {row.adapter_digest: row for shard in members.walk() for row in shard if is_in(row, number)}
    content = Content(members, (), target, _changed(offer, plan))
    return replace(content, deltas=tuple(_deltas(offer, plan, content)))


def _bring(mirror: Mirror, arrived: Arriving, entry: ShardEntry) -> None:
    mirror.bring(entry, partial(_fetch, arrived))


def _fetch(arrived: Arriving, entry: ShardEntry, into: Path) -> None:
    arrived.fetch(Wanted(entry.file, shard_path(entry.file.digest)), into)


def _load(mirror: Mirror, root: Root, arrived: Arriving, number: int) -> list[Member]:
    entry = root.shards[number]
    return [] if entry is None else mirror.shard(entry, number, root.shard_bits, partial(_fetch, arrived))


def _deltas(offer: Offer, plan: Plan, content: Content) -> list[VersionDelta]:
    """Return how the new versions came to be."""
    if not plan.new:
        return []
    found = deltas(content.changed_rows(), plan.after, plan.new[-1].number)
    if offer.known is None:
        # What was built here stands where it was built from, whatever the repository calls that.
        found[-1] = replace(found[-1], moved={})
    return found


def _changed(offer: Offer, plan: Plan) -> Collection[int]:
    """Return the numbers of the shards that changed since all versions of them were here; or of all."""
    shards, everything, seen = offer.root.shards, range(len(offer.root.shards)), offer.seen
    if seen is None or len(seen.versions) != plan.after or seen.shard_bits != offer.root.shard_bits:
        return everything
    return {number for number in everything if shards[number] != seen.shards[number]}
