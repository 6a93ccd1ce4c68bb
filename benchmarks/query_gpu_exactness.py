"""Logits and tokens of the runner for CUDA against transformers and PEFT; rows alone against rows in a batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import invented
from benchmarks.query_gpu_tools import (
    ALL,
    DEVICE,
    FACTORS,
    MLP,
    SCALE,
    TOKENS,
    answers,
    bodies_of,
    layout_of,
    next_tokens,
    prompts_of,
    say,
    write_adapters,
)
from registry.generation.runners.cuda import CudaRunner

EXACT = (
    ("smollm2-135m", "float32", MLP),
    ("smollm2-135m", "float32", ALL),
    ("smollm2-135m", "bfloat16", ALL),
    ("llama-3.2-1b", "bfloat16", MLP),
)
SMALL = (("tiny", "float32", ALL), ("tiny", "bfloat16", MLP))


def exactness(shape: str, dtype: str, targets: Sequence[str], folder: Path) -> None:
    """Compare logits and tokens with transformers and PEFT, row by row, all rows in one batch here."""
    from peft import PeftModel

    loaded = invented.random_model(shape, dtype, DEVICE)
    # Larger weights than a fresh model's, so that tokens depend on all of it.
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(1.6)
    layout = layout_of(loaded, targets, "float32")
    bodies = bodies_of(layout, 6, 0.03)
    runner = CudaRunner(loaded, layout, SCALE, rows=8, context=1024, entries=8, most_terms=4)
    bare = CudaRunner(loaded, None, 1.0, rows=8, context=1024, entries=8, most_terms=4)
    for entry, body in enumerate(bodies):
        runner.put(entry, body)
    sums = [(0, 1, 2), (), (3, 4, 5), (2, 0, 4), (5,), (), (1, 3), (4, 2, 1)]
    lengths = [30, 7, 300, 17, 1, 90, 270, 64]
    prompts = [prompts_of(1, length)[0] for length in lengths]
    rows = list(range(8))
    for row, own in zip(rows, sums, strict=True):
        runner.inject(row, own, FACTORS[: len(own)])
    kept, found = [runner.prefill(rows, prompts).clone()], []
    for step in range(TOKENS):
        found.append(next_tokens(kept[-1]))
        if step + 1 < TOKENS:
            kept.append(runner.decode(rows, found[-1]).clone())
    tokens = [[step[row] for step in found] for row in rows]
    again = answers(runner, rows, prompts, TOKENS)
    same_again = sum(a == b for a, b in zip(again, tokens, strict=True))
    alone = sum(answers(runner, [row], [prompts[row]], TOKENS)[0] == tokens[row] for row in rows)
    apart = 0.0
    for row in (1, 5):  # rows without adapters
        texts = [prompts[row]]
        runner.inject(7, (), ())
        pairs = [
            (runner.prefill([7], texts), bare.prefill([7], texts)),
            (runner.decode([7], [5]), bare.decode([7], [5])),
        ]
        apart = max(apart, *(float((own - other).norm() / other.norm()) for own, other in pairs))
    paths = write_adapters(layout, bodies, folder)
    model: Any = PeftModel.from_pretrained(loaded.model, paths[0], adapter_name="a0")
    for number, path in enumerate(paths[1:], 1):
        model.load_adapter(path, adapter_name=f"a{number}")
    worst, agreed, total = 0.0, 0, 0
    for row, own in zip(rows, sums, strict=True):
        ids = torch.tensor([prompts[row] + tokens[row][:-1]], device=DEVICE)
        with torch.no_grad():
            if own:
                model.add_weighted_adapter(
                    [f"a{entry}" for entry in own], list(FACTORS[: len(own)]), f"row{row}", combination_type="cat"
                )
                model.set_adapter(f"row{row}")
                logits = model(input_ids=ids, use_cache=False).logits[0, -TOKENS:].float()
            else:
                with model.disable_adapter():
                    logits = model(input_ids=ids, use_cache=False).logits[0, -TOKENS:].float()
        own_logits = torch.stack([step[row] for step in kept])
        error = float((own_logits - logits).norm() / logits.norm())
        worst = max(worst, error)
        agreed += int((own_logits.argmax(-1) == logits.argmax(-1)).sum())
        total += TOKENS
        del logits
    model.unload()
    say(
        f"{shape} {dtype}, {len(targets)} targets: logits differ by {worst:.2g} of their norm at most; greedy tokens "
        f"agree in {agreed} of {total}; the same answers from recorded passes {same_again} of 8, alone {alone} of 8; "
        f"a row without adapters differs from a runner without by {apart:.2g} of the norm at most"
    )
