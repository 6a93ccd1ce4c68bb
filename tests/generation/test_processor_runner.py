"""The runner for processors against transformers, and that rows do not see each other."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from registry.base_model import LoadedModel, linear_shapes, load, locate
from registry.errors import BaseModelError, IntegrityError, UsageError
from registry.generation.runners.choosing import make_runner
from registry.generation.runners.processor.packed import PackedLinear, can_pack
from registry.generation.runners.processor.runner import TOGETHER, ProcessorRunner
from registry.generation.runners.processor.step import FUSED_TOKENS
from registry.store.layout import AdapterDtype, AdapterLayout
from tests.generation.sums import dense, logits_after

MakeBody = Callable[[AdapterLayout, int], bytes]
MLP = ("gate_proj", "up_proj", "down_proj")
ALL = (*MLP, "q_proj", "k_proj", "v_proj", "o_proj")
SHORT = [[5, 17, 203, 88, 41, 300, 7], list(range(20, 41)), [250]]
LONG = [list(np.random.default_rng(0).integers(0, 400, FUSED_TOKENS + 9)), list(range(30, 52))]
SCALE = 8.0


def open_family(family_path: Callable[[str], Path], tmp_path: Path, name: str, dtype: str = "float32") -> LoadedModel:
    return load(locate(str(family_path(name)), models_path=tmp_path), device="cpu", dtype=dtype)


def layout_of(loaded: LoadedModel, targets: Sequence[str], rank: int, dtype: AdapterDtype = "float32") -> AdapterLayout:
    return AdapterLayout.of(linear_shapes(loaded.model, tuple(targets)), rank, dtype)


def runner_of(loaded: LoadedModel, layout: AdapterLayout | None, **sizes: int) -> ProcessorRunner:
    given = {"rows": 4, "context": 400, "entries": 6, "most_terms": 3} | sizes
    return ProcessorRunner(loaded, layout, SCALE, **given)


def near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize(("targets", "rank"), [(MLP, 2), (ALL, 3), (("q_proj", "up_proj"), 1), (("down_proj",), 5)])
def test_rows_with_different_sums_are_those_of_merged_models(
    family_path: Callable[[str], Path],
    tmp_path: Path,
    make_body: MakeBody,
    name: str,
    targets: tuple[str, ...],
    rank: int,
) -> None:
    loaded = open_family(family_path, tmp_path, name)
    layout = layout_of(loaded, targets, rank)
    runner = runner_of(loaded, layout)
    bodies = [make_body(layout, seed) for seed in range(4)]
    for entry, body in enumerate(bodies):
        runner.put(entry, body)
    sums = [([0, 2, 3], [1.0, -0.5, 0.25]), ([1], [2.0]), ([], [])]
    models = []
    for row, (entries, factors) in enumerate(sums):
        runner.inject(row, entries, factors)
        terms = [(bodies[entry], factor) for entry, factor in zip(entries, factors, strict=True)]
        models.append(dense(loaded.model, layout, terms, SCALE))
    texts = [list(prompt) for prompt in SHORT]
    found = runner.prefill([0, 1, 2], texts)
    for step in range(19):  # past a block of sixteen positions
        for row in range(3):
            near(found[row], logits_after(models[row], texts[row]))
            texts[row].append(int(found[row].argmax()) if step % 2 else (37 * step + row) % 400)
        found = runner.decode([2, 0, 1], [texts[row][-1] for row in (2, 0, 1)])[[1, 2, 0]]
    assert (logits_after(models[0], SHORT[0]) - logits_after(loaded.model, SHORT[0])).abs().max() > 1e-2


def test_long_prompts_and_many_prompts_are_computed_like_short_ones(
    tiny_model: LoadedModel, make_body: MakeBody
) -> None:
    layout = layout_of(tiny_model, ALL, 2)
    runner = runner_of(tiny_model, layout, rows=9)
    body = make_body(layout, 0)
    runner.put(3, body)
    merged = dense(tiny_model.model, layout, [(body, 0.5)], SCALE)
    prompts = [*LONG, *SHORT, list(range(TOGETHER + 20)), *SHORT[:2]]
    for row in range(len(prompts)):
        runner.inject(row, [3] if row % 2 else [], [0.5] if row % 2 else [])
    found = runner.prefill(range(len(prompts)), prompts)
    for row, prompt in enumerate(prompts):
        near(found[row], logits_after(merged if row % 2 else tiny_model.model, prompt))
    following = runner.decode([0, 5], [11, 12])
    near(following[0], logits_after(tiny_model.model, [*prompts[0], 11]))
    near(following[1], logits_after(merged, [*prompts[5], 12]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_gets_the_same_bits_alone_and_among_others(
    family_path: Callable[[str], Path], tmp_path: Path, make_body: MakeBody, dtype: str
) -> None:
    loaded = open_family(family_path, tmp_path, "qwen3", dtype)
    layout = layout_of(loaded, MLP, 2)
    bodies = [make_body(layout, seed) for seed in range(6)]
    drawn = random.Random(1)
    prompts = [[drawn.randrange(400) for _ in range(drawn.randrange(1, 40))] for _ in range(8)]
    terms = [drawn.sample(range(6), drawn.randrange(4)) for _ in prompts]

    def started(rows: Sequence[int]) -> ProcessorRunner:
        runner = runner_of(loaded, layout, rows=8)
        for entry, body in enumerate(bodies):
            runner.put(entry, body)
        for row in rows:
            runner.inject(row, terms[row], [0.5] * len(terms[row]))
        return runner

    alone = []
    for row in range(8):
        runner = started([row])
        first = runner.prefill([row], [prompts[row]]).clone()
        alone.append([first[0], *(runner.decode([row], [token]).clone()[0] for token in (3, 77, 19))])
    together = started(range(8))
    found = [together.prefill(range(8), prompts).clone()]
    found += [together.decode(range(8), [token] * 8).clone() for token in (3, 77, 19)]
    for row in range(8):
        for step in range(4):
            assert torch.equal(found[step][row], alone[row][step]), (row, step)


def test_bfloat16_is_near_float32(family_path: Callable[[str], Path], tmp_path: Path, make_body: MakeBody) -> None:
    half = open_family(family_path, tmp_path, "llama", "bfloat16")
    layout = layout_of(half, MLP, 2, "bfloat16")
    body = make_body(layout, 4)
    exact = dense(open_family(family_path, tmp_path, "llama").model, layout, [(body, 0.5)], SCALE)
    for stored in ("float32", "bfloat16"):
        own = layout_of(half, MLP, 2, stored)  # type: ignore[arg-type]
        runner = runner_of(half, own)
        runner.put(0, make_body(own, 4))
        runner.inject(0, [0], [0.5])
        found, wanted = runner.prefill([0], [SHORT[1]])[0], logits_after(exact, SHORT[1])
        assert (found - wanted).norm() < 0.03 * wanted.norm(), stored


def test_adapters_of_another_dtype_than_the_model_are_the_same_adapters(
    tiny_model: LoadedModel, make_body: MakeBody
) -> None:
    layout = layout_of(tiny_model, MLP, 2, "bfloat16")
    body = make_body(layout, 1)
    runner = runner_of(tiny_model, layout)
    runner.put(0, body)
    runner.inject(0, [0], [1.5])
    merged = dense(tiny_model.model, layout, [(body, 1.5)], SCALE)
    near(runner.prefill([0], [SHORT[0]])[0], logits_after(merged, SHORT[0]))


def test_a_row_that_begins_anew_forgets_what_was_in_it(tiny_model: LoadedModel, make_body: MakeBody) -> None:
    layout = layout_of(tiny_model, MLP, 2)
    runner = runner_of(tiny_model, layout)
    runner.put(0, make_body(layout, 0))
    runner.inject(1, [0], [1.0])
    runner.prefill([1], [LONG[0]])
    runner.inject(1, [], [])
    near(runner.prefill([1], [SHORT[0]])[0], logits_after(tiny_model.model, SHORT[0]))


def test_what_does_not_fit_is_refused(tiny_model: LoadedModel, make_body: MakeBody) -> None:
    layout = layout_of(tiny_model, MLP, 2)
    runner = runner_of(tiny_model, layout)
    with pytest.raises(IntegrityError, match="bytes"):
        runner.put(0, make_body(layout, 0)[:-4])
    with pytest.raises(UsageError, match="4 adapters"):
        runner.inject(0, [0, 1, 2, 3], [1.0] * 4)
    with pytest.raises(IntegrityError, match="where 0 fit"):
        runner_of(tiny_model, None).put(0, b"1234")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"model.layers.7.mlp.up_proj": (64, 32)}, "no module model.layers.7.mlp.up_proj"),
        ({"model.layers.0.mlp.up_proj": (64, 31)}, "model.layers.0.mlp.up_proj"),
    ],
)
def test_adapters_of_another_model_are_refused(
    tiny_model: LoadedModel, shapes: dict[str, tuple[int, int]], message: str
) -> None:
    layout = AdapterLayout.of(shapes, 2, "float32")
    with pytest.raises(BaseModelError, match=message):
        make_runner(tiny_model, layout, SCALE, rows=1, context=64, cache_bytes=10**6, most_terms=2)


def test_a_model_of_known_blocks_is_computed_by_hand_and_others_by_their_library(
    family_path: Callable[[str], Path], tmp_path: Path
) -> None:
    kinds = {}
    for name in ("llama", "gemma2"):
        loaded = open_family(family_path, tmp_path, name)
        layout = layout_of(loaded, MLP, 2)
        runner = make_runner(loaded, layout, SCALE, rows=1, context=64, cache_bytes=10**6, most_terms=2)
        kinds[name] = type(runner).__name__
        assert runner.entries >= 10**6 // layout.body_bytes
    assert kinds == {"llama": "ProcessorRunner", "gemma2": "LibraryRunner"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_weights_are_the_weights(dtype: torch.dtype) -> None:
    weight = torch.randn(48, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    bias = torch.arange(48).to(dtype)
    packed = PackedLinear(weight, bias)
    assert packed.is_copy == can_pack(dtype)
    assert torch.equal(packed.weight(), weight)
    x = torch.ones(3, 32, dtype=dtype)
    torch.testing.assert_close(packed(x), torch.nn.functional.linear(x, weight, bias))
    packed.replace(2 * weight)
    torch.testing.assert_close(packed(x), torch.nn.functional.linear(x, 2 * weight, bias))
