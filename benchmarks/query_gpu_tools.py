"""What the parts of ``query_gpu`` share: sections, timing, random adapters and prompts."""

from __future__ import annotations

import gc
import json
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from registry.base_model import LoadedModel, linear_shapes
from registry.generation.runners.cuda import CudaRunner
from registry.store.layout import AdapterLayout

MLP = ("gate_proj", "up_proj", "down_proj")
ALL = (*MLP, "q_proj", "k_proj", "v_proj", "o_proj")
RANK, SCALE, HITS = 2, 16.0, 3
FACTORS = (0.8, 0.5, -0.3)
TOKENS = 32
SHORT, LONG = 30, 430
STARTED = time.perf_counter()
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""A run on a CPU only shows that nothing is broken."""


def say(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)


@contextmanager
def section(name: str) -> Iterator[None]:
    """Print why the block fails, if it does, and go on."""
    begun = time.perf_counter()
    say(f"\n## {name}")
    try:
        yield
    except Exception:
        traceback.print_exc()
        say("FAILED")
    wait()
    say(f"({time.perf_counter() - begun:.0f} s)")


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def clean() -> None:
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()


def ready(seconds: float) -> bool:
    return time.perf_counter() - STARTED < seconds


def layout_of(loaded: LoadedModel, targets: Sequence[str] = MLP, dtype: str = "bfloat16") -> AdapterLayout:
    return AdapterLayout.of(linear_shapes(loaded.model, targets), RANK, dtype)  # type: ignore[arg-type]


def bodies_of(layout: AdapterLayout, count: int, size: float) -> list[bytes]:
    made = []
    for seed in range(count):
        numbers = np.random.default_rng(seed).standard_normal(layout.elements, dtype=np.float32) * np.float32(size)
        bits = numbers if layout.dtype == "float32" else (numbers.view(np.uint32) >> 16).astype(np.uint16)
        made.append(bits.tobytes())
    return made


def write_adapters(layout: AdapterLayout, bodies: Sequence[bytes], folder: Path) -> list[Path]:
    """Write PEFT folders."""
    targets = sorted({path.rpartition(".")[2] for path in layout.modules})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": layout.rank,
        "lora_alpha": SCALE * layout.rank,
        "lora_dropout": 0.0,
        "target_modules": targets,
        "bias": "none",
        "inference_mode": True,
    }
    paths = []
    for number, body in enumerate(bodies):
        path = folder / f"adapter-{number}"
        path.mkdir()
        (path / "adapter_model.safetensors").write_bytes(layout.serialise(body))
        (path / "adapter_config.json").write_text(json.dumps(config))
        paths.append(path)
    return paths


def prompts_of(count: int, length: int) -> list[list[int]]:
    draw = np.random.default_rng(length)
    return [draw.integers(10, 4000, length).tolist() for _ in range(count)]


def next_tokens(logits: torch.Tensor) -> list[int]:
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    return tokens


def answers(runner: CudaRunner, rows: Sequence[int], prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    tokens = next_tokens(runner.prefill(rows, prompts))
    found = [[token] for token in tokens]
    for _ in range(count - 1):
        tokens = next_tokens(runner.decode(rows, tokens))
        for own, token in zip(found, tokens, strict=True):
            own.append(token)
    return found


def timed(work: Callable[[], Any], repeat: int, warm: int = 2) -> float:
    """Return the median milliseconds, the device's work included."""
    times = []
    for number in range(warm + repeat):
        wait()
        begun = time.perf_counter()
        work()
        wait()
        if number >= warm:
            times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1000


def recorded_ms(work: Callable[[], None]) -> float:
    """Return the milliseconds of work that is recorded as a graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        work()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin()
        work()
        graph.capture_end()
    wait()
    return timed(graph.replay, 20)
