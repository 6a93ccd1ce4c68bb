"""Attention over packed rows, each within itself.

Registered with transformers as an attention function of its own, so every architecture that goes through its interface
computes by it, with its own projections, norms and rotations.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

from registry.encoding.packing import Bucket, Packing

NAME = "pragreg_packed"
LONGEST_PLAIN = 512
"""Longer rows, and everything on an accelerator, go through PyTorch's fused attention: a plain product keeps the scores
``[heads, longest, longest]`` of every row."""


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return what every token attends to in its own row, up to itself.

    Args:
        module: the attention module; unused but for the interface.
        query: ``[1, heads, tokens, width]``.
        key: ``[1, key heads, tokens, width]``; each is shared by heads / key heads queries.
        value: like ``key``.
        attention_mask: must be None: rows are causal.
        packing: where the rows lie.
        scaling: of the scores; 1 / sqrt(width) if None.
        softcap: scores are cap * tanh(score / cap) (Gemma 2).
        sliding_window: how many tokens, itself included, a token sees; None for all.

    Returns:
        ``[1, tokens, heads, width]`` and None for the weights.
    """
    if attention_mask is not None:
        raise ValueError("packed rows take no attention mask")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    flat = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    found: list[Tensor] = []
    for bucket in packing.buckets:
        window = sliding_window if sliding_window is not None and sliding_window < bucket.longest else None
        q, k, v = (_spread(tensor, bucket) for tensor in flat)
        if window is None and softcap is None and (q.device.type != "cpu" or bucket.longest > LONGEST_PLAIN):
            out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
        else:
            out = _plain(q, k, v, scale, softcap, window)
        found.append(out.transpose(1, 2).flatten(0, 1).index_select(0, bucket.padded))
    return torch.cat(found).index_select(0, packing.order)[None], None


@contextmanager
def packed(model: Any) -> Iterator[None]:
    """Let ``model`` attend over packed rows for the time of the block; it then needs ``packing`` at every call."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _spread(tensor: Tensor, bucket: Bucket) -> Tensor:
    """Return ``[rows, heads, longest, width]``, zero where there is padding, of ``[tokens, heads, width]``."""
    heads, width = tensor.shape[1:]
    empty = tensor.new_zeros(bucket.rows * bucket.longest, heads, width)
    padded = empty.index_copy(0, bucket.padded, tensor.index_select(0, bucket.places))
    return padded.view(bucket.rows, bucket.longest, heads, width).transpose(1, 2)


def _plain(q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float | None, window: int | None) -> Tensor:
    """Return softmax(q k^T scale) v by plain products, queries that share a key as one matrix.

    On a CPU this takes less time than PyTorch's fused attention, whose backward pass is slow there.
    """
    rows, heads, longest, width = q.shape
    shared = heads // k.shape[1]
    grouped = (q * scale).reshape(rows * k.shape[1], shared * longest, width)
    keys, values = k.reshape(-1, longest, width), v.reshape(-1, longest, v.shape[-1])
    scores = torch.bmm(grouped, keys.transpose(1, 2))
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.view(-1, shared, longest, longest) + _hidden(longest, window, q)
    weights = torch.softmax(scores, dim=-1).view(-1, shared * longest, longest)
    return torch.bmm(weights, values).view(rows, heads, longest, v.shape[-1])


def _hidden(longest: int, window: int | None, like: Tensor) -> Tensor:
    """Return ``[longest, longest]``: 0 for what a token sees, -inf for what follows it or lies outside its window."""
    everything = torch.full((longest, longest), float("-inf"), dtype=like.dtype, device=like.device)
    later = everything.triu(1)
    return later if window is None else later + everything.tril(-window)


AttentionInterface.register(NAME, packed_attention)
