"""One pass of tokens through the blocks: products by oneDNN, and the loops between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from registry.base_model.blocks import Blocks
from registry.generation.runners.processor import loops
from registry.generation.runners.processor.arrays import as_array, as_tensor
from registry.generation.runners.processor.packed import filled_up
from registry.generation.runners.processor.places import Adapted, AdaptedBlock, Places
from registry.generation.runners.processor.weights import PackedBlock
from registry.kernels.loops import F, add_rms_norm, rms_norm
from registry.kernels.vectors import WIDTH

FUSED_TOKENS = 64
"""For prompts of at least so many tokens PyTorch's fused attention is quicker than the loop."""


@dataclass(frozen=True, slots=True)
class State:
    """What a runner holds from pass to pass, as arrays.

    ``pool`` ``[entries, elements]``; ``slots`` and ``factors`` ``[rows, terms]``, of which a row's first ``counts`` are
    used; ``keys`` and ``values`` as ``loops.remember`` writes them, for every block; ``cosine`` and ``sine``
    ``[context, width / 2]``; ``norms`` are the weights of every block's two.
    """

    blocks: Blocks
    dtype: torch.dtype
    pool: Any
    slots: Any
    factors: Any
    counts: Any
    keys: Any
    values: Any
    cosine: Any
    sine: Any
    norms: Sequence[tuple[Any, Any]]


class Step:
    """One pass of some tokens through the blocks."""

    def __init__(
        self, state: State, places: Places, owners: Any, positions: Any, lengths: Sequence[int] | None
    ) -> None:
        """Take the row and the position of every token, int64; ``lengths`` are those of new prompts, None goes on."""
        self._state, self._owners, self._positions, self._lengths = state, owners, positions, lengths
        blocks, tokens, terms = state.blocks, len(owners), int(state.counts[owners].max())
        hidden = blocks.embedding.shape[1]
        self._epsilon, self._terms = F(blocks.epsilon), terms
        self._tokens = tokens
        self._normed, self._normed_bits = self._input(hidden)
        self._inverse = np.empty(tokens, np.float32)
        self._queries = np.empty((tokens, blocks.queries * blocks.width), np.float32)
        self._attended, self._attended_bits = self._input(blocks.queries * blocks.width)
        self._activated, self._activated_bits = self._input(blocks.blocks[0].down.weight.shape[1])
        self._low = np.empty((tokens, max(1, terms * places.most_rows)), np.float32)
        self._slot = (state.pool, state.slots, state.factors, state.counts)

    def _input(self, width: int) -> tuple[Tensor, Any]:
        """Return room for the rows of a product, filled up, and the array of those that are tokens."""
        rows = torch.empty(filled_up(self._tokens), width, dtype=self._state.dtype)
        rows[self._tokens :] = 0
        return rows, as_array(rows)[: self._tokens]

    def block(self, x: Any, more: Tensor | None, number: int, packed: PackedBlock, adapted: AdaptedBlock) -> Tensor:
        """Add what the block makes of ``x`` + ``more`` to ``x``, but for the last part, which is returned."""
        norm, second_norm = self._state.norms[number]
        self._norm(x, more, norm)
        qkv = packed.qkv(self._normed)[: self._tokens]
        if self._terms and adapted.qkv is not None:
            self._low_products(self._normed_bits, adapted.qkv)
            self._add_products(as_array(qkv), adapted.qkv)
        self._attend(qkv, number, packed)
        output = packed.output(self._attended)[: self._tokens]
        if self._terms and adapted.output is not None:
            self._low_products(self._attended_bits, adapted.output)
            self._add_products(x, adapted.output)
        self._norm(x, output, second_norm)
        gate_up = packed.gate_up(self._normed)[: self._tokens]
        self._feed(gate_up, adapted.gate_up)
        down = packed.down(self._activated)[: self._tokens]
        if self._terms and adapted.down is not None:
            self._low_products(self._activated_bits, adapted.down)
            self._add_products(x, adapted.down)
        return down

    def _norm(self, x: Any, more: Tensor | None, weight: Any) -> None:
        if more is None:
            rms_norm(x, weight, self._epsilon, self._normed_bits, self._inverse)
        else:
            add_rms_norm(x, as_array(more), weight, self._epsilon, x, self._normed_bits, self._inverse)

    def _attend(self, qkv: Tensor, number: int, packed: PackedBlock) -> None:
        state, blocks = self._state, self._state.blocks
        shape = (blocks.queries, blocks.keys, blocks.width)
        block = packed.block
        if block.query_norm is not None and block.key_norm is not None:
            _norm_heads(qkv, block.query_norm, block.key_norm, shape, self._epsilon)
        keys, values = state.keys[number], state.values[number]
        bits, scale = as_array(qkv), F(blocks.width**-0.5)
        angles = (state.cosine, state.sine)
        loops.remember(bits, self._owners, self._positions, *shape, scale, *angles, self._queries, keys, values)
        if self._lengths is None or max(self._lengths) < FUSED_TOKENS:
            loops.attend(self._queries, self._owners, self._positions, *shape, keys, values, self._attended_bits)
            return
        start = 0
        for length in self._lengths:
            part = slice(start, start + length)
            row = self._owners[start]
            self._attended[part] = self._attend_prompt(self._queries[part], keys[row], values[row])
            start += length

    def _attend_prompt(self, queries: Any, keys: Any, values: Any) -> Tensor:
        """Return what a prompt's tokens see of those before them ``[tokens, heads * width]``; ``keys`` are folded."""
        blocks, dtype, tokens = self._state.blocks, self._state.dtype, len(queries)
        folded = as_tensor(keys, dtype)[:, : (tokens + WIDTH - 1) // WIDTH]
        own = folded.transpose(2, 3).reshape(blocks.keys, -1, blocks.width)[:, :tokens]
        heads = torch.from_numpy(queries).to(dtype).view(tokens, blocks.queries, blocks.width).transpose(0, 1)
        found = torch.nn.functional.scaled_dot_product_attention(
            heads[None],
            own[None],
            as_tensor(values, dtype)[None, :, :tokens],
            is_causal=True,
            scale=1.0,
            enable_gqa=True,
        )
        return found[0].transpose(0, 1).reshape(tokens, -1)

    def _feed(self, gate_up: Tensor, adapted: Adapted | None) -> None:
        pool, slots, _, counts = self._slot
        gate = up = -1
        rows = rank = 0
        if self._terms and adapted is not None:
            self._low_products(self._normed_bits, adapted)
            first, second = adapted.product(0), adapted.product(self._activated.shape[1])
            gate, up = -1 if first is None else first.at, -1 if second is None else second.at
            rows, rank = adapted.rows, adapted.rows // len(adapted.products)
        else:
            counts = np.zeros_like(counts)
        loops.swiglu(
            as_array(gate_up), self._activated_bits, self._owners, pool, slots, counts, self._low, rows, gate, up, rank
        )

    def _low_products(self, x: Any, adapted: Adapted) -> None:
        loops.low_products(x, self._owners, *self._slot, adapted.at, adapted.rows, self._low)

    def _add_products(self, y: Any, adapted: Adapted) -> None:
        pool, slots, _, counts = self._slot
        rank = adapted.rows // len(adapted.products)
        for b in adapted.products:
            loops.add_products(
                y, self._owners, pool, slots, counts, self._low, adapted.rows, b.skip, b.at, rank, b.column, b.width
            )


def _norm_heads(qkv: Tensor, query_norm: Tensor, key_norm: Tensor, shape: tuple[int, int, int], epsilon: Any) -> None:
    """Norm queries and keys, head by head, in place (Qwen 3)."""
    queries, keys, width = shape
    heads = qkv.view(len(qkv), -1, width)
    for part, weight in ((heads[:, :queries], query_norm), (heads[:, queries : queries + keys], key_norm)):
        plain = part.reshape(-1, width)
        normed = torch.empty_like(plain)
        rms_norm(as_array(plain), as_array(weight), epsilon, as_array(normed), np.empty(len(plain), np.float32))
        part.copy_(normed.view(part.shape))
