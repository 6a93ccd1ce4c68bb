import math

import pytest

from registry.errors import UsageError
from registry.merging.weights import WEIGHTINGS, parse_weights

SCORES = (9.0, 7.0, 3.0)


def test_formulas() -> None:
    assert parse_weights("uniform", 3)(SCORES) == (1.0, 1.0, 1.0)
    assert parse_weights("mean", 3)(SCORES) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    raw = [1.0, math.exp(-1.0), math.exp(-3.0)]
    assert parse_weights("score", 3)(SCORES) == pytest.approx(tuple(value / sum(raw) for value in raw))
    assert parse_weights("first", 3)(SCORES) == pytest.approx((0.8, 0.1, 0.1))
    assert parse_weights("first", 2)(SCORES[:2]) == pytest.approx((0.8, 0.2))
    assert parse_weights("best", 3)(SCORES) == (0.5, 0.5, 0.0)


def test_best_gates_to_the_first_hit_when_it_leads() -> None:
    assert parse_weights("best", 3)((12.0, 7.9, 1.0)) == (1.0, 0.0, 0.0)
    assert parse_weights("best", 2)((-1.0, -2.0)) == (1.0, 0.0)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_every_weighting_takes_any_number_of_hits(name: str) -> None:
    weighting = parse_weights(name, 3)
    assert weighting(()) == ()
    assert weighting((4.0,)) == (1.0,)
    for scores in (SCORES, (5.0, 5.0), (0.0, 0.0, 0.0), (400.0, 2.0)):
        weights = weighting(scores)
        assert len(weights) == len(scores)
        assert all(math.isfinite(weight) and weight >= 0 for weight in weights)
        assert weights[0] == max(weights) > 0


def test_a_list_is_taken_as_it_is() -> None:
    weighting = parse_weights(" 0.8, 0.1,-.1", 3)
    assert weighting(SCORES) == (0.8, 0.1, -0.1)
    assert weighting(SCORES[:1]) == (0.8,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("median", "no weighting 'median'"),
        ("0.5,x,1", "no weighting"),
        ("", "no weighting"),
        ("0.5,0.5", "2 weights are given for 3 hits"),
        ("1,1,1,1", "4 weights are given for 3 hits"),
        ("nan,1,1", "finite"),
        ("inf,1,1", "finite"),
        ("0,0,0", "not all 0"),
    ],
)
def test_what_cannot_be_used_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_weights(text, 3)
    assert "uniform" in (caught.value.hint or "")
