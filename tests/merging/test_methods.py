import math

import numpy as np
import pytest

from registry.errors import UsageError
from registry.merging.methods import DEFAULT_MERGE, MODIFIERS, WEIGHTINGS, Coefficients, parse_merge

SCORES = (9.0, 7.0, 3.0)


def weights(text: str, scores: tuple[float, ...] = SCORES) -> tuple[float, ...]:
    return parse_merge(text, len(scores)).coefficients(scores).hits


def softmax(scores: tuple[float, ...], temperature: float) -> list[float]:
    raw = [math.exp(score / temperature) for score in scores]
    return [value / sum(raw) for value in raw]


def test_weightings() -> None:
    assert weights("uniform") == (1.0, 1.0, 1.0)
    assert weights("mean") == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert weights("softmax") == pytest.approx(softmax(SCORES, 2.0))
    assert weights("softmax:5") == pytest.approx(softmax(SCORES, 5.0))
    assert weights("first") == pytest.approx((0.8, 0.1, 0.1))
    assert weights("first", SCORES[:2]) == pytest.approx((0.8, 0.2))
    assert weights("first:0.5") == pytest.approx((0.5, 0.25, 0.25))
    assert weights("near") == (0.5, 0.5, 0.0)
    assert weights("near:1.2") == (1.0, 0.0, 0.0)
    assert weights("near:3") == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert weights("gate") == pytest.approx(softmax(SCORES, 2.0))
    assert weights("gate:1.2") == (1.0, 0.0, 0.0)


def test_a_first_hit_that_leads_stands_alone() -> None:
    for text in ("near", "gate"):
        assert weights(text, (12.0, 7.9, 1.0)) == (1.0, 0.0, 0.0)
        assert weights(text, (-1.0, -2.0)) == (1.0, 0.0)


@pytest.mark.parametrize("name", [name for name in WEIGHTINGS if name != "none"])
def test_every_weighting_takes_any_number_of_hits(name: str) -> None:
    merge = parse_merge(name, 3)
    assert merge.coefficients(()) == Coefficients((), 0.0)
    assert merge.coefficients((4.0,)) == Coefficients((1.0,), 0.0)
    for scores in (SCORES, (5.0, 5.0), (0.0, 0.0, 0.0), (400.0, 2.0)):
        found = merge.coefficients(scores).hits
        assert len(found) == len(scores)
        assert all(math.isfinite(weight) and weight >= 0 for weight in found)
        assert found[0] == max(found) > 0


def test_a_list_is_taken_as_it_is() -> None:
    merge = parse_merge(" 0.8, 0.1,-.1", 3)
    assert merge.coefficients(SCORES).hits == (0.8, 0.1, -0.1)
    assert merge.coefficients(SCORES[:1]).hits == (0.8,)


def test_the_common_part_counts_once() -> None:
    assert parse_merge("uniform+common", 3).coefficients(SCORES) == Coefficients((1.0, 1.0, 1.0), -2.0)
    listed = parse_merge("0.5,0.2+common", 2).coefficients(SCORES[:2])
    assert (listed.hits, listed.common) == ((0.5, 0.2), pytest.approx(0.3))
    for name in ("mean", "softmax", "first", "near", "gate"):
        for count in range(1, 8):
            scores = tuple(10.0 / rank for rank in range(1, count + 1))
            assert parse_merge(f"{name}+common", count).coefficients(scores).common == 0.0  # not its rounding
    assert parse_merge("uniform+common", 3).coefficients(()) == Coefficients()


def test_none_leaves_the_common_part_alone() -> None:
    products = np.diag([4.0, 1.0, 9.0])
    for text in ("none+common", "none+common+orthogonal", "none+common+cap:0.1"):
        merge = parse_merge(text, 2)
        assert merge.coefficients(SCORES[:2], products) == Coefficients((0.0, 0.0), 1.0)
        assert merge.coefficients(()) == Coefficients()


def test_what_each_needs() -> None:
    needs = {text: parse_merge(text, 3) for text in ("uniform", "mean+common", "mean+cap:2", "mean+orthogonal+common")}
    assert [(merge.needs_common, merge.needs_products) for merge in needs.values()] == [
        *((False, False), (True, False), (False, True), (True, True))
    ]
    with pytest.raises(ValueError, match=r"first:0\.8\+cap:1 needs the adapters' inner products"):
        parse_merge("first+cap", 3).coefficients(SCORES)
    with pytest.raises(ValueError, match="not those of 3 adapters"):
        parse_merge("first+cap+common", 3).coefficients(SCORES, np.eye(3))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (DEFAULT_MERGE, "near:1.3"),
        ("uniform", "uniform"),
        (" softmax : 4 + cap : 1.50 + common", "softmax:4+common+cap:1.5"),
        ("gate+cap+orthogonal+common", "gate:1.3+common+orthogonal+cap:1"),
        ("1, 0.50,-.1 + orthogonal", "1,0.5,-0.1+orthogonal"),
        ("first:0.123456789012345", "first:0.123456789012345"),
    ],
)
def test_the_canonical_text_is_read_as_the_same(text: str, canonical: str) -> None:
    merge = parse_merge(text, 3)
    assert str(merge) == canonical
    assert parse_merge(canonical, 3) == merge
    assert parse_merge(canonical, 3).weights(SCORES) == merge.weights(SCORES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("median", "there is no weighting 'median'"),
        ("Mean", "there is no weighting 'Mean'"),
        ("0.5,x,1", "there is no weighting '0.5,x,1'"),
        ("", "there is no weighting ''"),
        ("+common", "there is no weighting ''"),
        ("first+", "there is no merge modifier ''"),
        ("first+shared", "there is no merge modifier 'shared'"),
        ("common", "there is no weighting 'common'"),
        ("cap+first", "there is no weighting 'cap'"),
        ("none", "none merges nothing, and goes with +common only"),
        ("none+cap", "none merges nothing"),
        ("first+cap+cap:2", "the merge modifier cap is given twice"),
        ("uniform:2", "uniform takes no number: 'uniform:2'"),
        ("first+common:0.5", "common takes no number"),
        ("first:", "the number of first must be above 0 and up to 1, not ''"),
        ("first:1.2", "the number of first must be above 0 and up to 1, not '1.2'"),
        ("softmax:0", "the number of softmax must be above 0, not '0'"),
        ("softmax:inf", "the number of softmax must be above 0"),
        ("near:0.9", "the number of near must be 1 or more"),
        ("gate:nan", "the number of gate must be 1 or more"),
        ("mean+cap:-1", "the number of cap must be above 0"),
        ("mean+cap:two", "the number of cap must be above 0, not 'two'"),
        ("0.5,0.5", "2 weights are given for 3 hits"),
        ("1,1,1,1", "4 weights are given for 3 hits"),
        ("nan,1,1", "finite"),
        ("inf,1,1", "finite"),
        ("0,0,0", "not all 0"),
    ],
)
def test_what_cannot_be_used_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_merge(text, 3)
    assert message in caught.value.message
    assert all(name in (caught.value.hint or "") for name in (*WEIGHTINGS, *MODIFIERS))
