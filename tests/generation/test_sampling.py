import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from registry.errors import UsageError
from registry.generation.requests import Sampling
from registry.generation.sampling import NO_TOKEN, Draws, choose, smallest_kept

GREEDY = Sampling()
POINTS = 500
LOGITS = (2.0, -1.0, 0.5, 1.75, -4.0, 0.5, 3.0, -0.25)


class Points(Draws):
    """Draws that are given."""

    def __init__(self, points: Sequence[float]) -> None:
        self._points = iter(points)

    def next(self) -> float:
        return next(self._points)


def shares_of(logits: Sequence[float], temperature: float) -> np.ndarray:
    shares = np.exp((np.array(logits) - max(logits)) / temperature)
    return shares / shares.sum()


def kept_of(shares: np.ndarray, top_p: float) -> np.ndarray:
    """The shares that are left of the fewest tokens with ``top_p`` together, of equal ones all or none."""
    order = np.argsort(-shares, kind="stable")
    last = order[min(np.searchsorted(np.cumsum(shares[order]), top_p), len(order) - 1)]
    kept = np.where(shares >= shares[last], shares, 0)
    return kept / kept.sum()


def frequencies(logits: Sequence[float], sampling: Sampling) -> np.ndarray:
    """How often each token comes when draws lie evenly from 0 to 1."""
    rows = torch.tensor(logits).expand(POINTS, -1)
    points = [Points([(number + 0.5) / POINTS]) for number in range(POINTS)]
    chosen = choose(rows, [sampling] * POINTS, points)
    return np.bincount(chosen, minlength=len(logits)) / POINTS


def random_logits(rows: int, vocabulary: int = 500, seed: int = 0) -> Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize("temperature", [0.25, 1.0, 1.7, 100.0])
def test_even_draws_give_the_exact_probabilities(temperature: float) -> None:
    wanted = shares_of(LOGITS, temperature)
    assert np.abs(frequencies(LOGITS, Sampling(temperature)) - wanted).max() <= 1.01 / POINTS


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.6, 0.9, 0.95, 0.9999])
@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_top_p_keeps_the_most_probable_tokens_and_their_proportions(top_p: float, temperature: float) -> None:
    wanted = kept_of(shares_of(LOGITS, temperature), top_p)
    found = frequencies(LOGITS, Sampling(temperature, top_p))
    assert np.abs(found - wanted).max() <= 1.01 / POINTS
    assert not found[wanted == 0].any()


@pytest.mark.parametrize("vocabulary", [3, 128, 129, 5000])
def test_top_p_of_equal_tokens_keeps_them_all(vocabulary: int) -> None:
    points = [0.0, 0.25, 0.5, 1 - 2**-53]
    draws = Points(points)
    rows = torch.zeros(1, vocabulary)
    chosen = [choose(rows, [Sampling(1.0, 0.1)], [draws])[0] for _ in points]
    assert chosen == [int(point * vocabulary) for point in points]


@pytest.mark.parametrize("top_p", [0.3, 0.8, 0.99, 1 - 1e-9])
def test_top_p_that_needs_many_tokens_is_exact_too(top_p: float) -> None:
    logits = random_logits(1, 6000, seed=4) / 6  # nearly flat: up to thousands are needed
    wanted = kept_of(shares_of(logits[0].tolist(), 1.0), top_p)
    points = np.linspace(0, 1, 200, endpoint=False)
    chosen = choose(logits.expand(200, -1), [Sampling(1.0, top_p)] * 200, [Points([point]) for point in points])
    assert chosen == np.searchsorted(np.cumsum(wanted), points, side="right").tolist()


def test_a_small_top_p_leaves_the_most_probable_token() -> None:
    logits = random_logits(8)
    chosen = choose(logits, [Sampling(5.0, 1e-12)] * 8, [Draws(seed) for seed in range(8)])
    assert chosen == logits.argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [1e-320, 1e-40, 1e-9, 1e-4])
def test_a_low_temperature_leaves_the_most_probable_token(temperature: float) -> None:
    logits = random_logits(4)
    chosen = choose(logits, [Sampling(temperature)] * 4, [Draws(None) for _ in range(4)])
    assert chosen == logits.argmax(-1).tolist()


@pytest.mark.parametrize("sampling", [Sampling(1.0), Sampling(1.3, 0.9)])
@pytest.mark.parametrize("seed", [7, 8])
def test_draws_follow_the_probabilities(sampling: Sampling, seed: int) -> None:
    wanted = kept_of(shares_of(LOGITS, sampling.temperature), sampling.top_p)
    draws, rows = Draws(seed), torch.tensor(LOGITS).expand(10, -1)
    chosen = [token for _ in range(200) for token in choose(rows, [sampling] * 10, [draws] * 10)]
    counted = np.bincount(chosen, minlength=len(LOGITS))
    likely = wanted * len(chosen) > 5
    squares = ((counted - wanted * len(chosen)) ** 2)[likely] / (wanted * len(chosen))[likely]
    assert squares.sum() < 35  # with 7 degrees of freedom, once in 90,000 times by chance


def test_the_same_seed_draws_the_same_tokens() -> None:
    steps = [random_logits(1, seed=seed) for seed in range(30)]

    def tokens(seed: int | None) -> list[int]:
        draws = Draws(seed)
        return [choose(logits, [Sampling(1.0)], [draws])[0] for logits in steps]

    assert tokens(5) == tokens(5)
    different = [tokens(seed) for seed in (5, -5, 6, 0, None, None)]
    assert all(one != other for number, one in enumerate(different) for other in different[:number])


def test_neighbours_change_nothing() -> None:
    samplings = [Sampling(1.0), GREEDY, Sampling(0.8, 0.9), Sampling(3.0, 0.5), Sampling(1.0), GREEDY]
    steps = [random_logits(len(samplings), seed=seed) for seed in range(20)]

    def tokens(rows: list[int]) -> list[list[int]]:
        draws = [Draws(row) for row in rows]
        return [choose(logits[rows], [samplings[row] for row in rows], draws) for logits in steps]

    together = tokens(list(range(len(samplings))))
    for row in range(len(samplings)):
        assert [step[row] for step in together] == [step[0] for step in tokens([row])]
    backwards = tokens([5, 4, 3, 2, 1, 0])
    assert [step[::-1] for step in backwards] == together


def test_a_greedy_row_draws_nothing() -> None:
    used, fresh = Draws(3), Draws(3)
    choose(random_logits(1), [GREEDY], [used])
    assert used.next() == fresh.next()


def test_of_equal_logits_the_first_is_greedy() -> None:
    logits = torch.zeros(2, 50_000)
    logits[0, [30_000, 40_000]] = 1.5
    assert choose(logits, [GREEDY] * 2, [Draws(0)] * 2) == [30_000, 0]


def test_what_is_drawn_last_of_all_is_a_token_that_is_kept() -> None:
    logits = torch.tensor([[5.0, 1.0, 5.0, -math.inf]])
    assert choose(logits, [Sampling(1.0, 0.5)], [Points([1 - 2**-53])]) == [2]


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.0), Sampling(1.0, 0.9)])
class TestLogitsThatAreNoNumbers:
    def test_nan_is_never_chosen(self, sampling: Sampling) -> None:
        logits = torch.tensor([[math.nan, 1.0, math.nan, -math.inf], [0.0, 0.0, 9.0, math.nan]])
        for seed in range(20):
            first, second = choose(logits, [sampling] * 2, [Draws(seed)] * 2)
            assert first == 1
            assert second in ((2,) if sampling == GREEDY else (0, 1, 2))

    def test_infinity_counts_as_the_largest(self, sampling: Sampling) -> None:
        logits = torch.tensor([[3e38, math.inf, 0.0, math.nan]])
        assert choose(logits, [sampling], [Draws(0)])[0] in ((1,) if sampling == GREEDY else (0, 1))
        assert choose(logits - 3e38, [sampling], [Draws(0)]) == [1]

    def test_a_row_without_numbers_ends_alone(self, sampling: Sampling) -> None:
        logits = random_logits(3)
        before = choose(logits, [sampling] * 3, [Draws(seed) for seed in range(3)])
        for hopeless in (math.nan, -math.inf):
            logits[1] = hopeless
            after = choose(logits, [sampling] * 3, [Draws(seed) for seed in range(3)])
            assert after == [before[0], NO_TOKEN, before[2]]

    def test_the_largest_numbers_are_no_trouble(self, sampling: Sampling) -> None:
        largest = torch.finfo(torch.float32).max
        logits = torch.tensor([[-largest, largest, 0.0, largest / 2]])
        assert choose(logits, [sampling], [Draws(1)]) == [1]


def test_a_row_without_numbers_draws_nothing() -> None:
    draws = Draws(3)
    choose(torch.full((1, 4), math.nan), [Sampling(1.0)], [draws])
    assert draws.next() == Draws(3).next()


@pytest.mark.parametrize(("temperature", "top_p"), [(-0.1, 1.0), (101, 1.0), (math.nan, 1.0), (1.0, 0.0), (1.0, 1.1)])
def test_what_cannot_be_drawn_from_is_refused(temperature: float, top_p: float) -> None:
    with pytest.raises(UsageError):
        Sampling(temperature, top_p)


def test_logits_are_left_as_they_were() -> None:
    logits = random_logits(2)
    logits[0, 3] = math.nan
    before = logits.clone()
    choose(logits, [GREEDY, Sampling(1.0, 0.9)], [Draws(0)] * 2)
    assert torch.equal(logits.nan_to_num(), before.nan_to_num())
    assert math.isnan(logits[0, 3])


def test_rows_together_keep_what_each_keeps_alone() -> None:
    """Together is how a GPU does it."""
    shares = torch.cat([random_logits(4, 3000) / scale for scale in (0.5, 2, 10, 1e9)]).softmax(-1)
    for top_p in (1e-9, 0.1, 0.9, 0.999, 1 - 1e-6):
        wanted = torch.full((len(shares), 1), top_p, dtype=torch.float64)
        together = smallest_kept(shares, wanted)
        alone = [smallest_kept(shares[[row]], wanted[:1]) for row in range(len(shares))]
        assert torch.equal(together, torch.cat(alone))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT TESTED on CUDA: there is no such device")
def test_a_gpu_chooses_what_the_processor_chooses() -> None:
    samplings = [GREEDY, Sampling(1.0), Sampling(0.8, 0.9), Sampling(2.0, 0.99)]
    logits = random_logits(4, 32_000)
    there = choose(logits.cuda(), samplings, [Draws(seed) for seed in range(4)])
    assert Counter(there) == Counter(choose(logits, samplings, [Draws(seed) for seed in range(4)]))
