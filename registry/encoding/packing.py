"""Rows of different lengths laid end to end, so that the model's linear modules see no padding at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
from torch import Tensor

CPU_PASS_TOKENS = 2048
ACCELERATOR_PASS_TOKENS = 32768
"""Tokens of one pass through the model: enough for its products to run at full speed, and no more memory than that."""
PADDING_SHARE = 0.25
"""Rows attend in one batch while padding stays below this share of its tokens."""
STACKED_MEMBERS = 8
"""Members whose low-rank products are computed as one, masked: more would multiply mostly zeros."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Rows of nearly the same length that attend together, each within itself.

    ``places`` ``[tokens]`` says where each of their tokens stands among all, ``padded`` ``[tokens]`` where in
    ``rows * longest``, row after row, with padding on the right.
    """

    rows: int
    longest: int
    places: Tensor
    padded: Tensor


@dataclass(frozen=True, slots=True)
class Block:
    """Successive members of the group and the successive tokens that are theirs.

    ``own`` ``[tokens, members]`` is 1 where the token is the member's and 0 elsewhere, in the dtype of computation.
    """

    members: slice
    tokens: slice
    own: Tensor


@dataclass(frozen=True, slots=True)
class Packing:
    """Which token of ``[1, tokens]`` is whose; rows of one member follow each other.

    ``positions`` ``[1, tokens]`` counts from 0 in every row; ``order`` ``[tokens]`` says where each token stands when
    the buckets' tokens follow each other.
    """

    positions: Tensor
    order: Tensor
    buckets: tuple[Bucket, ...]
    blocks: tuple[Block, ...]

    @classmethod
    def of(cls, lengths: Sequence[int], members: Sequence[int], device: str, dtype: torch.dtype) -> Packing:
        """Lay out rows of ``lengths``; row i is of member ``members[i]``, and members do not go down."""
        starts = [0, *accumulate(lengths)]
        buckets = tuple(_bucket(lengths, starts, rows, device) for rows in _similar(lengths))
        blocks = tuple(
            _block(lengths, starts, members, rows, device, dtype) for rows in _successive(members, STACKED_MEMBERS)
        )
        positions = torch.cat([torch.arange(length) for length in lengths])[None].to(device)
        order = torch.cat([bucket.places for bucket in buckets]).argsort()
        return cls(positions, order, buckets, blocks)


def pass_tokens(device: str) -> int:
    """Return how many tokens one pass takes on ``device``."""
    return CPU_PASS_TOKENS if device == "cpu" else ACCELERATOR_PASS_TOKENS


def passes(lengths: Sequence[int], most: int) -> Iterator[slice]:
    """Yield successive rows of at most ``most`` tokens together; a longer row is alone."""
    start, used = 0, 0
    for row, length in enumerate(lengths):
        if row > start and used + length > most:
            yield slice(start, row)
            start, used = row, 0
        used += length
    yield slice(start, len(lengths))


def _similar(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield rows in batches of little padding, longest first."""
    batch: list[int] = []
    used = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        padded = lengths[batch[0]] * (len(batch) + 1) if batch else 0
        if batch and padded - used - lengths[row] > PADDING_SHARE * padded:
            yield batch
            batch, used = [], 0
        batch.append(row)
        used += lengths[row]
    yield batch


def _bucket(lengths: Sequence[int], starts: Sequence[int], rows: Sequence[int], device: str) -> Bucket:
    longest = max(lengths[row] for row in rows)
    places = torch.cat([torch.arange(starts[row], starts[row] + lengths[row]) for row in rows])
    padded = torch.cat([torch.arange(lengths[row]) + number * longest for number, row in enumerate(rows)])
    return Bucket(len(rows), longest, places.to(device), padded.to(device))


def _successive(members: Sequence[int], most: int) -> Iterator[list[int]]:
    """Yield successive rows of at most ``most`` different members."""
    rows: list[int] = []
    seen = 0
    for _, own in groupby(range(len(members)), key=members.__getitem__):
        if seen == most:
            yield rows
            rows, seen = [], 0
        rows += own
        seen += 1
    yield rows


def _block(
    lengths: Sequence[int],
    starts: Sequence[int],
    members: Sequence[int],
    rows: Sequence[int],
    device: str,
    dtype: torch.dtype,
) -> Block:
    first, last = members[rows[0]], members[rows[-1]]
    whose = torch.cat([torch.full((lengths[row],), members[row] - first) for row in rows])
    own = torch.nn.functional.one_hot(whose, last - first + 1).to(device, dtype)
    return Block(slice(first, last + 1), slice(starts[rows[0]], starts[rows[-1] + 1]), own)
