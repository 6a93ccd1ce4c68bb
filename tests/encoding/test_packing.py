"""Rows laid end to end: every token sees its own row only, and what rows begin with alike is computed once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from registry.base_model import LoadedModel
from registry.encoding.library import packed_attention
from registry.encoding.packing import CUT_TOKENS, SHARED_TOKENS, STACKED_MEMBERS, Packing, Row, passes
from registry.encoding.stack import initial_parameters
from registry.encoding.train import encode_group
from registry.recipe import Recipe
from tests.encoding.conftest import layout_of, make_input, vector_of

HEADS, KEY_HEADS, WIDTH = 4, 2, 8
SYSTEM = tuple(range(1000, 1000 + 2 * SHARED_TOKENS))


def rows_of(*lengths: int) -> list[Row]:
    """Return rows of one member that have nothing in common."""
    first, rows = 0, []
    for number, length in enumerate(lengths):
        rows.append(Row(0, tuple(range(10_000 * number, 10_000 * number + length)), first))
        first += length
    return rows


def seen_by(packing: Packing) -> list[set[int]]:
    """Return, for every token, the tokens it sees by the buckets' places."""
    seen: list[set[int]] = [set() for _ in range(packing.tokens)]
    for bucket in packing.buckets:
        visible = bucket.visible()
        for number in range(len(bucket.segments)):
            for query in range(bucket.queries):
                if bucket.real[number, query]:
                    keys = bucket.key_places[number][visible[number, query]]
                    seen[int(bucket.places[number, query])] |= set(keys.tolist())
    return seen


@pytest.mark.parametrize(
    "rows",
    [
        rows_of(5, 1, 30, 4),
        rows_of(3 * CUT_TOKENS + 7, 20, 2),
        [Row(0, (*SYSTEM, *range(9))), Row(0, (*SYSTEM, *range(20, 25))), Row(0, (*SYSTEM, 9)), Row(1, (*SYSTEM, 9))],
        [Row(0, SYSTEM), Row(0, SYSTEM), Row(0, SYSTEM[:-1])],
    ],
    ids=["different", "long", "shared", "equal"],
)
def test_every_token_sees_the_tokens_before_it_in_its_row(rows: list[Row]) -> None:
    packing = Packing(rows, "cpu", torch.float32)
    seen = seen_by(packing)
    for row, places in zip(rows, packing.places, strict=True):
        assert packing.ids[places].tolist() == list(row.ids)
        assert packing.positions[places].tolist() == list(range(len(row.ids)))
        assert set(packing.owners[places.numpy()].tolist()) == {row.member}
        for position, place in enumerate(places.tolist()):
            assert seen[place] == set(places[: position + 1].tolist())


def test_a_shared_beginning_is_laid_down_once() -> None:
    rows = [Row(0, (*SYSTEM, *range(9)), 0), Row(0, (*SYSTEM, *range(20, 25)), 25), Row(1, (*SYSTEM, 9), 46)]
    packing = Packing(rows, "cpu", torch.float32)
    assert packing.tokens == len(SYSTEM) + 9 + 5 + len(rows[2].ids)
    assert torch.equal(packing.places[0][: len(SYSTEM)], packing.places[1][: len(SYSTEM)])
    assert not set(packing.places[2].tolist()) & set(packing.places[0].tolist()), "another member has its own"
    assert packing.first[packing.places[2]].tolist() == list(range(46, 46 + len(rows[2].ids)))


def test_a_short_common_beginning_is_not_worth_it() -> None:
    few = SYSTEM[: SHARED_TOKENS - 1]
    rows = [Row(0, (*few, *range(9))), Row(0, (*few, *range(20, 25)))]
    assert Packing(rows, "cpu", torch.float32).tokens == sum(len(row.ids) for row in rows)


def one_by_one(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: list[Row], softcap: float | None, window: int
) -> torch.Tensor:
    """Attention written out for each row by itself."""
    found, start = [], 0
    for row in rows:
        length = len(row.ids)
        part = slice(start, start + length)
        keys, values = (tensor[0, :, part].repeat_interleave(HEADS // KEY_HEADS, 0) for tensor in (k, v))
        scores = q[0, :, part] @ keys.transpose(1, 2) * 0.3
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        position = torch.arange(length)
        distance = position[:, None] - position
        scores = scores.masked_fill((distance < 0) | (distance >= window), float("-inf"))
        found.append((torch.softmax(scores, -1) @ values).transpose(0, 1))
        start += length
    return torch.cat(found)


@pytest.mark.parametrize(
    ("lengths", "softcap", "window"),
    [
        ([5, 1, 30, 4, 29], None, None),
        ([5, 30, 4], 2.0, None),
        ([5, 30, 4], None, 6),
        ([30, 8], 2.0, 6),
        ([2 * CUT_TOKENS, 7], None, None),
        ([1], None, None),
    ],
    ids=["plain", "softcap", "window", "softcap-window", "long-rows", "one-token"],
)
def test_attention_stays_within_each_row(lengths: list[int], softcap: float | None, window: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, total = rows_of(*lengths), sum(lengths)
    shapes = (HEADS, KEY_HEADS, KEY_HEADS)
    q, k, v = (torch.randn(1, n, total, WIDTH, generator=generator, dtype=torch.float64) for n in shapes)
    inputs = [tensor.requires_grad_() for tensor in (q, k, v)]
    packing = Packing(rows, "cpu", torch.float64)
    order = torch.cat(packing.places)  # places of the tokens in the order of rows
    laid = [torch.empty_like(tensor).index_copy(2, order, tensor) for tensor in (q, k, v)]
    found, weights = packed_attention(
        None, *laid, None, packing=packing, scaling=0.3, softcap=softcap, sliding_window=window
    )
    expected = one_by_one(q, k, v, rows, softcap, window or total)
    assert weights is None
    own = found[0][order]
    torch.testing.assert_close(own, expected)
    slope = torch.randn(own.shape, generator=generator, dtype=torch.float64)
    for one, wanted in zip(
        torch.autograd.grad(own, inputs, slope), torch.autograd.grad(expected, inputs, slope), strict=True
    ):
        torch.testing.assert_close(one, wanted)


def test_blocks_of_members_cover_their_tokens() -> None:
    rows = [Row(member, tuple(range(member + 2))) for member in (0, 1, 1, 3, 4, 6, 7, 8, 9, 12)]
    packing = Packing(rows, "cpu", torch.float32)
    covered: list[int] = []
    for block in packing.blocks:
        own = packing.owners[block.tokens]
        assert len(set(own.tolist())) <= STACKED_MEMBERS
        assert block.own.argmax(1).tolist() == (own - block.members.start).tolist()
        assert block.own.sum(1).tolist() == [1.0] * len(own)
        covered += range(block.tokens.start, block.tokens.stop)
    assert covered == list(range(packing.tokens))


def test_rows_are_padded_little() -> None:
    packing = Packing(rows_of(120, 115, 20, 18, 19, 1), "cpu", torch.float32)
    assert sorted(bucket.keys for bucket in packing.buckets) == [16, 32, 128]
    assert sum(len(bucket.segments) for bucket in packing.buckets) == 6


def test_passes_hold_so_many_tokens_and_about_as_many_each() -> None:
    assert list(passes([4, 4, 9, 30, 1], 10)) == [slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 5)]
    assert list(passes([4, 4], 10)) == [slice(0, 2)]
    assert list(passes([26] * 8, 205)) == [slice(0, 4), slice(4, 8)]


def test_a_large_group_equals_each_alone(tiny_model: LoadedModel, recipe: Recipe) -> None:
    recipe = replace(recipe, epochs=1, examples_per_step=3)
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
