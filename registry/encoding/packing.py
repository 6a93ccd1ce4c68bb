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

    ``places`` ``[rows, longest]`` says which token stands where; padding, on the right, repeats its row's last token,
    and is False in ``real`` ``[rows, longest]``.
    """

    places: Tensor
    real: Tensor

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.places.shape[0]

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return self.places.shape[1]


@dataclass(frozen=True, slots=True)
class Block:
    """Successive members of the group and the successive tokens that are theirs.

    ``own`` ``[tokens, members]`` is 1 where the token is the member's and 0 elsewhere, in the dtype of computation.
    """

    members: slice
    tokens: slice
    own: Tensor


class Packing:
    """Which token of ``[1, tokens]`` is whose; rows of one member follow each other.

    ``positions`` ``[1, tokens]`` counts from 0 in every row.
    """

    def __init__(self, lengths: Sequence[int], members: Sequence[int], device: str, dtype: torch.dtype) -> None:
        """Lay out rows of ``lengths``; row i is of member ``members[i]``, and members do not go down."""
        starts = [0, *accumulate(lengths)]
        self.positions = torch.cat([torch.arange(length) for length in lengths])[None].to(device)
        self.buckets = tuple(_bucket(lengths, starts, rows, device) for rows in _similar(lengths))
        self.blocks = tuple(
            _block(lengths, starts, members, rows, device, dtype) for rows in _successive(members, STACKED_MEMBERS)
        )
        self._heads: dict[int, tuple[list[Tensor], Tensor]] = {}

    def by_head(self, heads: int) -> tuple[list[Tensor], Tensor]:
        """Return where the heads of tokens stand, ``[tokens * heads]`` with the heads of a token together.

        First, for each bucket, the indices ``[rows * heads * longest]`` that gather its rows, every head by itself;
        then the indices ``[tokens * heads]`` that gather the tokens again out of all buckets, one after the other.
        """
        if heads not in self._heads:
            device = self.positions.device
            every = torch.arange(heads, device=device)[:, None]
            gather = [(bucket.places[:, None] * heads + every).flatten() for bucket in self.buckets]
            real = [bucket.real[:, None].expand(-1, heads, -1).flatten() for bucket in self.buckets]
            at = torch.cat(real).nonzero()[:, 0]
            back = torch.empty(self.positions.numel() * heads, dtype=torch.int64, device=device)
            back[torch.cat(gather)[at]] = at
            self._heads[heads] = gather, back
        return self._heads[heads]


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
    own = torch.tensor([lengths[row] for row in rows])[:, None]
    first = torch.tensor([starts[row] for row in rows])[:, None]
    position = torch.arange(longest)
    return Bucket((first + torch.minimum(position, own - 1)).to(device), (position < own).to(device))


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
