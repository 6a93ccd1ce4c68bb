from __future__ import annotations

import time

import pytest
import torch

from registry.base_model import measured_rate

SHAPES = [(256, 128, 6), (128, 256, 3)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_rate_is_that_of_a_product_timed_by_hand(dtype: str) -> None:
    threads = torch.get_num_threads()
    measured = measured_rate(SHAPES, dtype, seconds=0.3)
    assert torch.get_num_threads() == threads
    torch.set_num_threads(1)
    try:
        x, weight = (torch.randn(rows, 128, dtype=getattr(torch, dtype)) for rows in (2048, 256))
        seconds = []
        for _ in range(20):
            started = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            seconds.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    by_hand = 2 * 2048 * 128 * 256 / min(seconds) / 1e9
    # A factor, since other work on the machine may slow either.
    assert by_hand / 10 < measured < by_hand * 3


def test_it_takes_about_the_seconds_that_it_is_given() -> None:
    started = time.perf_counter()
    measured_rate(SHAPES, "float32", seconds=0.5)
    assert 0.5 <= time.perf_counter() - started < 10


def test_workers_are_summed() -> None:
    alone = measured_rate(SHAPES, "float32", seconds=0.2)
    # Twice as much where there are two idle cores.
    assert alone / 5 < measured_rate(SHAPES, "float32", workers=2, seconds=0.2) < alone * 5
