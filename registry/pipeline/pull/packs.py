"""The packs that a version's adapters lie in: which are fetched whole, and of which only some adapters are taken."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from registry.catalog.adapters import find_locations
from registry.catalog.task_adapters import locate_task_adapter
from registry.digests import sha256_hex, short
from registry.errors import IntegrityError, NotFoundError
from registry.hub.arrivals import LayoutOf, PackArrival, check_adapter, check_pack, check_places, places_in
from registry.hub.names import pack_path
from registry.pipeline.opened import Registry
from registry.pipeline.pull.arriving import Arriving, Wanted
from registry.pipeline.pull.base_models import Layouts
from registry.pipeline.pull.content import Content
from registry.pipeline.pull.offer import Offer
from registry.published import FileRef, Member, PublishedTaskAdapter
from registry.recipe import Recipe
from registry.records import AdapterLocation, Pack
from registry.store.headers import Bytes
from registry.store.layout import AdapterLayout

FindLayout = Callable[[str], AdapterLayout | None]
"""The layout that an adapter of that digest must have, None where it is for another base model."""

MOST_RANGES = 32
"""So many adapters of a pack are taken out of it by a request each, if they are less than ``LEAST_SHARE`` of it."""
LEAST_SHARE = 0.25


@dataclass(frozen=True)
class PackNeeds:
    """The packs of a repository with adapters that lie in no pack here.

    ``whole`` are to be fetched, with all rows that name them; of others the adapters of the rows ``single`` are.
    ``reused`` counts the packs of the version that are not needed.
    """

    whole: Mapping[FileRef, Sequence[Member]] = field(default_factory=dict)
    single: Sequence[Member] = ()
    reused: int = 0

    def rows(self) -> Iterable[Member]:
        """Yield the rows whose adapters come, so that the catalog must know them."""
        for rows in self.whole.values():
            yield from rows


@dataclass
class Delivery:
    """Adapters that are here and checked: whole packs and where their files lie, task adapters', and single ones.

    ``cut`` are the files of packs that single ones were taken of; ``reused`` counts whole packs that the store had.
    """

    packs: list[tuple[Wanted, Pack]] = field(default_factory=list)
    task_adapters: list[tuple[PublishedTaskAdapter, Wanted, Pack]] = field(default_factory=list)
    single: list[tuple[str, Bytes]] = field(default_factory=list)
    cut: list[Wanted] = field(default_factory=list)
    reused: int = 0


def needed_packs(registry: Registry, content: Content) -> PackNeeds:
    """Look up which adapters of the version that is pulled lie in no pack here, and in which packs they come.

    Raises:
        IntegrityError: what the manifest says of a pack cannot be.
    """
    with registry.catalog.read() as session:
        here = find_locations(session, content.target)
    lacking: dict[FileRef, list[Member]] = {}
    packs = {row.pack for row in content.target.values() if row.pack is not None}
    for digest, row in content.target.items():
        if digest not in here:
            if row.pack is None:
                raise IntegrityError(f"the manifest does not say where the adapter {short(digest)} lies")
            lacking.setdefault(row.pack, []).append(row)
    held: dict[FileRef, list[Member]] = {pack: [] for pack in lacking}
    if held:
        for row in content.rows():
            if row.pack in held:
                held[row.pack].append(row)
    whole: dict[FileRef, list[Member]] = {}
    single: list[Member] = []
    for pack, rows in lacking.items():
        if len(rows) <= MOST_RANGES and sum(row.size_bytes for row in rows) < LEAST_SHARE * pack.size_bytes:
            # What is said of the pack must hold, also where not all of it is seen.
            check_places(pack, places_in(pack, held[pack]))
            single += rows
        else:
            whole[pack] = held[pack]
    return PackNeeds(whole, single, reused=len(packs) - len(lacking))


def bring_packs(registry: Registry, needs: PackNeeds, layout_of: FindLayout, arrived: Arriving) -> Delivery:
    """Fetch packs and single adapters, several at once, each byte hashed and each adapter checked as it comes.

    Raises:
        IntegrityError: something is not what the manifest and the recipes say.
        HubError: the Hub cannot be reached, or refuses.
        StorageError: the disk is full.
    """
    done = Delivery()
    wanted: list[Wanted] = []
    for pack, rows in needs.whole.items():
        path = pack_path(pack.digest)
        if any(layout_of(row.adapter_digest) is None for row in rows):
            # It also has adapters for a base model that is not here, so it cannot be checked whole.
            done.cut.append(Wanted(pack, path))
            continue
        places = places_in(pack, rows)
        known = partial(_known_layout, layout_of)
        item = Wanted(pack, path, partial(PackArrival, pack, places, known))
        done.packs.append((item, Pack(pack.digest, pack.size_bytes, tuple(places))))
        if _is_here(registry, item, places, known):
            done.reused += 1
        else:
            wanted.append(item)
    arrived.bring("fetching packs", [*wanted, *done.cut])
    for item in done.cut:
        done.single += _cut(item, needs.whole[item.file], layout_of, arrived)
    done.single += arrived.each("fetching adapters", partial(_range, layout_of, arrived), needs.single)
    return done


def bring_task_adapters(
    registry: Registry, offer: Offer, recipes: Mapping[str, Recipe], layouts: Layouts, arrived: Arriving
) -> list[tuple[PublishedTaskAdapter, Wanted, Pack]]:
    """Fetch the task adapters that recipes for this base model start from and that are not here.

    Raises:
        IntegrityError: one is not in the repository, or not what it should be.
    """
    published = {item.task_adapter.digest: item for item in offer.root.task_adapters}
    found: list[tuple[PublishedTaskAdapter, Wanted, Pack]] = []
    for digest in sorted({recipe.task_adapter for recipe in recipes.values()} - {""}):
        item = published.get(digest)
        layout = None if item is None else layouts.of_recipe(item.task_adapter.recipe_digest)
        if item is None or layout is None or _has_task_adapter(registry, digest):
            continue
        size_bytes = item.task_adapter.size_bytes
        places = [AdapterLocation(digest, item.pack.digest, item.offset, size_bytes)]
        arrival = partial(PackArrival, item.pack, places, partial(_always, layout))
        wanted = Wanted(item.pack, pack_path(item.pack.digest), arrival)
        found.append((item, wanted, Pack(item.pack.digest, item.pack.size_bytes, tuple(places))))
    arrived.bring("fetching task adapters", [wanted for _, wanted, _ in found])
    return found


def _known_layout(layout_of: FindLayout, digest: str) -> AdapterLayout:
    layout = layout_of(digest)
    if layout is None:
        raise IntegrityError(f"the adapter {short(digest)} is for another base model")
    return layout


def _always(layout: AdapterLayout, _: str) -> AdapterLayout:
    return layout


def _is_here(registry: Registry, wanted: Wanted, places: Sequence[AdapterLocation], layout_of: LayoutOf) -> bool:
    """Return whether the store has the file, as after a pull that was killed before the catalog knew of it."""
    digest = wanted.file.digest
    if not registry.packs.exists(digest):
        return False
    try:
        check_pack(registry.packs.stream(digest), wanted.file, places, layout_of)
    except IntegrityError:
        return False
    return True


def _range(layout_of: FindLayout, arrived: Arriving, row: Member) -> tuple[str, Bytes]:
    assert row.pack is not None
    assert row.offset is not None
    path, layout = pack_path(row.pack.digest), _known_layout(layout_of, row.adapter_digest)
    data = arrived.range_of(path, row.offset, row.size_bytes)
    if sha256_hex(data) != row.adapter_digest:  # damaged on its way, perhaps
        data = arrived.range_of(path, row.offset, row.size_bytes)
    check_adapter(data, row.adapter_digest, layout)
    return row.adapter_digest, data


def _cut(wanted: Wanted, rows: Iterable[Member], layout_of: FindLayout, arrived: Arriving) -> list[tuple[str, Bytes]]:
    """Take the adapters for this base model out of a pack's file."""
    with arrived.path_of(wanted).open("rb") as file:
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    found: dict[str, Bytes] = {}
    for row in rows:
        layout = layout_of(row.adapter_digest)
        if layout is not None and row.offset is not None and row.adapter_digest not in found:
            data = view[row.offset : row.offset + row.size_bytes]
            check_adapter(data, row.adapter_digest, layout)
            found[row.adapter_digest] = data
    return list(found.items())


def _has_task_adapter(registry: Registry, digest: str) -> bool:
    with registry.catalog.read() as session:
        try:
            location = locate_task_adapter(session, digest)
        except (NotFoundError, IntegrityError):
            return False
    return registry.packs.exists(location.pack_digest)
