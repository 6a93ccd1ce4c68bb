"""Rows of different lengths laid end to end, so that the model's linear modules see no padding at all.

What rows of one document begin with alike is laid down, and computed, once: a token's state depends on the tokens
before it and on its document's adapter only, so for such rows it is the same number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

CPU_PASS_TOKENS = (4096, 2048, 1024, 512)
ACCELERATOR_PASS_TOKENS = (32768,)
"""Tokens of one pass through the model, the fastest first: more of them gain nothing, fewer take less memory."""
SHARED_TOKENS = 8
"""A shared beginning has at least so many tokens: each is a segment of its own to attend."""
WASTED_SHARE = 0.1
"""Segments attend in one batch while less than this share of their scores belongs to padding."""
KEY_MULTIPLE = 16
"""Keys of a batch are padded to a multiple of a vector's length."""
CUT_TOKENS = 128
"""On a CPU rows attend in parts of about this length; PyTorch's fused attention does so by itself."""
STACKED_MEMBERS = 8
"""Members whose low-rank products are computed as one, masked: more would multiply mostly zeros."""


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens of one example of ``member``; ``first`` is where they start among all tokens of the group's examples."""

    member: int
    ids: tuple[int, ...]
    first: int = 0


@dataclass(frozen=True, slots=True)
class Segment:
    """Successive tokens of the packing that see each other up to themselves, after the ``before`` tokens at ``prefix``.

    ``start`` and ``length`` say which tokens; ``before`` is 0 where nothing is shared.
    """

    start: int
    length: int
    prefix: int = 0
    before: int = 0

    @property
    def seen(self) -> int:
        """How many tokens the last one sees."""
        return self.before + self.length


@dataclass(frozen=True, slots=True)
class Bucket:
    """Segments of nearly the same size that attend together, each within itself and its prefix.

    ``places`` ``[segments, queries]`` says which token stands where and ``key_places`` ``[segments, keys]`` which it
    may see; padding, on the right, repeats the last token. ``real`` ``[segments, queries]`` is False for padding,
    ``before`` ``[segments]`` counts the shared tokens.
    """

    segments: tuple[Segment, ...]
    places: Tensor
    key_places: Tensor
    real: Tensor
    before: Tensor

    @property
    def queries(self) -> int:
        """Tokens of the longest segment, or more."""
        return self.places.shape[1]

    @property
    def keys(self) -> int:
        """Tokens that the longest segment sees, rounded up."""
        return self.key_places.shape[1]

    def visible(self, window: int | None = None) -> Tensor:
        """Return ``[segments, queries, keys]``, True where a query sees a key: itself and ``window`` - 1 before it."""
        last = (self.before[:, None] + torch.arange(self.queries, device=self.before.device))[:, :, None]
        key = torch.arange(self.keys, device=self.before.device)
        return (key <= last) if window is None else (key <= last) & (key > last - window)


@dataclass(frozen=True, slots=True)
class Block:
    """Successive members of the group and the successive tokens that are theirs.

    ``own`` ``[tokens, members]`` is 1 where the token is the member's and 0 elsewhere, in the dtype of computation.
    """

    members: slice
    tokens: slice
    own: Tensor


class Packing:
    """Rows of a pass in ``tokens`` places; tokens of one member follow each other.

    ``ids``, ``first`` and ``positions`` ``[tokens]`` int64 are each token's id, its place among all tokens of the
    group's examples, and its position in its row, counted from 0; ``owners`` ``[tokens]`` int64 is its member, for
    loops on the CPU. ``places[i]`` ``[len(row i)]`` (on the CPU) are the
    places of row i's tokens.
    """

    def __init__(self, rows: Sequence[Row], device: str, dtype: torch.dtype) -> None:
        """Lay out ``rows``, whose members do not go down."""
        laid = _lay_out(rows, is_cut=device == "cpu")
        self.tokens = len(laid.ids)
        self.ids, self.first, self.positions = send(torch.tensor([laid.ids, laid.first, laid.positions]), device)
        self.places: list[Tensor] = [torch.tensor(places) for places in laid.places]
        self.buckets = tuple(_bucket(segments, device) for segments in _similar(laid.segments))
        self.owners = np.array(laid.members)
        self._device, self._dtype = device, dtype
        self._heads: dict[int, tuple[list[Tensor], list[Tensor], Tensor]] = {}

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The members of the packing, as many together as are computed as one."""
        return tuple(_blocks(self.owners, self._device, self._dtype))

    def by_head(self, heads: int) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Return where the heads of tokens stand in ``[tokens * heads]``, the heads of a token together.

        First, for each bucket, the indices ``[segments * heads * queries]`` that gather its queries, every head by
        itself, then those ``[segments * heads * keys]`` that gather its keys, and last the indices ``[tokens *
        heads]`` that gather the tokens again out of the queries of all buckets, one after the other.
        """
        if heads not in self._heads:
            device = self.positions.device
            every = torch.arange(heads, device=device)[:, None]
            queries = [(bucket.places[:, None] * heads + every).flatten() for bucket in self.buckets]
            keys = [(bucket.key_places[:, None] * heads + every).flatten() for bucket in self.buckets]
            real = [bucket.real[:, None].expand(-1, heads, -1).flatten() for bucket in self.buckets]
            at = torch.cat(real).nonzero()[:, 0]
            back = torch.empty(self.tokens * heads, dtype=torch.int64, device=device)
            back[torch.cat(queries)[at]] = at
            self._heads[heads] = queries, keys, back
        return self._heads[heads]


@dataclass(frozen=True, slots=True)
class _LaidOut:
    ids: list[int]
    first: list[int]
    positions: list[int]
    members: list[int]
    places: list[list[int]]
    segments: list[Segment]


def send(tensor: Tensor, device: str) -> Tensor:
    """Copy from the CPU; to a GPU without waiting, from memory that it can read by itself."""
    if device.startswith("cuda"):
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _lay_out(rows: Sequence[Row], *, is_cut: bool) -> _LaidOut:
    laid = _LaidOut([], [], [], [], [[] for _ in rows], [])

    def put(row: Row, begin: int, prefix: list[int]) -> list[int]:
        """Lay down the tokens of ``row`` from ``begin`` on, behind those at ``prefix``; return their places."""
        start, count = len(laid.ids), len(row.ids) - begin
        laid.ids.extend(row.ids[begin:])
        laid.first.extend(range(row.first + begin, row.first + len(row.ids)))
        laid.positions.extend(range(begin, len(row.ids)))
        laid.members.extend([row.member] * count)
        if begin:
            laid.segments.append(Segment(start, count, prefix[0], begin))
        elif is_cut:
            laid.segments.extend(_cut(start, count))
        else:
            laid.segments.append(Segment(start, count))
        return list(range(start, start + count))

    for _, own in groupby(range(len(rows)), key=lambda number: rows[number].member):
        for together, shared in _alike(rows, list(own)):
            prefix: list[int] = []
            if shared:
                head = rows[together[0]]
                prefix = put(Row(head.member, head.ids[:shared], head.first), 0, [])
            for number in together:
                laid.places[number] = prefix + put(rows[number], shared, prefix)
    return laid


def _cut(start: int, length: int) -> Iterator[Segment]:
    """Yield a row in parts of about ``CUT_TOKENS``, each after the ones before it: fewer scores of what is not seen."""
    parts = max(1, round(length / CUT_TOKENS))
    size = -(-length // parts // KEY_MULTIPLE) * KEY_MULTIPLE
    for before in range(0, length, size):
        yield Segment(start + before, min(size, length - before), start, before)


def _alike(rows: Sequence[Row], numbers: list[int]) -> Iterator[tuple[list[int], int]]:
    """Yield rows of one member that begin alike, and with how many tokens: 0 for a row by itself.

    At least one token of every row is left over, so that each has a segment of its own.
    """
    ordered = sorted(numbers, key=lambda number: rows[number].ids)
    together, shared = [ordered[0]], 0
    for number in ordered[1:]:
        common = _common(rows[together[0]].ids[:-1], rows[number].ids[:-1], shared or None)
        if common >= max(SHARED_TOKENS, shared // 2):
            together.append(number)
            shared = common
        else:
            yield together, shared
            together, shared = [number], 0
    yield together, shared


def _common(one: tuple[int, ...], other: tuple[int, ...], most: int | None) -> int:
    """Return how many tokens, up to ``most``, two rows begin with alike."""
    for place, (a, b) in enumerate(zip(one[:most], other, strict=False)):
        if a != b:
            return place
    return min(len(one[:most]), len(other))


def pass_sizes(device: str) -> tuple[int, ...]:
    """Return how many tokens one pass on ``device`` takes at most, the fastest first and what fits into memory last."""
    return CPU_PASS_TOKENS if device == "cpu" else ACCELERATOR_PASS_TOKENS


def passes(lengths: Sequence[int], most: int) -> Iterator[slice]:
    """Yield successive rows of at most ``most`` tokens together, about as many each time; a longer row is alone."""
    even = sum(lengths) / -(-sum(lengths) // most)
    start, used = 0, 0
    for row, length in enumerate(lengths):
        if row > start and (used + length > most or used + length / 2 > even):
            yield slice(start, row)
            start, used = row, 0
        used += length
    yield slice(start, len(lengths))


def _similar(segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Yield segments in batches of little padding, largest first."""
    batch: list[Segment] = []
    used = queries = keys = 0
    for segment in sorted(segments, key=lambda segment: (-segment.seen, -segment.length, segment.start)):
        size = segment.length * segment.seen
        most = max(queries, segment.length) * (len(batch) + 1) * (keys or segment.seen)
        if batch and used + size < (1 - WASTED_SHARE) * most:
            yield batch
            batch, used, queries, keys = [], 0, 0, 0
        batch.append(segment)
        used += size
        queries, keys = max(queries, segment.length), max(keys, segment.seen)
    yield batch


def _bucket(segments: list[Segment], device: str) -> Bucket:
    keys = -(-max(segment.seen for segment in segments) // KEY_MULTIPLE) * KEY_MULTIPLE
    # As many queries as keys, where nothing is shared: PyTorch's fastest attention asks for it.
    queries = max(segment.length for segment in segments) if any(s.before for s in segments) else keys
    start, length, prefix, before = (
        torch.tensor([getattr(segment, name) for segment in segments])[:, None]
        for name in ("start", "length", "prefix", "before")
    )
    place, key = torch.arange(queries), torch.arange(keys)
    own = start + torch.minimum(key - before, length - 1)
    return Bucket(
        segments=tuple(segments),
        places=send(start + torch.minimum(place, length - 1), device),
        key_places=send(torch.where(key < before, prefix + key, own), device),
        real=send(place < length, device),
        before=send(before[:, 0].contiguous(), device),
    )


def _blocks(members: np.ndarray[Any, Any], device: str, dtype: torch.dtype) -> Iterator[Block]:
    """Yield blocks of at most ``STACKED_MEMBERS`` members that follow each other; ``members`` has each token's."""
    whose = torch.from_numpy(members)
    present = [int(member) for member in np.unique(members)]
    for begin in range(0, len(present), STACKED_MEMBERS):
        first, last = present[begin], present[min(begin + STACKED_MEMBERS, len(present)) - 1]
        start, stop = (int(torch.searchsorted(whose, value)) for value in (first, last + 1))
        own = send(torch.nn.functional.one_hot(whose[start:stop] - first, last - first + 1).to(dtype), device)
        yield Block(slice(first, last + 1), slice(start, stop), own)
