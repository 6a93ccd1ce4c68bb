"""How well a question's documents are found: recall, hits and nDCG of ranked identifiers (as BEIR and trec_eval)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from registry.evaluation.intervals import DEFAULT_LEVEL, DEFAULT_RESAMPLES, Estimate, bootstrap

DEFAULT_CUTOFFS = (1, 5, 10)


def recall_at(ranked: Sequence[str], gold: Mapping[str, int], k: int) -> float:
    """Return the share of the relevant documents (those whose grade in ``gold`` is above 0) among the first ``k``.

    A document that is ranked more than once, by several passages, stands at its first place only and takes no other.
    Without any relevant document the result is 0, as trec_eval has it; so it is of the other measures.

    Raises:
        ValueError: ``k`` is below 1.
    """
    relevant = {document for document, grade in gold.items() if grade > 0}
    found = relevant.intersection(_first(ranked, k))
    return len(found) / len(relevant) if relevant else 0.0


def hit_at(ranked: Sequence[str], gold: Mapping[str, int], k: int) -> float:
    """Return 1 where any relevant document is among the first ``k``, else 0.

    Raises:
        ValueError: ``k`` is below 1.
    """
    return float(any(gold.get(document, 0) > 0 for document in _first(ranked, k)))


def ndcg_at(ranked: Sequence[str], gold: Mapping[str, int], k: int = 10) -> float:
    """Return the discounted gain of the first ``k``, as a share of the best order's.

    The gain is linear, as BEIR and trec_eval have it: the sum of grade / log2(rank + 1), ranks from 1.

    Raises:
        ValueError: ``k`` is below 1.
    """
    gained = _discounted([gold.get(document, 0) for document in _first(ranked, k)])
    best = _discounted(sorted(gold.values(), reverse=True)[:k])
    return gained / best if best else 0.0


def ranking_columns(
    ranked: Sequence[Sequence[str]], gold: Sequence[Mapping[str, int]], *, cutoffs: Sequence[int] = DEFAULT_CUTOFFS
) -> dict[str, list[float]]:
    """Return every measure's values, one a question; a measure is named with its cutoff, as in ``recall@5``.

    Raises:
        ValueError: a cutoff is below 1, or there are more rankings than judgements or fewer.
    """
    pairs = list(zip(ranked, gold, strict=True))
    measures = {"recall": recall_at, "hit": hit_at, "ndcg": ndcg_at}
    return {
        f"{name}@{k}": [measure(documents, grades, k) for documents, grades in pairs]
        for name, measure in measures.items()
        for k in cutoffs
    }


def ranking_estimates(
    ranked: Sequence[Sequence[str]],
    gold: Sequence[Mapping[str, int]],
    *,
    cutoffs: Sequence[int] = DEFAULT_CUTOFFS,
    seed: int = 0,
    resamples: int = DEFAULT_RESAMPLES,
    level: float = DEFAULT_LEVEL,
) -> dict[str, Estimate]:
    """Return every measure's mean over the questions and its bootstrap interval, by names such as ``ndcg@10``.

    Raises:
        ValueError: there are no questions, a cutoff is below 1, or rankings and judgements are not of one number.
    """
    columns = ranking_columns(ranked, gold, cutoffs=cutoffs)
    return bootstrap(columns, seed=seed, resamples=resamples, level=level)


def _first(ranked: Sequence[str], k: int) -> list[str]:
    if k < 1:
        raise ValueError(f"a ranking is cut at 1 or later, not at {k}")
    return list(dict.fromkeys(ranked))[:k]


def _discounted(grades: Sequence[int]) -> float:
    return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, 1) if grade > 0)
