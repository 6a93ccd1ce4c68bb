"""Times of single kernels and matrix products, and of the runner with other constants: what its constants rest on."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.query_gpu_tools import (
    DEVICE,
    FACTORS,
    HITS,
    LONG,
    SCALE,
    SHORT,
    next_tokens,
    prompts_of,
    recorded_ms,
    say,
    timed,
    wait,
)
from registry.base_model import LoadedModel
from registry.base_model.blocks import blocks_of
from registry.generation.runners.cuda import CudaRunner
from registry.store.layout import AdapterLayout

PRODUCTS = ("qkv", "output", "gate_up", "down")
FEW = (
    (16, 256, 4, 1),
    (16, 256, 4, 2),
    (16, 256, 6, 2),
    (16, 512, 4, 4),
    (16, 128, 8, 1),
    (32, 256, 4, 2),
    (32, 256, 4, 4),
    (32, 128, 6, 2),
    (64, 128, 5, 4),
    (64, 256, 3, 4),
    (64, 64, 8, 4),
)
"""Rows, inputs at a time, stages and warps of a program."""
VARIANTS: dict[str, Mapping[str, object]] = {
    "as it is": {},
    "1 warp activates": {"compiled.ACTIVATE_WARPS": 1},
    "4 warps activate": {"compiled.ACTIVATE_WARPS": 4},
    "256 columns a part, 2 warps": {"COLUMNS": 256},
    "256 columns a part, 4 warps": {"COLUMNS": 256, "compiled.ACTIVATE_WARPS": 4},
    "64 columns a part": {"COLUMNS": 64},
    "32 columns of a block at once": {"compiled.AT_ONCE": 32},
    "128 columns of a block at once": {"compiled.AT_ONCE": 128},
    "a warp norms 128": {"compiled.WARP_WIDTH": 128},
    "a warp norms 512": {"compiled.WARP_WIDTH": 512},
    "512 inputs of A at a time": {"ALONG": 512},
    "short prompts in passes of 64": {"runner.PACKED_TOKENS": 64},
    "short prompts in passes of 256": {"runner.PACKED_TOKENS": 256},
}
"""Constants of the runner's modules, or of all of them, to try."""
MODULES = ("operations", "compiled", "inputs", "layers", "runner")


def products(loaded: LoadedModel) -> None:
    """Times of the matrix products, through the model's own blocks so that no cache helps."""
    model = blocks_of(loaded.model)
    kinds = {name: [getattr(block, name).weight for block in model.blocks] for name in PRODUCTS}
    for name, weights in (*kinds.items(), ("head", [model.head])):
        outputs, inputs = weights[0].shape
        x = torch.randn(448, inputs, dtype=torch.bfloat16, device=DEVICE)
        out = torch.empty(448, outputs, dtype=torch.bfloat16, device=DEVICE)

        def library(weight: Tensor, rows: int, x: Tensor = x, out: Tensor = out) -> None:
            torch.mm(x[:rows], weight.t(), out=out[:rows])

        times = ", ".join(f"{rows}: {_us(weights, library, rows):.1f}" for rows in (1, 8, 16, 32, 128, 256, 448))
        say(f"{name} {tuple(weights[0].shape)}, {outputs * inputs * 2e-6:.1f} MB; us of cuBLAS by tokens: {times}")
        line = []
        for own in FEW:
            few = [_us(weights, _of_few(own, x, out), rows) for rows in (1, 8, 16)]
            line.append(f"{_label(own)} {' '.join(f'{took:.1f}' for took in few)}")
        say("    of few, 1 8 16: " + "; ".join(line))
        _of_few(FEW[0], x, out)(weights[0], 16)
        wanted = out[:16].clone()
        _of_few(FEW[0], x[5:], out)(weights[0], 1)
        is_same = torch.equal(out[0], wanted[5])
        torch.mm(x[:128], weights[0].t(), out=out[:128])
        wanted, order = out[:128].clone(), torch.randperm(128, device=DEVICE)
        torch.mm(x[:128][order], weights[0].t(), out=out[:128])
        is_moved = torch.equal(out[:128], wanted[order])
        say(f"    the same alone: {is_same}; cuBLAS: the same in another place of 128: {is_moved}")


def _label(own: tuple[int, int, int, int]) -> str:
    return f"{own[0]}x{own[1]}/{own[2]}/{own[3]}:"


def _us(weights: list[Tensor], work: Callable[[Tensor, int], None], tokens: int) -> float:
    def all_of_them() -> None:
        for weight in weights:
            work(weight, tokens)

    return recorded_ms(all_of_them) / len(weights) * 1000


def _of_few(own: tuple[int, int, int, int], x: Tensor, out: Tensor) -> Callable[[Tensor, int], None]:
    from registry.generation.runners.cuda import kernels

    rows, along, stages, warps = own

    def work(weight: Tensor, tokens: int) -> None:
        outputs, inputs = weight.shape
        kernels.product_of_few[(-(-outputs // rows),)](
            x, weight, x, out, tokens, outputs, inputs, rows, along, stages, 16, False, num_warps=warps
        )

    return work


def profile(name: str, runner: CudaRunner) -> None:
    """Print the time of every kernel of a token, and of prompts."""
    tokens = next_tokens(runner.prefill([0], prompts_of(1, SHORT)))
    runner.decode([0], tokens)
    _profiled(f"{name}, a token", lambda: runner.decode([0], tokens))
    for count, length in ((1, SHORT), (1, LONG)):
        work = partial(runner.prefill, range(count), prompts_of(count, length))
        work()
        work()
        _profiled(f"{name}, {count} x {length}", work)


def _profiled(name: str, work: Callable[[], object]) -> None:
    from torch.profiler import ProfilerActivity, profile

    wait()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(10):
            work()
        wait()
    events = [event for event in found.key_averages() if event.self_device_time_total > 0]
    events.sort(key=lambda event: -event.self_device_time_total)
    line = [
        f"{event.key[:40]} {event.count // 10} x {event.self_device_time_total / max(1, event.count):.2f}"
        for event in events[:9]
    ]
    total = sum(event.self_device_time_total for event in events) / 10
    say(f"{name}: {total:.1f} us in kernels: " + "; ".join(line))


def variants(loaded: LoadedModel, layout: AdapterLayout, bodies: list[bytes]) -> None:
    """Time tokens and prompts with other constants, with and without adapters."""
    for name, constants in VARIANTS.items():
        line = []
        try:
            with _constants(constants):
                for own in (None, layout):
                    runner = CudaRunner(loaded, own, SCALE, rows=16, context=2048, entries=24, most_terms=4)
                    if own is not None:
                        for entry, body in enumerate(bodies):
                            runner.put(entry, body)
                        for row in range(8):
                            runner.inject(row, range(row * HITS, (row + 1) * HITS), FACTORS)
                    line.append([_token_ms(runner, 1), _token_ms(runner, 8), *_prompt_ms(runner)])
        except Exception as error:
            say(f"{name}: {type(error).__name__}: {str(error)[:200]}")
            continue
        kinds = ("token", "8 tokens", f"1 x {SHORT}", f"1 x {LONG}", f"8 x {SHORT}")
        figures = [
            f"{kind} {bare:.3f} {slot:.3f} {bare / slot:.3f}" for kind, bare, slot in zip(kinds, *line, strict=True)
        ]
        say(f"{name}: " + "; ".join(figures))


def _token_ms(runner: CudaRunner, count: int) -> float:
    rows = range(count)
    tokens = next_tokens(runner.prefill(rows, prompts_of(count, SHORT)))
    times = []
    for _ in range(3):
        runner.prefill(rows, prompts_of(count, SHORT))

        def work() -> None:
            for _ in range(40):
                runner.decode(rows, tokens)

        times.append(timed(work, 1, 1) / 40)
    return min(times)


def _prompt_ms(runner: CudaRunner) -> list[float]:
    found = []
    for count, length in ((1, SHORT), (1, LONG), (8, SHORT)):
        prompts = prompts_of(count, length)
        found.append(timed(partial(runner.prefill, range(count), prompts), 20, 3))
    return found


@contextmanager
def _constants(given: Mapping[str, object]) -> Iterator[None]:
    """Set constants of the runner's modules: of one, or of all that have it."""
    kept: list[tuple[Any, str, object]] = []
    for name, value in given.items():
        module, _, constant = name.rpartition(".")
        for own in (module,) if module else MODULES:
            place = importlib.import_module(f"registry.generation.runners.cuda.{own}")
            if hasattr(place, constant):
                kept.append((place, constant, getattr(place, constant)))
                setattr(place, constant, value)
    try:
        yield
    finally:
        for place, constant, value in kept:
            setattr(place, constant, value)
