"""Two sets of answers to the same questions: how far apart they are, and whether chance would do it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from registry.evaluation.intervals import (
    DEFAULT_LEVEL,
    DEFAULT_RESAMPLES,
    Estimate,
    as_table,
    bounds,
    resampled_means,
)
from registry.evaluation.scores import Scores, score_columns

DEFAULT_FLIPS = 10_000

_BLOCK_SIGNS = 1 << 22
"""Signs held at once: 32 MiB as float64."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measure of a first set of answers against a second's.

    ``difference`` is first mean - second mean and ``ratio`` first mean / second mean, each with its paired bootstrap
    interval; ``ratio`` is None where the second mean is 0, or is 0 in so many resamples that the interval has no end.
    ``p_value`` is of the two-sided paired randomisation test: how often a difference at least this far from 0 comes
    up when each question's two values are swapped at random.
    """

    measure: str
    difference: Estimate
    ratio: Estimate | None
    p_value: float


def compare(
    first: Mapping[str, Sequence[float]],
    second: Mapping[str, Sequence[float]],
    *,
    seed: int = 0,
    resamples: int = DEFAULT_RESAMPLES,
    flips: int = DEFAULT_FLIPS,
    level: float = DEFAULT_LEVEL,
) -> dict[str, Comparison]:
    """Compare two tables of named columns, of one value a question, the questions in the same order.

    Whole questions are resampled, so that what makes a question hard for both cancels out. The same values and seed
    give the same result, and all measures share the draws of the bootstrap.

    Raises:
        ValueError: there are no values, or the two do not have the same columns of one length.
    """
    if list(first) != list(second):
        raise ValueError(f"the two have different measures: {list(first)} and {list(second)}")
    tables = as_table(first), as_table(second)
    if len(tables[0]) != len(tables[1]):
        raise ValueError(f"the two have different numbers of questions: {len(tables[0])} and {len(tables[1])}")
    resampled = resampled_means(np.hstack(tables), seed=seed, resamples=resamples)
    resampled_first, resampled_second = np.hsplit(resampled, 2)
    differences = tables[0] - tables[1]
    low, high = bounds(resampled_first - resampled_second, level)
    comparisons = {}
    for column, measure in enumerate(first):
        each = differences[:, column]
        comparisons[measure] = Comparison(
            measure=measure,
            difference=Estimate(float(each.mean()), float(low[column]), float(high[column]), len(each)),
            ratio=_ratio(tables[0][:, column], tables[1][:, column], resampled[:, column :: len(first)], level),
            p_value=sign_flip_p_value(each, seed=seed, flips=flips),
        )
    return comparisons


def compare_scores(
    first: Sequence[Scores],
    second: Sequence[Scores],
    *,
    seed: int = 0,
    resamples: int = DEFAULT_RESAMPLES,
    flips: int = DEFAULT_FLIPS,
    level: float = DEFAULT_LEVEL,
) -> dict[str, Comparison]:
    """Compare two sets of answers to the same questions, in the same order, by every measure; see ``compare``.

    Raises:
        ValueError: there are no scores, or not as many of the one as of the other.
    """
    columns = score_columns(first), score_columns(second)
    return compare(*columns, seed=seed, resamples=resamples, flips=flips, level=level)


def sign_flip_p_value(
    differences: Sequence[float] | NDArray[np.float64], *, seed: int = 0, flips: int = DEFAULT_FLIPS
) -> float:
    """Return the p-value of the two-sided paired randomisation test on the differences of pairs.

    Under the null hypothesis every difference could as well have the other sign. Where the differences other than 0
    have at most ``flips`` combinations of signs, all are tried and the value is exact; else ``flips`` are drawn and
    the value is (1 + those at least as far from 0) / (1 + flips), which is never 0.

    Raises:
        ValueError: there are no differences.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not values.size:
        raise ValueError("a test needs at least one difference")
    values = values[values != 0]
    if not values.size:
        return 1.0
    total = values.sum()
    # Sums in another order differ in their last digits; equal ones must count as equal.
    far = abs(total) - 1e-9 * np.abs(values).sum()
    exact = len(values) < flips.bit_length()
    blocks = _every_combination(len(values)) if exact else _drawn_combinations(len(values), flips, seed)
    count = sum(int(np.count_nonzero(np.abs(total - 2 * (block @ values)) >= far)) for block in blocks)
    return count / 2 ** len(values) if exact else (1 + count) / (1 + flips)


def _every_combination(size: int) -> Iterator[NDArray[np.float64]]:
    """Yield all rows of 0 and 1 (1 is for a flipped sign), [2 ** size, size]."""
    numbers = np.arange(2**size)[:, np.newaxis]
    yield (numbers >> np.arange(size) & 1).astype(np.float64)


def _drawn_combinations(size: int, flips: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield ``flips`` random rows of 0 and 1, in blocks [rows, size]."""
    generator = np.random.default_rng(seed)
    rows = max(1, _BLOCK_SIGNS // size)
    for start in range(0, flips, rows):
        shape = (min(rows, flips - start), size)
        yield generator.integers(2, size=shape, dtype=np.int8).astype(np.float64)


def _ratio(
    first: NDArray[np.float64], second: NDArray[np.float64], resampled: NDArray[np.float64], level: float
) -> Estimate | None:
    """Return the ratio of the means; ``resampled`` holds the two's resampled means, [resamples, 2]."""
    if second.mean() == 0:
        return None
    # A resample without anything to divide by counts as infinite, which widens the interval upwards.
    ratios = np.full(len(resampled), np.inf)
    np.divide(resampled[:, 0], resampled[:, 1], out=ratios, where=resampled[:, 1] != 0)
    with np.errstate(invalid="ignore"):
        low, high = bounds(ratios, level)
    if not np.isfinite([low, high]).all():
        return None
    return Estimate(float(first.mean() / second.mean()), float(low), float(high), len(first))
