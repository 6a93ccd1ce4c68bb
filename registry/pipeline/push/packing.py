"""How adapters travel: packs of this home as they are where they hold nothing else, all others in new packs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from registry.errors import IntegrityError
from registry.pipeline.push.outgoing import Part, planned
from registry.records import AdapterLocation, Pack

SMALLEST_SHARE = 4
"""A pack goes as it is from this part of the wanted size on: smaller ones are joined."""


@dataclass(frozen=True, slots=True)
class Packing:
    """Packs that go as they are, and what goes into each new one."""

    whole: tuple[Pack, ...]
    composed: tuple[tuple[Part, ...], ...]

    @property
    def size_bytes(self) -> int:
        """The bytes of all packs together."""
        return sum(pack.size_bytes for pack in self.whole) + sum(planned(parts).size_bytes for parts in self.composed)


def pack_up(
    lacking: Sequence[str],
    locations: Iterable[AdapterLocation],
    sizes: Mapping[str, int],
    inspect: Callable[[str], Pack],
    *,
    pack_size_bytes: int,
) -> Packing:
    """Return how adapters travel; new packs hold them in the order of ``lacking``.

    ``locations`` are all places in packs of this home where they lie, ``sizes`` their sizes in bytes; ``inspect``
    returns what a pack holds, by its own header. A pack goes as it is if all that it holds is lacking, nothing of it
    goes with another one, and it is neither larger than ``pack_size_bytes`` (its header not counted) nor smaller than
    a quarter of that.
    """
    left = dict.fromkeys(lacking)
    held: dict[str, set[str]] = {}
    for location in locations:
        held.setdefault(location.pack_digest, set()).add(location.adapter_digest)
    whole: list[Pack] = []
    for digest, adapters in held.items():
        size_bytes = sum(sizes[adapter] for adapter in adapters)
        if size_bytes > pack_size_bytes or size_bytes * SMALLEST_SHARE < pack_size_bytes:
            continue
        with suppress(IntegrityError):  # damaged or gone: what it holds may lie elsewhere too
            pack = inspect(digest)
            inside = {place.adapter_digest for place in pack.adapters}
            if inside == adapters and inside <= left.keys():
                whole.append(pack)
                for adapter in inside:
                    del left[adapter]
    parts = (Part(adapter, sizes[adapter]) for adapter in left)
    return Packing(tuple(whole), tuple(_cut(parts, pack_size_bytes)))


def _cut(parts: Iterable[Part], limit_bytes: int) -> Iterator[tuple[Part, ...]]:
    pack: list[Part] = []
    size_bytes = 0
    for part in parts:
        if pack and size_bytes + part.size_bytes > limit_bytes:
            yield tuple(pack)
            pack, size_bytes = [], 0
        pack.append(part)
        size_bytes += part.size_bytes
    if pack:
        yield tuple(pack)
