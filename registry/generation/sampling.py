"""Choosing the next token of every row of a batch."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor

from registry.generation.requests import Sampling

NO_TOKEN = -1
"""Chosen for a row of which no logit is a number: its answer cannot go on, those of the other rows can."""


class Draws:
    """The random numbers of one request: the same ``seed``, the same numbers; None draws others each time."""

    def __init__(self, seed: int | None) -> None:
        """Begin anew."""
        # As text, since a negative number would seed as the positive one does.
        self._random = random.Random(None if seed is None else str(seed))

    def next(self) -> float:
        """Return a number from 0 up to 1, without 1."""
        return self._random.random()


@torch.inference_mode()
def choose(logits: Tensor, samplings: Sequence[Sampling], draws: Sequence[Draws]) -> list[int]:
    """Return a token for every row of ``logits`` [rows, vocabulary], float32 on any device.

    A row of temperature 0 gets its most probable token, the first of equal ones. Another draws once, from the softmax
    of its logits / temperature over the fewest most probable tokens that have ``top_p`` together; tokens as probable as
    the last of these stay as well. What a row gets depends on its own logits, sampling and draws alone.

    A logit that is NaN is never chosen, infinite ones count as the largest. A row that has no other gets ``NO_TOKEN``.
    """
    best = _best(logits)
    if not all(math.isfinite(value) for value, _ in best):
        logits = logits.nan_to_num(nan=-math.inf, posinf=torch.finfo(logits.dtype).max, neginf=-math.inf)
        best = _best(logits)
    chosen = [NO_TOKEN if value == -math.inf else int(token) for value, token in best]
    drawing = [row for row, one in enumerate(samplings) if one.temperature and chosen[row] != NO_TOKEN]
    # A processor is faster row by row, everything else with all at once.
    for rows in [[row] for row in drawing] if logits.device.type == "cpu" else [drawing] if drawing else []:
        points = [draws[row].next() for row in rows]
        drawn = _drawn(logits[rows], [samplings[row] for row in rows], points)
        for row, token in zip(rows, drawn, strict=True):
            chosen[row] = token
    return chosen


def _best(logits: Tensor) -> list[list[float]]:
    """Return the largest logit and its token of every row, in one transfer; float32 holds the number of any token."""
    values, tokens = logits.max(dim=-1)
    best: list[list[float]] = torch.stack([values, tokens.to(values.dtype)], dim=-1).tolist()
    return best


def _drawn(logits: Tensor, samplings: Sequence[Sampling], points: Sequence[float]) -> list[int]:
    """Return each row's token at its point (0 to 1) of its distribution, in the order of the vocabulary."""
    wide = torch.float32 if logits.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
    settings = [(one.temperature, one.top_p, point) for one, point in zip(samplings, points, strict=True)]
    temperatures, top_p, point = torch.tensor(settings, dtype=wide, device=logits.device).T[:, :, None]
    # The largest becomes 0 before the division, which can make the others no more than -inf.
    below = logits - logits.amax(dim=-1, keepdim=True)
    shares = (below / temperatures.to(logits.dtype).clamp(min=torch.finfo(logits.dtype).tiny)).softmax(dim=-1)
    if any(one.top_p < 1 for one in samplings):
        smallest = torch.where(top_p < 1, smallest_kept(shares, top_p), 0)
        shares = torch.where(shares >= smallest, shares, 0)
    cumulated = shares.cumsum(dim=-1, dtype=wide)
    places = torch.searchsorted(cumulated, cumulated[:, -1:] * point, right=True).clamp(max=shares.shape[-1] - 1)
    tokens: list[int] = places[:, 0].tolist()
    return tokens


def smallest_kept(shares: Tensor, top_p: Tensor) -> Tensor:
    """Return the smallest share [rows, 1] among each row's most probable tokens that have ``top_p`` together."""
    enough = shares.sum(dim=-1, keepdim=True, dtype=top_p.dtype) * top_p
    if len(shares) == 1:
        return _smallest_kept_of_one(shares[0], enough[0])[None]
    largest_first = shares.sort(dim=-1, descending=True).values
    place = torch.searchsorted(largest_first.cumsum(dim=-1, dtype=enough.dtype), enough)
    return largest_first.gather(1, place.clamp(max=shares.shape[-1] - 1))


def _smallest_kept_of_one(shares: Tensor, enough: Tensor) -> Tensor:
    """Do the same for one row, sorting few of its shares: on a processor 10 times as fast."""
    # Numbers that are not negative are in the order of their bits, so those of equal upper bits are neighbours.
    buckets = shares.view(torch.int32) >> 16
    masses = torch.bincount(buckets, weights=shares.to(enough.dtype)).flip(0)
    cumulated = masses.cumsum(dim=0)
    place = torch.searchsorted(cumulated, enough).clamp(max=len(masses) - 1)
    largest_first = shares[buckets == len(masses) - 1 - place].sort(descending=True).values
    within = cumulated[place] - masses[place] + largest_first.cumsum(dim=0, dtype=enough.dtype)
    return largest_first[torch.searchsorted(within, enough).clamp(max=len(largest_first) - 1)]
