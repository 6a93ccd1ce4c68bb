"""Attention over packed rows, each within itself.

Registered with transformers as an attention function of its own, so every architecture that goes through its interface
computes by it, with its own projections, norms and rotations.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

from registry.encoding.packing import Packing

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
    **unused: Any,
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
    heads, key_heads = query.shape[1], key.shape[1]
    gather, back = packing.by_head(heads)
    gather_keys, _ = packing.by_head(key_heads)
    q, k, v = (tensor[0].transpose(0, 1).reshape(-1, tensor.shape[-1]) for tensor in (query, key, value))
    found: list[Tensor] = []
    for bucket, own, own_keys in zip(packing.buckets, gather, gather_keys, strict=True):
        found.append(
            _attend(
                q.index_select(0, own).view(bucket.rows, heads, bucket.longest, -1),
                k.index_select(0, own_keys).view(bucket.rows, key_heads, bucket.longest, -1),
                v.index_select(0, own_keys).view(bucket.rows, key_heads, bucket.longest, -1),
                scale,
                softcap,
                sliding_window if sliding_window is not None and sliding_window < bucket.longest else None,
            ).reshape(-1, value.shape[-1])
        )
    return torch.cat(found).index_select(0, back).view(1, -1, heads, value.shape[-1]), None


@contextmanager
def packed(model: Any) -> Iterator[None]:
    """Let ``model`` attend over packed rows for the time of the block; it then needs ``packing`` at every call."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float | None, window: int | None) -> Tensor:
    """Return softmax(q k^T scale) v, each row within itself and up to itself: ``[rows, heads, longest, width]``.

    On a CPU by plain products, with the queries that share a key as one matrix: PyTorch's fused attention takes longer
    there, above all its backward pass.
    """
    rows, heads, longest, width = q.shape
    if window is None and softcap is None and (q.device.type != "cpu" or longest > LONGEST_PLAIN):
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
    shared = heads // k.shape[1]
    keys, values = k.flatten(0, 1), v.flatten(0, 1)
    scores = torch.bmm((q * scale).view(-1, shared * longest, width), keys.transpose(1, 2))
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.view(-1, shared, longest, longest) + _unseen(longest, window, q.dtype, q.device)
    weights = torch.softmax(scores, dim=-1).view(-1, shared * longest, longest)
    return torch.bmm(weights, values).view(rows, heads, longest, -1)


@lru_cache(maxsize=32)
def _unseen(longest: int, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return ``[longest, longest]``: 0 for what a token sees, -inf for what follows it or lies outside its window."""
    everything = torch.full((longest, longest), float("-inf"), dtype=dtype, device=device)
    later = everything.triu(1)
    return later if window is None else later + everything.tril(-window)


AttentionInterface.register(NAME, packed_attention)
