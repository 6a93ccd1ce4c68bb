"""Batches with little padding: examples sorted by length and cut where the next would be padded too much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from registry.encoding.examples import Example

CPU_BATCH_TOKENS = 2048
CUDA_BATCH_TOKENS = 32768
"""Tokens (padding included) of one pass through the model."""
PADDING_SHARE = 0.1
"""A pass is closed rather than padded by more than this share of its tokens."""


def token_budget(device: str) -> int:
    """Return how many tokens one pass takes on ``device``."""
    return CPU_BATCH_TOKENS if device == "cpu" else CUDA_BATCH_TOKENS


def batch_indices(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield the indices of ``lengths`` in batches, longest first; a batch holds at most ``budget`` padded tokens.

    A single row longer than the budget is a batch of its own.
    """
    batch: list[int] = []
    used = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        longest = lengths[batch[0]] if batch else 0
        padded = longest * (len(batch) + 1)
        if batch and (padded > budget or padded - used - lengths[index] > PADDING_SHARE * used):
            yield batch
            batch, used = [], 0
        batch.append(index)
        used += lengths[index]
    if batch:
        yield batch


def padded_ids(examples: Sequence[Example]) -> Tensor:
    """Return ``[batch, longest]`` int64, padded on the right (a causal model then needs no mask)."""
    rows = [torch.tensor(example.ids) for example in examples]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
