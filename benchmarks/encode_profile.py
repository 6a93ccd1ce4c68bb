"""Where the encoder's time goes: one group on one thread, every operation between two clock readings.

python -m benchmarks.encode_profile --documents D.jsonl --augmentations A.jsonl [--count 8] [--preset paper]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.encode import ROOT, read_inputs
from benchmarks.machine import header
from registry.base_model import linear_shapes, load, locate
from registry.encoding.kernels import compiled
from registry.encoding.train import encode_group
from registry.kernels import loops
from registry.recipe import preset
from registry.store.layout import AdapterLayout

PARTS = {
    "norms and residual sums": ("rms_norm", "add_rms_norm", "rms_norm_backward"),
    "activation, and the adapters beside it": ("swiglu", "swiglu_backward"),
    "the adapters' other products": ("low_product", "add_product", "product_backward", "low_backward"),
    "attention: rotation and layout": ("spread", "spread_slope", "collect", "collect_slopes"),
    "attention: softmax": ("softmax", "softmax_backward"),
    "cross-entropy": ("cross_entropy",),
    "optimiser": ("adamw",),
}
HEAD_ROWS = 16384
"""A matrix with a side of at least so many is the head."""


class Clock:
    """Seconds by part."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()

    def wrap(self, holder: Any, name: str, part: Callable[..., str]) -> None:
        """Time the function ``name`` of ``holder``."""
        function = getattr(holder, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            result = function(*arguments, **named)
            self.spent[part(*arguments)] += time.perf_counter() - started
            return result

        setattr(holder, name, timed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--models", type=Path, default=ROOT / ".demo" / "models")
    parser.add_argument("--documents", type=Path, required=True)
    parser.add_argument("--augmentations", type=Path, required=True)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--dtype", default="auto")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    loaded = load(locate(arguments.model, models_path=arguments.models), device="cpu", dtype=arguments.dtype)
    recipe = replace(preset(arguments.preset), dtype=loaded.dtype)
    if recipe.first_layer < 0:
        recipe = replace(recipe, first_layer=loaded.model.config.num_hidden_layers // 2)
    shapes = linear_shapes(loaded.model, recipe.targets, recipe.first_layer)
    layout = AdapterLayout.of(shapes, recipe.rank, recipe.adapter_dtype)
    inputs = read_inputs(arguments.documents, arguments.augmentations, arguments.count)
    encode_group(loaded, recipe, layout, inputs)
    clock = Clock()
    for part, names in PARTS.items():
        for name in names:
            clock.wrap(compiled if hasattr(compiled, name) else loops, name, lambda *_, part=part: part)
    clock.wrap(
        torch, "mm", lambda a, b: "products: head" if max(*a.shape, *b.shape) >= HEAD_ROWS else "products: blocks"
    )
    clock.wrap(torch, "bmm", lambda *_: "attention: products")
    started = time.perf_counter()
    done = encode_group(loaded, recipe, layout, inputs)
    elapsed = time.perf_counter() - started
    clock.spent["Python, dispatch and the rest"] = elapsed - sum(clock.spent.values())
    tokens = sum(adapter.training.tokens for adapter in done)
    print(header("numba"))
    print(
        f"\npreset {arguments.preset}, {loaded.dtype}, {len(inputs)} documents, {tokens} trained tokens, one thread\n"
    )
    print("| part | seconds | share |\n|---|---|---|")
    for part, seconds in clock.spent.most_common():
        print(f"| {part} | {seconds:.2f} | {seconds / elapsed:.0%} |")
    print(f"| all | {elapsed:.2f} | 100% |")


if __name__ == "__main__":
    main()
