"""How sure a mean over questions is: percentile bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DEFAULT_RESAMPLES = 2000
DEFAULT_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over ``count`` questions (or a figure of such means) and the bounds of its bootstrap interval."""

    mean: float
    low: float
    high: float
    count: int


def bootstrap(
    columns: Mapping[str, Sequence[float]],
    *,
    seed: int = 0,
    resamples: int = DEFAULT_RESAMPLES,
    level: float = DEFAULT_LEVEL,
) -> dict[str, Estimate]:
    """Return for every named column, of one value a question, its mean and percentile bootstrap interval.

    Questions are drawn with replacement ``resamples`` times; the interval leaves out (1 - level) / 2 of the means on
    either side. The same columns and seed give the same bounds, and all columns share the draws.

    Raises:
        ValueError: there are no values, or the columns are not of one length.
    """
    table = as_table(columns)
    low, high = bounds(resampled_means(table, seed=seed, resamples=resamples), level)
    means = table.mean(axis=0)
    return {
        name: Estimate(mean=float(means[column]), low=float(low[column]), high=float(high[column]), count=len(table))
        for column, name in enumerate(columns)
    }


def as_table(columns: Mapping[str, Sequence[float]]) -> NDArray[np.float64]:
    """Return the columns side by side, float64 [questions, columns].

    Raises:
        ValueError: there are no values, or the columns are not of one length.
    """
    lengths = {len(values) for values in columns.values()}
    if not lengths or 0 in lengths:
        raise ValueError("an estimate needs at least one score")
    if len(lengths) > 1:
        raise ValueError(f"the columns have different numbers of questions: {sorted(lengths)}")
    return np.array([list(values) for values in columns.values()], dtype=np.float64).T


def resampled_means(table: NDArray[np.float64], *, seed: int, resamples: int) -> NDArray[np.float64]:
    """Return the columns' means over ``resamples`` draws of whole rows with replacement, [resamples, columns]."""
    generator = np.random.default_rng(seed)
    rows = len(table)
    return np.stack([table[generator.integers(rows, size=rows)].mean(axis=0) for _ in range(resamples)])


def bounds(resampled: NDArray[np.float64], level: float) -> NDArray[np.float64]:
    """Return what (1 - level) / 2 of the resamples lie below and above, [2, columns]."""
    return np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=0)
