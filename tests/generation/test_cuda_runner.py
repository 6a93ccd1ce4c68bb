"""The runner for CUDA against transformers: its plain operations everywhere, its kernels where there is Triton.

The kernels run on CUDA, or by Triton's interpreter with TRITON_INTERPRET=1 where Triton is installed.
"""

import copy
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from registry.base_model import LoadedModel, linear_shapes, load, locate
from registry.errors import IntegrityError, UsageError
from registry.generation.runners.cuda import CudaRunner
from registry.store.layout import AdapterLayout
from tests.generation.sums import dense, logits_after

MakeBody = Callable[[AdapterLayout, int], bytes]
MLP = ("gate_proj", "up_proj", "down_proj")
ALL = (*MLP, "q_proj", "k_proj", "v_proj", "o_proj")
PROMPTS = [[5, 17, 203, 88, 41, 300, 7], list(range(20, 41)), [250]]
SCALE = 8.0
HAS_KERNELS = importlib.util.find_spec("triton") is not None and (
    torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"
)
KERNELS = pytest.param(
    "compiled", marks=pytest.mark.skipif(not HAS_KERNELS, reason="NOT TESTED: kernels in Triton need CUDA")
)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(params=["plain", KERNELS])
def operations(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def family(family_path: Callable[[str], Path], tmp_path: Path, name: str, dtype: str = "float32") -> LoadedModel:
    return load(locate(str(family_path(name)), models_path=tmp_path), device=DEVICE, dtype=dtype)


def runner_of(loaded: LoadedModel, layout: AdapterLayout | None, operations: str, **sizes: int) -> CudaRunner:
    given = {"rows": 4, "context": 400, "entries": 6, "most_terms": 3} | sizes
    return CudaRunner(loaded, layout, SCALE, operations=operations, **given)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found.cpu(), wanted.float().cpu(), atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "targets"), [("llama", ALL), ("mistral", MLP), ("qwen2", ("q_proj", "up_proj")), ("qwen3", ALL)]
)
def test_rows_with_different_sums_are_those_of_merged_models(
    family_path: Callable[[str], Path],
    tmp_path: Path,
    make_body: MakeBody,
    name: str,
    targets: tuple[str, ...],
    operations: str,
) -> None:
    loaded = family(family_path, tmp_path, name)
    layout = AdapterLayout.of(linear_shapes(loaded.model, targets, 1), 3, "float32")
    bodies = [make_body(layout, seed) for seed in range(4)]
    sums = [[(0, 1.0), (2, -0.5)], [], [(1, 0.3), (2, 0.3), (3, 2.0)]]
    models = [dense(loaded.model, layout, [(bodies[entry], factor) for entry, factor in own], SCALE) for own in sums]
    runner = runner_of(loaded, layout, operations)
    for entry, body in enumerate(bodies):
        runner.put(entry + 1, body)
    rows = [3, 0, 2]
    for row, own in zip(rows, sums, strict=True):
        runner.inject(row, [entry + 1 for entry, _ in own], [factor for _, factor in own])
    texts = [list(prompt) for prompt in PROMPTS]
    logits = runner.prefill(rows, texts)
    for _ in range(3):
        for found, model, text in zip(logits, models, texts, strict=True):
            close(found, logits_after(model, text))
        tokens = logits.argmax(dim=-1).tolist()
        for text, token in zip(texts, tokens, strict=True):
            text.append(token)
        logits = runner.decode(rows, tokens)
    assert (logits_after(models[0], texts[0]) - logits_after(loaded.model, texts[0])).abs().max() > 0.01


def test_a_row_without_adapters_is_the_bare_model(
    tiny_model: LoadedModel, make_body: MakeBody, operations: str
) -> None:
    # Kernels that look for adapters are compiled in another way, and may add in another order.
    apart = 0.0 if operations == "plain" else 1e-5
    loaded = moved(tiny_model)
    layout = AdapterLayout.of(linear_shapes(loaded.model, ALL), 2, "bfloat16")
    bare, runner = runner_of(loaded, None, operations), runner_of(loaded, layout, operations)
    runner.put(0, make_body(layout, 0))
    runner.inject(1, [0], [1.0])
    rows = [0, 1, 2]
    for found, alone in (
        (runner.prefill(rows, PROMPTS), bare.prefill(rows, PROMPTS)),
        (runner.decode(rows, [4, 5, 6]), bare.decode(rows, [4, 5, 6])),
    ):
        torch.testing.assert_close(found[[0, 2]], alone[[0, 2]], atol=apart, rtol=0)
        assert (found[1] - alone[1]).abs().max() > 1e-3
    runner.inject(1, [], [])
    found, alone = runner.prefill([1], PROMPTS[1:2]), bare.prefill([1], PROMPTS[1:2])
    torch.testing.assert_close(found, alone, atol=apart, rtol=0)


def moved(loaded: LoadedModel) -> LoadedModel:
    model = copy.deepcopy(loaded.model).to(DEVICE)
    return LoadedModel(model, loaded.tokenizer, loaded.base_model, DEVICE, loaded.dtype)


def test_long_rows_and_many_prompts_take_several_chunks_and_passes(
    family_path: Callable[[str], Path], tmp_path: Path, make_body: MakeBody, operations: str
) -> None:
    loaded = family(family_path, tmp_path, "qwen3")
    layout = AdapterLayout.of(linear_shapes(loaded.model, MLP), 2, "bfloat16")
    body = make_body(layout, 0)
    merged = dense(loaded.model, layout, [(body, 1.0)], SCALE)
    runner = runner_of(loaded, layout, operations, rows=20, context=300)
    runner.put(0, body)
    prompts = [[(17 * place + row) % 400 for place in range(299 if row in (1, 18) else 60)] for row in range(20)]
    for row in range(20):
        runner.inject(row, [0] if row % 2 else [], [1.0] if row % 2 else [])
    logits = runner.prefill(range(20), prompts)
    for row in (0, 1, 16, 18, 19):
        close(logits[row], logits_after(merged if row % 2 else loaded.model, prompts[row]))
    logits = runner.decode([18, 1, 3], [9, 10, 11])
    for found, row, token in zip(logits, (18, 1, 3), (9, 10, 11), strict=True):
        close(found, logits_after(merged if row % 2 else loaded.model, [*prompts[row], token]))


class FilledUp:
    """Stands for graphs where there are none: passes are filled up as for a graph, and run."""

    def is_worth_recording(self, key: Any) -> bool:
        return True

    def run(self, key: Any, work: Callable[[], None]) -> None:
        work()


def test_what_fills_a_pass_up_changes_nothing(
    tiny_model: LoadedModel, make_body: MakeBody, operations: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = moved(tiny_model)
    layout = AdapterLayout.of(linear_shapes(loaded.model, ALL), 2, "float32")
    body = make_body(layout, 0)
    merged = dense(loaded.model, layout, [(body, 1.0)], SCALE)
    runner = runner_of(loaded, layout, operations, rows=5)
    monkeypatch.setattr(runner, "_graphs", FilledUp())
    runner.put(0, body)
    rows = [4, 1, 0]
    runner.inject(1, [0], [1.0])
    models = [loaded.model, merged, loaded.model]
    for _ in range(2):
        logits = runner.prefill(rows, PROMPTS)
        for found, model, prompt in zip(logits, models, PROMPTS, strict=True):
            close(found, logits_after(model, prompt))
        logits = runner.decode(rows, [7, 8, 9])
        for found, model, prompt, token in zip(logits, models, PROMPTS, (7, 8, 9), strict=True):
            close(found, logits_after(model, [*prompt, token]))
        close(runner.prefill([1], PROMPTS[1:2])[0], logits_after(merged, PROMPTS[1]))
        close(runner.decode([1], [11])[0], logits_after(merged, [*PROMPTS[1], 11]))


def test_bfloat16_is_near_transformers(
    family_path: Callable[[str], Path], tmp_path: Path, make_body: MakeBody, operations: str
) -> None:
    if operations == "compiled" and DEVICE == "cpu":
        pytest.skip("NOT TESTED: Triton's interpreter multiplies the bits of bfloat16")
    exact = family(family_path, tmp_path, "llama")
    loaded = family(family_path, tmp_path, "llama", "bfloat16")
    layout = AdapterLayout.of(linear_shapes(loaded.model, ALL), 2, "float32")
    body = make_body(layout, 0)
    runner = runner_of(loaded, layout, operations)
    runner.put(5, body)
    runner.inject(0, [5], [0.5])
    wanted = logits_after(dense(exact.model, layout, [(body, 0.5)], SCALE), PROMPTS[1])
    found = runner.prefill([0], PROMPTS[1:2])[0].to(wanted.device)
    assert found.dtype == torch.float32
    assert (found - wanted).norm() / wanted.norm() < 0.03


def test_what_does_not_fit_is_refused(tiny_model: LoadedModel, make_body: MakeBody) -> None:
    loaded = moved(tiny_model)
    layout = AdapterLayout.of(linear_shapes(loaded.model, MLP), 2, "float32")
    runner = runner_of(loaded, layout, "plain", context=8)
    assert (runner.rows, runner.context, runner.entries, runner.most_terms) == (4, 8, 6, 3)
    with pytest.raises(IntegrityError, match="was given where"):
        runner.put(0, make_body(layout, 0)[:-4])
    with pytest.raises(UsageError, match="no adapter entry"):
        runner.put(runner.entries, make_body(layout, 0))
    with pytest.raises(UsageError, match="do not fit a slot"):
        runner.inject(0, [0, 1, 2, 3], [1.0] * 4)
    with pytest.raises(UsageError, match="1 to 8 tokens"):
        runner.prefill([0], [list(range(9))])
    runner.prefill([0], [list(range(8))])
    with pytest.raises(UsageError, match="already"):
        runner.decode([0], [1])


@pytest.mark.skipif(DEVICE != "cuda", reason="NOT TESTED: graphs need CUDA")
def test_recorded_passes_are_those_that_were_run(tiny_model: LoadedModel, make_body: MakeBody) -> None:
    loaded = moved(tiny_model)
    layout = AdapterLayout.of(linear_shapes(loaded.model, ALL), 2, "float32")
    runner = runner_of(loaded, layout, "compiled", rows=8)
    runner.put(0, make_body(layout, 0))
    runner.inject(2, [0], [1.0])
    rows = [4, 2, 1]
    first = [runner.prefill(rows, PROMPTS).clone(), runner.decode(rows, [1, 2, 3]).clone()]
    for _ in range(3):
        again = [runner.prefill(rows, PROMPTS).clone(), runner.decode(rows, [1, 2, 3]).clone()]
        for found, wanted in zip(again, first, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


@pytest.mark.skipif(DEVICE != "cuda", reason="NOT TESTED: kernels in bfloat16 need CUDA")
def test_a_row_is_the_same_alone_and_in_a_batch_bit_by_bit(
    family_path: Callable[[str], Path], tmp_path: Path, make_body: MakeBody
) -> None:
    loaded = family(family_path, tmp_path, "llama", "bfloat16")
    layout = AdapterLayout.of(linear_shapes(loaded.model, ALL), 2, "bfloat16")
    runner = runner_of(loaded, layout, "compiled", rows=16)
    for entry in range(4):
        runner.put(entry, make_body(layout, entry))
    lengths = [30, 1, 300, 17, 64, 99, 128, 45]
    prompts = [[(17 * place + row) % 400 for place in range(length)] for row, length in enumerate(lengths)]
    for row in range(8):
        runner.inject(row, list(range(row % 4)), [0.5] * (row % 4))
    together = [runner.prefill(range(8), prompts).clone()]
    together += [runner.decode(range(8), [step + 7] * 8).clone() for step in range(4)]
    for _ in range(2):  # run, and then as recorded
        for row in range(8):
            alone = [runner.prefill([row], prompts[row : row + 1]).clone()]
            alone += [runner.decode([row], [step + 7]).clone() for step in range(4)]
            for found, wanted in zip(alone, together, strict=True):
                assert torch.equal(found[0], wanted[row])
