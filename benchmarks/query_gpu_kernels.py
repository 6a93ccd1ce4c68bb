"""Times of single kernels and matrix products, and of the runner with other constants: what its constants rest on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

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


def products(loaded: LoadedModel) -> None:
    """Bytes a second of the matrix products, through the model's own blocks so that no cache helps."""
    model = blocks_of(loaded.model)
    kinds = {name: [getattr(block, name).weight for block in model.blocks] for name in PRODUCTS}
    for name, weights in (*kinds.items(), ("head", [model.head])):
        line = []
        for rows in (1, 8, 32, 448):
            x = torch.randn(rows, weights[0].shape[1], dtype=torch.bfloat16, device=DEVICE)
            outs = torch.empty(rows, weights[0].shape[0], dtype=torch.bfloat16, device=DEVICE)

            def work(weights: Any = weights, x: Any = x, outs: Any = outs) -> None:
                for weight in weights:
                    torch.mm(x, weight.t(), out=outs)

            took = recorded_ms(work) / len(weights)
            line.append(f"{rows}: {took * 1000:.1f} us, {weights[0].numel() * 2 / took / 1e9:.2f} TB/s")
        say(f"{name} {tuple(weights[0].shape)}: cuBLAS " + "; ".join(line))
        own_products(weights)


def own_products(self, weights: list[torch.Tensor]) -> None:
    from registry.generation.runners.cuda import kernels

    outputs, inputs = weights[0].shape
    x = torch.randn(1, inputs, dtype=torch.bfloat16, device=DEVICE)
    outs = torch.empty(1, outputs, dtype=torch.bfloat16, device=DEVICE)
    line = []
    for rows, along, stages, warps in VARIANTS:

        def work(rows: int = rows, along: int = along, stages: int = stages, warps: int = warps) -> None:
            for weight in weights:
                kernels.product[(-(-outputs // rows),)](
                    x, weight, x, outs, outputs, inputs, rows, along, stages, False, num_warps=warps
                )

        took = recorded_ms(work) / len(weights)
        line.append(
            f"{rows}x{along}/{stages}/{warps}: {took * 1000:.1f} us {outputs * inputs * 2 / took / 1e9:.2f}"
        )
    say("    own (rows x along/stages/warps: us, TB/s): " + "; ".join(line))


def profile(self) -> None:
    from torch.profiler import ProfilerActivity, profile

    for name, runner in (("bare", self.bare), ("slot", self.slots)):
        tokens = next_tokens(runner.prefill([0], prompts_of(1, SHORT)))
        for _ in range(3):
            runner.decode([0], tokens)
        with profile(activities=[ProfilerActivity.CUDA]) as found:
            for _ in range(10):
                runner.decode([0], tokens)
            wait()
        say(f"kernels of 10 tokens, {name}:")
        events = sorted(found.key_averages(), key=lambda event: -event.self_device_time_total)
        for event in events[:14]:
            each, count = event.self_device_time_total / max(1, event.count), event.count // 10
            token = event.self_device_time_total / 10
            say(f"  {token:8.1f} us a token, {count:4d} x {each:6.2f} us  {event.key[:80]}")
        total = sum(event.self_device_time_total for event in events) / 10
        say(f"  {total:8.1f} us a token in kernels")
