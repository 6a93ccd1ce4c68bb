"""The loops compiled for the processor compute what PyTorch's operations do, forward and backward."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from registry.encoding.kernels import Heads, Memory
from registry.encoding.kernels.portable import PortableKernels
from registry.encoding.kernels.processor import ProcessorKernels
from registry.encoding.packing import Packing, Row
from registry.encoding.stack import Adapted

CPU = ProcessorKernels()
PORTABLE = PortableKernels("cpu")
HEADS, KEY_HEADS = 6, 2
SHARED = tuple(range(100, 120))
ROWS = [
    Row(0, (*SHARED, *range(17))),
    Row(0, (*SHARED, *range(30, 36))),
    Row(0, tuple(range(40, 45))),
    Row(1, tuple(range(300))),
    Row(1, (7, 8)),
    Row(3, tuple(range(50, 90))),
]
DTYPES = [pytest.param(torch.float32, 2e-5, id="float32"), pytest.param(torch.bfloat16, 2e-2, id="bfloat16")]


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def close(one: Tensor, other: Tensor, bound: float) -> None:
    """Within ``bound`` of the largest, and as a whole ten times closer than a difference everywhere would be."""
    assert one.shape == other.shape
    assert one.dtype == other.dtype
    scale = float(other.float().abs().max())
    assert scale > 0
    torch.testing.assert_close(one.float(), other.float(), rtol=bound, atol=bound * scale)
    assert (one.float() - other.float()).norm() < bound * other.float().norm()


@pytest.mark.parametrize(("dtype", "bound"), DTYPES)
@pytest.mark.parametrize("width", [5, 16, 40, 64])
@pytest.mark.parametrize("is_sum", [False, True])
def test_norm(dtype: torch.dtype, bound: float, width: int, is_sum: bool) -> None:
    x, addend, weight, slope = (draw(n, width, dtype=dtype, seed=n) for n in (7, 7, 1, 7))
    weight = weight[0]
    found: list[tuple[Tensor, ...]] = []
    for kernels in (CPU, PORTABLE):
        summed, out = (torch.empty_like(x) if is_sum else x), torch.empty_like(x)
        into = draw(7, width, dtype=dtype, seed=9)
        inverse = kernels.rms_norm(x, addend if is_sum else None, weight, 1e-5, summed, out)
        kernels.rms_norm_backward(slope, summed, weight, inverse, into)
        found.append((inverse, summed, out, into))
    for one, other in zip(*found, strict=True):
        close(one, other, bound)


@pytest.mark.parametrize(("dtype", "bound"), DTYPES)
@pytest.mark.parametrize("width", [8, 24, 64])
def test_attention_over_shared_and_cut_rows(dtype: torch.dtype, bound: float, width: int) -> None:
    packing = Packing(ROWS, "cpu", dtype)
    angles = torch.rand(300, width // 2, generator=torch.Generator().manual_seed(1)) * 6
    heads = Heads(HEADS, KEY_HEADS, width, 0.3, angles.cos(), angles.sin())
    qkv = draw(packing.tokens, (HEADS + 2 * KEY_HEADS) * width, dtype=dtype)
    slope = draw(packing.tokens, HEADS * width, dtype=dtype)
    found: list[tuple[Tensor, Tensor]] = []
    for kernels in (CPU, PORTABLE):
        memory = Memory("cpu")
        out, into = torch.empty_like(slope), torch.empty_like(qkv)
        saved = kernels.attention(qkv, packing, heads, out, memory, 0)
        kernels.attention_backward(slope, saved, into, memory)
        without = torch.empty_like(out)
        assert kernels.attention(qkv, packing, heads, without, memory, None) is None
        assert torch.equal(out, without)
        found.append((out, into))
    for one, other in zip(*found, strict=True):
        close(one, other, bound)


def adapted(members: int, rank: int, inner: int, outs: Sequence[int], seed: int) -> list[Adapted]:
    modules, start = [], 0
    for number, out in enumerate(outs):
        a, b = draw(members, rank, inner, seed=seed + number), draw(members, rank, out, seed=seed + 10 + number)
        columns = slice(start, start + out)
        modules.append(Adapted(a, torch.zeros_like(a), b, torch.zeros_like(b), columns))
        start += out
    return modules


def gradients(modules: Sequence[Adapted]) -> list[Tensor]:
    return [gradient for module in modules for gradient in (module.of_a, module.of_b)]


@pytest.mark.parametrize(("dtype", "bound"), DTYPES)
@pytest.mark.parametrize("width", [21, 48])
@pytest.mark.parametrize("targets", ["gate up down", "up", "down", ""])
def test_feed_forward(dtype: torch.dtype, bound: float, width: int, targets: str) -> None:
    hidden, rank, packing = 24, 3, Packing(ROWS, "cpu", dtype)
    x, slope = (draw(packing.tokens, hidden, dtype=dtype, seed=seed) for seed in (1, 2))
    gate_up, down = draw(2 * width, hidden, dtype=dtype) / 5, draw(hidden, width, dtype=dtype) / 5
    found: list[list[Tensor]] = []
    for kernels in (CPU, PORTABLE):
        inner = adapted(4, rank, hidden, [width, width], seed=3)
        first = [module for name, module in zip(("gate", "up"), inner, strict=True) if name in targets]
        second = adapted(4, rank, width, [hidden], seed=4) if "down" in targets else []
        operation = kernels.feed_forward(gate_up, down, first, second, 0.25)
        memory = Memory("cpu")
        out, into = torch.empty_like(x), torch.empty_like(x)
        saved = operation.forward(x, out, packing, memory, 0)
        forward = out.clone()
        operation.backward(saved, x, slope, into, memory)
        found.append([forward, into, *gradients([*first, *second])])
    for one, other in zip(*found, strict=True):
        close(one, other, bound)
        assert one.ndim < 3 or not one[2].any(), "member 2 has no tokens, so no gradient"


@pytest.mark.parametrize(("dtype", "bound"), DTYPES)
@pytest.mark.parametrize("is_wanted", [True, False])
def test_low_rank_products_of_modules_that_share_their_input(dtype: torch.dtype, bound: float, is_wanted: bool) -> None:
    packing = Packing(ROWS, "cpu", dtype)
    outs = [20, 9, 32]
    x, slope = draw(packing.tokens, 24, dtype=dtype), draw(packing.tokens, sum(outs), dtype=dtype)
    found: list[list[Tensor]] = []
    for kernels in (CPU, PORTABLE):
        modules = adapted(4, 2, 24, outs, seed=5)[::2]
        y, into = draw(packing.tokens, sum(outs), dtype=dtype, seed=6), draw(packing.tokens, 24, dtype=dtype, seed=7)
        operation = kernels.low_rank(modules, sum(outs), 0.5)
        operation.backward(operation.forward(x, y, packing), x, slope, into if is_wanted else None)
        found.append([y, into, *gradients(modules)])
    for one, other in zip(*found, strict=True):
        close(one, other, bound)


@pytest.mark.parametrize(("dtype", "bound"), DTYPES)
@pytest.mark.parametrize("vocabulary", [16, 421])
def test_cross_entropy(dtype: torch.dtype, bound: float, vocabulary: int) -> None:
    targets = torch.arange(9) * 40 % vocabulary
    weights = torch.linspace(0.5, 1.5, 9)
    found: list[tuple[Tensor, Tensor]] = []
    for kernels in (CPU, PORTABLE):
        logits = 4 * draw(9, vocabulary, dtype=dtype)
        losses = kernels.cross_entropy(logits, targets, weights)
        found.append((losses, logits))
    for one, other in zip(*found, strict=True):
        close(one, other, bound)


def test_of_a_token_that_is_learned_the_slope_stays_exact() -> None:
    logits = torch.zeros(1, 40)
    logits[0, 3] = 12.0
    expected = -39 * torch.exp(torch.tensor(-12.0)) / (1 + 39 * torch.exp(torch.tensor(-12.0)))
    CPU.cross_entropy(logits, torch.tensor([3]), torch.ones(1))
    assert float(logits[0, 3]) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("rows", [[0, 1, 2], [0, 2]])
def test_adamw_moves_the_chosen_rows_as_torch_does(rows: list[int]) -> None:
    settings: dict[str, Any] = {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.9, 0.999), "eps": 1e-8}
    for kernels in (CPU, PORTABLE):
        start, slopes = draw(3, 37), [draw(3, 37, seed=seed) for seed in range(4)]
        state = [start.clone(), *(torch.zeros_like(start) for _ in range(3))]
        expected = start.clone().requires_grad_()
        optimiser = torch.optim.AdamW([expected], **settings)
        for number, slope in enumerate(slopes, 1):
            state[1].copy_(slope)
            expected.grad = slope.clone()
            optimiser.step()
            rates, done = torch.full((len(rows),), 1e-2).double(), torch.full((len(rows),), number).double()
            kernels.adamw(state[0], state[1], state[2], state[3], rows, rates, done, 0.1, (0.9, 0.999), 1e-8)
            assert not state[1][rows].any()
        torch.testing.assert_close(state[0][rows], expected.detach()[rows])
        for row in {0, 1, 2} - set(rows):
            assert torch.equal(state[0][row], start[row])


def test_what_is_not_a_number_stays_so() -> None:
    x = torch.full((2, 32), float("nan"))
    out = torch.zeros_like(x)
    CPU.rms_norm(x, None, torch.ones(32), 1e-5, x, out)
    assert out.isnan().all()
    packing = Packing([Row(0, (1, 2))], "cpu", torch.float32)
    operation = CPU.feed_forward(draw(32, 32), draw(32, 16), [], [], 1.0)
    operation.forward(x, out.zero_(), packing, Memory("cpu"), None)
    assert out.isnan().all()


@pytest.mark.filterwarnings("ignore")
def test_compiled_by_torch_the_portable_kernels_are_the_same() -> None:
    """What CUDA runs, on the CPU: the same functions through torch.compile."""
    if shutil.which("g++") is None:
        pytest.skip("NOT TESTED: torch.compile needs a C++ compiler on a CPU")
    x, weight, targets = draw(9, 40), draw(40), torch.arange(9)
    found: list[list[Tensor]] = []
    for kernels in (PORTABLE, PortableKernels("cpu", compiled=True)):
        out, logits, state = torch.empty_like(x), draw(9, 64), [draw(3, 40, seed=n).abs() for n in range(4)]
        inverse = kernels.rms_norm(x, None, weight, 1e-5, x, out)
        losses = kernels.cross_entropy(logits, targets, torch.ones(9))
        rates = torch.full((3,), 1e-2).double()
        kernels.adamw(state[0], state[1], state[2], state[3], [0, 1, 2], rates, 300 * rates, 0.1, (0.9, 0.999), 1e-8)
        found.append([out, inverse, logits, losses, *(values for values in state if values.any())])
    for one, other in zip(*found, strict=True):
        close(one, other, 1e-5)
