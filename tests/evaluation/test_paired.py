import math
import random
from itertools import product

import pytest

from registry.evaluation.intervals import Estimate, bootstrap
from registry.evaluation.paired import Comparison, compare, compare_scores, sign_flip_p_value
from registry.evaluation.scores import Scores


def test_a_set_against_itself_does_not_differ() -> None:
    values = [0.0, 1.0, 0.5, 1.0, 0.25] * 10
    comparison = compare({"f1": values}, {"f1": values})["f1"]
    assert comparison == Comparison("f1", Estimate(0.0, 0.0, 0.0, 50), Estimate(1.0, 1.0, 1.0, 50), 1.0)


def test_what_both_share_cancels_out() -> None:
    hard = [random.Random(1).random() for _ in range(40)]
    better = compare({"f1": [value + 0.25 for value in hard]}, {"f1": hard})["f1"]
    assert better.difference.low == pytest.approx(0.25)
    assert better.difference.high == pytest.approx(0.25)
    double = compare({"f1": [2 * value for value in hard]}, {"f1": hard})["f1"]
    assert double.ratio is not None
    assert (double.ratio.mean, double.ratio.low, double.ratio.high) == pytest.approx((2, 2, 2))


def test_the_difference_is_the_bootstrap_of_the_differences() -> None:
    generator = random.Random(2)
    first, second = ([generator.random() for _ in range(30)] for _ in range(2))
    expected = bootstrap({"f1": [a - b for a, b in zip(first, second, strict=True)]}, seed=5)["f1"]
    difference = compare({"f1": first}, {"f1": second}, seed=5)["f1"].difference
    assert (difference.mean, difference.low, difference.high) == pytest.approx(
        (expected.mean, expected.low, expected.high)
    )
    assert difference.count == 30


def test_swapping_the_sets_turns_the_difference_and_the_ratio_round() -> None:
    generator = random.Random(3)
    first, second = ({"f1": [0.1 + generator.random() for _ in range(30)]} for _ in range(2))
    there, back = compare(first, second)["f1"], compare(second, first)["f1"]
    assert there.difference.low == pytest.approx(-back.difference.high)
    assert there.ratio is not None
    assert back.ratio is not None
    assert there.ratio.mean == pytest.approx(1 / back.ratio.mean)
    assert there.ratio.low == pytest.approx(1 / back.ratio.high, rel=1e-3)
    assert there.p_value == back.p_value


def test_every_measure_is_compared_by_itself() -> None:
    first = [Scores(1, 1, 1, 1, 1)] * 3
    second = [Scores(1, 0.5, 1, 0.25, 0)] * 3
    result = compare_scores(first, second)
    assert list(result) == list(Scores.__slots__)
    assert [comparison.measure for comparison in result.values()] == list(result)
    assert [comparison.difference.mean for comparison in result.values()] == [0, 0.5, 0, 0.75, 1]
    assert [comparison.p_value for comparison in result.values()] == [1, 0.25, 1, 0.25, 0.25]
    assert result["recall"].ratio == Estimate(4.0, 4.0, 4.0, 3)
    assert result["contains"].ratio is None


def test_a_ratio_without_an_upper_end_is_none() -> None:
    # Of 20 questions one counts for the second: in more than a third of the resamples its mean is 0.
    rare = compare({"f1": [1.0] * 20}, {"f1": [1.0] + [0.0] * 19})["f1"]
    assert rare.ratio is None
    # Of 400 questions 8 count: next to no resample's mean is 0.
    common = compare({"f1": [1.0] * 400}, {"f1": ([1.0] + [0.0] * 49) * 8})["f1"]
    assert common.ratio is not None
    assert common.ratio.mean == pytest.approx(50)
    assert common.ratio.low < 50 < common.ratio.high < math.inf


@pytest.mark.parametrize(
    ("differences", "p_value"),
    [
        ([1.0], 1.0),
        ([1.0, 1.0, 1.0], 2 / 8),
        ([1.0, 0.0, 1.0, 0.0, 1.0], 2 / 8),  # a difference of 0 has no sign
        ([-0.1, -0.2, -0.3], 2 / 8),
        ([1.0, 2.0, -3.0], 1.0),
        ([1.0, 2.0, 4.0, -1.0], 6 / 16),
        ([0.1, 0.2, -0.3, 0.6], 10 / 16),  # four of the ten are 0.6 up to their last digit
        ([0.0, 0.0], 1.0),
        ([1.0] * 13, 2 / 2**13),
    ],
)
def test_exact_p_values(differences: list[float], p_value: float) -> None:
    assert sign_flip_p_value(differences) == p_value
    signs = list(product((1, -1), repeat=len(differences)))
    sums = [abs(sum(s * d for s, d in zip(each, differences, strict=True))) for each in signs]
    assert sum(value >= sums[0] - 1e-9 for value in sums) / len(signs) == pytest.approx(p_value)


def test_drawn_p_values_approach_the_exact_one() -> None:
    generator = random.Random(4)
    differences = [generator.gauss(0.4, 1.0) for _ in range(13)]
    exact = sign_flip_p_value(differences, flips=2**13)
    drawn = sign_flip_p_value(differences, flips=2**13 - 1)
    assert exact != drawn
    assert drawn == pytest.approx(exact, abs=0.02)


def test_a_drawn_p_value_is_seeded_and_never_zero() -> None:
    assert sign_flip_p_value([1.0] * 2000, flips=999) == 1 / 1000
    generator = random.Random(5)
    differences = [generator.gauss(0.02, 1.0) for _ in range(500)]
    assert sign_flip_p_value(differences) == sign_flip_p_value(differences)
    assert sign_flip_p_value(differences) != sign_flip_p_value(differences, seed=1)


def test_under_the_null_hypothesis_small_p_values_are_rare() -> None:
    generator = random.Random(6)
    values = [sign_flip_p_value([generator.gauss(0, 1) for _ in range(20)], flips=499) for _ in range(200)]
    assert sum(value <= 0.1 for value in values) / 200 == pytest.approx(0.1, abs=0.06)


def test_unlike_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="different numbers of questions: 2 and 1"):
        compare({"f1": [1.0, 0.0]}, {"f1": [1.0]})
    with pytest.raises(ValueError, match="different measures"):
        compare({"f1": [1.0]}, {"recall": [1.0]})
    with pytest.raises(ValueError, match="at least one"):
        compare_scores([], [])
    with pytest.raises(ValueError, match="at least one"):
        sign_flip_p_value([])
