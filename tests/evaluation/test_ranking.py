import math

import pytest

from registry.evaluation.intervals import bootstrap
from registry.evaluation.ranking import hit_at, ndcg_at, ranking_columns, ranking_estimates, recall_at

GOLD = {"a": 2, "b": 1, "c": 0, "d": 1}


@pytest.mark.parametrize(
    ("ranked", "k", "recall", "hit"),
    [
        (["x", "a", "b"], 1, 0, 0),
        (["x", "a", "b"], 2, 1 / 3, 1),
        (["x", "a", "b"], 3, 2 / 3, 1),
        (["d", "b", "a"], 10, 1, 1),
        (["c", "x"], 2, 0, 0),
        ([], 5, 0, 0),
        (["a", "a", "b"], 2, 2 / 3, 1),
    ],
)
def test_recall_and_hits(ranked: list[str], k: int, recall: float, hit: float) -> None:
    assert recall_at(ranked, GOLD, k) == pytest.approx(recall)
    assert hit_at(ranked, GOLD, k) == hit


IDEAL = 2 + 1 / math.log2(3) + 1 / 2  # grades 2, 1, 1


@pytest.mark.parametrize(
    ("ranked", "k", "expected"),
    [
        (["a", "b", "d"], 10, 1.0),
        (["a", "d", "b", "c"], 10, 1.0),
        (["b", "x", "a"], 10, (1 + 2 / 2) / IDEAL),
        (["b", "x", "a"], 2, 1 / (2 + 1 / math.log2(3))),
        (["x", "y", "z", "d"], 10, (1 / math.log2(5)) / IDEAL),
        (["b", "b", "a"], 10, (1 + 2 / math.log2(3)) / IDEAL),
        (["b"], 1, 0.5),
        (["c"], 10, 0.0),
        ([], 10, 0.0),
    ],
)
def test_ndcg(ranked: list[str], k: int, expected: float) -> None:
    assert ndcg_at(ranked, GOLD, k) == pytest.approx(expected)


@pytest.mark.parametrize("gold", [{}, {"a": 0}, {"a": -1}])
def test_nothing_relevant_gives_nothing(gold: dict[str, int]) -> None:
    assert recall_at(["a"], gold, 1) == hit_at(["a"], gold, 1) == ndcg_at(["a"], gold) == 0.0


@pytest.mark.parametrize("measure", [recall_at, hit_at, ndcg_at])
def test_a_cutoff_below_one_is_refused(measure: type) -> None:
    with pytest.raises(ValueError, match="cut at 1 or later"):
        measure(["a"], GOLD, 0)


def test_means_and_intervals_have_their_measures_names() -> None:
    ranked, gold = [["a", "b"], ["x", "a"], ["x"]], [{"a": 1}, {"a": 1}, {"a": 1}]
    columns = ranking_columns(ranked, gold, cutoffs=(1, 2))
    assert columns["recall@1"] == columns["hit@1"] == columns["ndcg@1"] == [1, 0, 0]
    assert columns["ndcg@2"] == pytest.approx([1, 1 / math.log2(3), 0])
    estimates = ranking_estimates(ranked, gold, cutoffs=(1, 2), seed=3)
    assert list(estimates) == ["recall@1", "recall@2", "hit@1", "hit@2", "ndcg@1", "ndcg@2"]
    assert estimates == bootstrap(columns, seed=3)
    assert estimates["hit@2"].mean == pytest.approx(2 / 3)
    assert estimates["hit@2"].low <= 2 / 3 <= estimates["hit@2"].high


def test_rankings_and_judgements_must_be_of_one_number() -> None:
    with pytest.raises(ValueError, match="zip"):
        ranking_estimates([["a"]], [])
    with pytest.raises(ValueError, match="at least one"):
        ranking_estimates([], [])
