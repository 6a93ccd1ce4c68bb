"""Rows laid end to end: each attends within itself, and every token has its own document's adapter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from registry.base_model import LoadedModel
from registry.encoding.attention import packed_attention
from registry.encoding.packing import STACKED_MEMBERS, Packing, passes
from registry.encoding.stack import initial_parameters
from registry.encoding.train import encode_group
from registry.recipe import Recipe
from tests.encoding.conftest import layout_of, make_input, vector_of

LENGTHS = [7, 1, 30, 28, 5, 6]
MEMBERS = [0, 0, 1, 2, 2, 4]
HEADS, KEY_HEADS, WIDTH = 6, 2, 8


def one_by_one(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], softcap: float | None, window: int) -> Tensor:
    """Return ``[tokens, heads, width]``: attention by its definition, row after row and head after head."""
    out = torch.empty(q.shape[2], HEADS, WIDTH, dtype=q.dtype)
    start = 0
    for length in lengths:
        for head in range(HEADS):
            own = head // (HEADS // KEY_HEADS)
            for token in range(start, start + length):
                seen = slice(max(start, token + 1 - window), token + 1)
                scores = k[0, own, seen] @ q[0, head, token] * 0.3
                if softcap is not None:
                    scores = torch.tanh(scores / softcap) * softcap
                out[token, head] = scores.softmax(0) @ v[0, own, seen]
        start += length
    return out


@pytest.mark.parametrize(
    ("lengths", "softcap", "window"),
    [(LENGTHS, None, None), (LENGTHS, 2.0, None), (LENGTHS, None, 4), ([3, 520, 2], None, None), ([1], None, None)],
    ids=["plain", "softcap", "window", "long-rows", "one-token"],
)
def test_attention_stays_within_each_row(lengths: list[int], softcap: float | None, window: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    total = sum(lengths)
    shapes = (HEADS, KEY_HEADS, KEY_HEADS)
    q, k, v = (torch.randn(1, n, total, WIDTH, generator=generator, dtype=torch.float64) for n in shapes)
    inputs = [tensor.requires_grad_() for tensor in (q, k, v)]
    packing = Packing(lengths, [0] * len(lengths), "cpu", torch.float64)
    found, weights = packed_attention(
        None, q, k, v, None, packing=packing, scaling=0.3, softcap=softcap, sliding_window=window
    )
    expected = one_by_one(q, k, v, lengths, softcap, window or total)
    assert weights is None
    torch.testing.assert_close(found[0], expected)
    slope = torch.randn(found.shape[1:], generator=generator, dtype=torch.float64)
    for own, wanted in zip(
        torch.autograd.grad(found[0], inputs, slope), torch.autograd.grad(expected, inputs, slope), strict=True
    ):
        torch.testing.assert_close(own, wanted)


def test_every_token_is_its_own_member_s() -> None:
    packing = Packing(LENGTHS, MEMBERS, "cpu", torch.float32)
    assert packing.positions.tolist() == [[position for length in LENGTHS for position in range(length)]]
    (block,) = packing.blocks
    assert (block.members, block.tokens) == (slice(0, 5), slice(0, sum(LENGTHS)))
    whose = [member for length, member in zip(LENGTHS, MEMBERS, strict=True) for _ in range(length)]
    assert block.own.argmax(1).tolist() == whose
    assert block.own.sum(1).tolist() == [1.0] * len(whose)


def test_rows_are_padded_little() -> None:
    packing = Packing([200, 190, 20, 18, 19, 1], [0] * 6, "cpu", torch.float32)
    assert sorted(bucket.longest for bucket in packing.buckets) == [1, 20, 200]
    assert sum(bucket.rows for bucket in packing.buckets) == 6


def test_passes_hold_so_many_tokens() -> None:
    assert list(passes([4, 4, 9, 30, 1], 10)) == [slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 5)]
    assert list(passes([4, 4], 10)) == [slice(0, 2)]


def test_a_large_group_equals_each_alone(tiny_model: LoadedModel, recipe: Recipe) -> None:
    recipe = replace(recipe, epochs=1)
    layout = layout_of(tiny_model, recipe)
    start = initial_parameters(layout, recipe.init_seed)
    words = ["the", "lamp", "of", "Ostrel", "burns", "green", "oil", "every", "winter", "night", "until", "dawn"]
    inputs = [
        make_input(f"Lamp {n}", " ".join(words[n % 5 :] * (1 + n % 3)), pairs=n % 4) for n in range(STACKED_MEMBERS + 3)
    ]
    together = encode_group(tiny_model, recipe, layout, inputs)
    for given, one in zip(inputs, together, strict=True):
        (alone,) = encode_group(tiny_model, recipe, layout, [given])
        expected = vector_of(layout, alone.data)
        difference = (vector_of(layout, one.data) - expected).norm()
        assert difference < 1e-4 * (expected - start).norm()
