"""How long answers took, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

TOTAL = "total"


@dataclass(frozen=True, slots=True)
class Latency:
    """The milliseconds of a step over many answers: their mean, and what 95 % of the answers stayed within."""

    mean_ms: float
    p95_ms: float


def step_latencies(milliseconds: Sequence[Mapping[str, float]]) -> dict[str, Latency]:
    """Return every step's latency in the order in which steps first come up, and ``total``: all steps of an answer.

    An answer without a step spent no time on it, so the means of the steps add up to the mean of the total.

    Raises:
        ValueError: there are no answers, or a step is called ``total``.
    """
    if not milliseconds:
        raise ValueError("a latency needs at least one answer")
    steps = list(dict.fromkeys(step for answer in milliseconds for step in answer))
    if TOTAL in steps:
        raise ValueError(f"a step cannot be called {TOTAL!r}")
    latencies = {step: _latency([answer.get(step, 0.0) for answer in milliseconds]) for step in steps}
    return latencies | {TOTAL: _latency([sum(answer.values()) for answer in milliseconds])}


def _latency(values: Sequence[float]) -> Latency:
    return Latency(mean_ms=float(np.mean(values)), p95_ms=float(np.quantile(values, 0.95)))
