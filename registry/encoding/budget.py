"""How many documents are trained at once: as many as fill a pass through the model, within the memory there is.

The number decides the groups, and with them the last bits of every adapter. So it follows from the model, the recipe,
the corpus and the kind of machine alone, and only by powers of two; what is free at the moment decides nothing here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from registry.base_model import ModelFiles
from registry.base_model.hub import weight_files
from registry.encoding.examples import Example
from registry.recipe import Recipe
from registry.store.layout import AdapterLayout

PROCESS_BYTES = 600_000_000
"""A process that has imported torch and transformers, and what the allocator keeps of freed memory."""
HIDDEN_COPIES, INTERMEDIATE_COPIES, SCORE_COPIES = 10, 3, 3
"""What a block keeps of a token for the backward pass: vectors of its hidden and of its feed-forward size, and
attention scores (of every head, with each token of its example)."""
LONGEST_SCORED = 1024
"""Of longer examples the scores are not kept but computed again."""
LOGITS_BYTES = 200_000_000
"""The chunk of logits that exists at one time, and the hidden states beside it."""
STACK_COPIES = 4
"""Of an adapter's elements in float32: parameters, gradients and the optimiser's two states."""
STEP_COPIES = 4
"""Of an adapter's elements in float32: what a step of the optimiser needs for a moment, then its bytes going out."""
MACHINE_SHARE = 0.8
"""Of a machine's memory, how much a build may plan with when it is not told."""
DEVICE_SHARE = 0.85
"""Of a CUDA device's memory, how much the model, the adapters and a pass may take: passes are cut to what fits."""
MOST_DOCUMENTS = 512


@dataclass(frozen=True, slots=True)
class ModelSize:
    """A causal LM by its configuration: ``heads`` of attention a block, ``parameters`` in all, and bytes on disk."""

    parameters: int
    file_bytes: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    vocabulary: int


@dataclass(frozen=True, slots=True)
class Workload:
    """What training a document of a corpus is made of, in tokens.

    ``step`` is the mean of an optimiser step of one document, ``longest`` the longest example, ``beside`` the mean
    length of the example that a token is part of, ``document`` the most that one document's examples have together.
    """

    step: float
    longest: int
    beside: float
    document: int


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes of memory of one worker: for itself and the model (``fixed``), and for every document of a group."""

    fixed: int
    document: int

    def of(self, documents: int) -> int:
        """Return the bytes with so many documents trained at once."""
        return self.fixed + documents * self.document

    def fitting(self, memory_bytes: float) -> int:
        """Return how many documents, a power of two, fit into so many bytes; 0 if not one does."""
        return _power_of_two((memory_bytes - self.fixed) / self.document)


def model_size(files: ModelFiles, parameters: int) -> ModelSize:
    """Return the sizes that a model's config.json names; what it does not name is guessed from above."""
    config = json.loads((files.folder / "config.json").read_text(encoding="utf-8"))
    own: dict[str, Any] = config.get("text_config", config)

    def number(*names: str, default: int) -> int:
        return next((int(own[name]) for name in names if own.get(name)), default)

    hidden = number("hidden_size", "n_embd", default=4096)
    return ModelSize(
        parameters=parameters,
        file_bytes=sum(path.stat().st_size for path in weight_files(files.folder)),
        layers=number("num_hidden_layers", "n_layer", default=32),
        hidden=hidden,
        intermediate=number("intermediate_size", "n_inner", default=4 * hidden),
        heads=number("num_attention_heads", "n_head", default=max(1, hidden // 64)),
        vocabulary=number("vocab_size", default=32_000),
    )


def workload(recipe: Recipe, examples: Sequence[Sequence[Example]]) -> Workload:
    """Return the workload of a corpus by the examples of some of its documents."""
    counts = [[len(example.ids) for example in own] for own in examples]
    steps = [sum(own) / len(own) * min(recipe.examples_per_step, len(own)) for own in counts]
    lengths = [count for own in counts for count in own]
    return Workload(
        step=sum(steps) / len(steps),
        longest=max(lengths),
        beside=sum(length * min(length, LONGEST_SCORED) for length in lengths) / sum(lengths),
        document=max(map(sum, counts)),
    )


def needs(
    size: ModelSize, recipe: Recipe, layout: AdapterLayout, load: Workload, device: str, pass_tokens: int
) -> Needs:
    """Return how much memory of ``device`` a worker needs at most. ``recipe`` is complete."""
    number_bytes = 2 if recipe.dtype == "bfloat16" else 4
    weights = number_bytes * size.parameters
    if not device.startswith("cuda") and size.file_bytes > 1.1 * weights:
        weights += size.file_bytes  # read in other numbers, it is in memory twice while it is loaded
    scores = 0.0 if device.startswith("cuda") else SCORE_COPIES * size.heads * load.beside
    token = HIDDEN_COPIES * size.hidden + INTERMEDIATE_COPIES * size.intermediate + scores
    # Of the blocks below the first adapter nothing is kept; what one of them needs for a moment is the one more.
    kept = max(pass_tokens, load.longest) * token * (max(0, size.layers - recipe.first_layer) + 1)
    fixed = PROCESS_BYTES + weights + number_bytes * kept + LOGITS_BYTES
    lower = number_bytes * size.hidden * load.document if recipe.first_layer else 0
    return Needs(fixed=int(fixed), document=4 * (STACK_COPIES + STEP_COPIES) * layout.elements + lower)


def filling(load: Workload, pass_tokens: int) -> int:
    """Return how many documents, a power of two, a step of which goes through the model in one pass."""
    return min(MOST_DOCUMENTS, max(1, _power_of_two(pass_tokens / load.step)))


def machine_bytes(device: str) -> int:
    """Return how much memory a build may plan with: a share of the device's, or of what its container is given."""
    if device.startswith("cuda"):
        import torch

        return int(MACHINE_SHARE * torch.cuda.get_device_properties(device).total_memory)
    return int(MACHINE_SHARE * min(psutil.virtual_memory().total, _container_bytes()))


def free_bytes(device: str) -> int:
    """Return how much of the device's memory is free now."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _container_bytes() -> float:
    try:
        return float(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no container, or "max"
        return float("inf")


def _power_of_two(number: float) -> int:
    """Return the largest power of two up to ``number``, 0 if that is below 1."""
    return 1 << int(number).bit_length() - 1 if number >= 1 else 0
