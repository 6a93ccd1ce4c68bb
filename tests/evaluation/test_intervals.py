import pytest

from registry.evaluation.intervals import Estimate, bootstrap
from registry.evaluation.scores import Scores, estimates, score_columns


def test_every_column_has_its_mean_and_interval() -> None:
    result = bootstrap({"wide": [0.0, 1.0] * 50, "narrow": [0.4, 0.6] * 50, "constant": [7.0] * 100})
    assert list(result) == ["wide", "narrow", "constant"]
    assert result["constant"] == Estimate(7.0, 7.0, 7.0, 100)
    # The normal interval of 50 in 100 is 0.5 +- 0.098; the second column is the first, a fifth as wide.
    assert result["wide"].low == pytest.approx(0.402, abs=0.02)
    assert result["wide"].high == pytest.approx(0.598, abs=0.02)
    assert result["narrow"].low - 0.5 == pytest.approx((result["wide"].low - 0.5) / 5)


def test_a_lower_level_is_narrower() -> None:
    columns = {"measure": [float(i) for i in range(30)]}
    wide, narrow = bootstrap(columns)["measure"], bootstrap(columns, level=0.5)["measure"]
    assert wide.low < narrow.low < wide.mean < narrow.high < wide.high


def test_scores_are_columns() -> None:
    scores = [Scores(1, 1, 1, 1, 1), Scores(0, 0.5, 0.25, 1, 0)]
    assert score_columns(scores)["precision"] == [1, 0.25]
    assert estimates(scores, seed=4) == bootstrap(score_columns(scores), seed=4)


@pytest.mark.parametrize("columns", [{}, {"measure": []}])
def test_no_values_are_refused(columns: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        bootstrap(columns)


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"different numbers of questions: \[1, 2\]"):
        bootstrap({"one": [1.0], "two": [1.0, 2.0]})
