"""How much each hit's adapter counts in the merge: weights from retrieval scores.

The merged adapter is sum over i of w_i * (alpha / r) * B_i A_i, where hit 1 is the best. Every weighting is a function
of the scores s_1 >= s_2 >= ... >= s_k of the hits that were found. A weight of 0 leaves the adapter out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from registry.errors import UsageError

Weighting = Callable[[Sequence[float]], tuple[float, ...]]
"""Scores of the hits, best first, to as many weights."""

DEFAULT_WEIGHTS = "first"
SCORE_TEMPERATURE = 2.0
"""BM25 points: a hit that trails another by this much gets 1/e of its weight under ``score``. A right first hit leads
by about 10 points, a wrong one by about 2 (medians over short passages)."""
FIRST_SHARE = 0.8
"""The best hit's weight under ``first``."""
BEST_LEAD = 1.3
"""A hit whose score is less than the best one's over this factor is left out under ``best``. Of 496 questions on 100
passages, 92 % of the right first hits lead by it, and 24 % of the wrong ones."""


def uniform(scores: Sequence[float]) -> tuple[float, ...]:
    """w_i = 1: the plain sum of arXiv 2501.15915."""
    return (1.0,) * len(scores)


def mean(scores: Sequence[float]) -> tuple[float, ...]:
    """w_i = 1 / k."""
    return (1.0 / len(scores),) * len(scores) if scores else ()


def score(scores: Sequence[float]) -> tuple[float, ...]:
    """w_i = exp((s_i - s_1) / T) / sum over j of exp((s_j - s_1) / T) with T = ``SCORE_TEMPERATURE``."""
    raw = [math.exp((value - scores[0]) / SCORE_TEMPERATURE) for value in scores]
    return tuple(value / sum(raw) for value in raw)


def first(scores: Sequence[float]) -> tuple[float, ...]:
    """w_1 = a and w_i = (1 - a) / (k - 1) for the others, with a = ``FIRST_SHARE``; a single hit gets 1."""
    if len(scores) < 2:
        return (1.0,) * len(scores)
    others = (1 - FIRST_SHARE) / (len(scores) - 1)
    return (FIRST_SHARE, *(others for _ in scores[1:]))


def best(scores: Sequence[float]) -> tuple[float, ...]:
    """w_i = 1 / m for the m hits with s_i >= s_1 / ``BEST_LEAD``, 0 for the others.

    So the first hit stands alone when it leads by that factor, and shares evenly with those close to it otherwise.
    """
    if not scores:
        return ()
    bar = min(scores[0], scores[0] / BEST_LEAD)
    near = [value >= bar for value in scores]
    return tuple(1.0 / sum(near) if is_near else 0.0 for is_near in near)


WEIGHTINGS: dict[str, Weighting] = {
    "uniform": uniform,
    "mean": mean,
    "score": score,
    "first": first,
    "best": best,
}
"""Every weighting by the name that users type."""


def parse_weights(text: str, k: int) -> Weighting:
    """Return the weighting that ``text`` names, or the fixed one that it lists, such as ``0.8,0.1,0.1``.

    A list needs a weight for each of the ``k`` hits asked for; where fewer are found, the first ones count.

    Raises:
        UsageError: the name is unknown, or the list is not ``k`` finite numbers with one that is not 0.
    """
    name = text.strip()
    if name in WEIGHTINGS:
        return WEIGHTINGS[name]
    known = f"use one of {', '.join(WEIGHTINGS)}, or a number for each hit, such as 0.8,0.1,0.1"
    try:
        weights = tuple(float(part) for part in name.split(","))
    except ValueError as error:
        raise UsageError(f"there is no weighting {text!r}", hint=known) from error
    if not all(math.isfinite(weight) for weight in weights) or not any(weights):
        raise UsageError(f"the weights {text!r} must be finite and not all 0", hint=known)
    if len(weights) != k:
        raise UsageError(f"{len(weights)} weights are given for {k} hits: {text!r}", hint=known)
    return lambda scores: weights[: len(scores)]
