"""The operations of a pass by the kernels in Triton; only this imports Triton."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from registry.generation.runners.cuda import attention_kernels, kernels
from registry.generation.runners.cuda.operations import ALONG, CHUNK, COLUMNS, TOGETHER, Attention, Pass
from registry.generation.runners.cuda.pool import Adapters, Low

TILE = 16384
"""Elements of a matrix that one program has in registers at once, about."""
KEYS_AT_ONCE = 64
FEW = 16
"""Products of up to so many tokens are a kernel's of ours: a token's result does not depend on the other tokens."""
AT_ONCE = 64
"""Columns of a block's tokens that are activated at once."""
ACTIVATE_WARPS = 2
WARP_WIDTH = 256
"""Elements of a token that a warp norms."""


def shape_of_few(outputs: int, inputs: int) -> tuple[int, int, int, int]:
    """Return rows, inputs at a time, stages and warps of a program of ``product_of_few``."""
    if outputs >= 8192:
        return 64, 128, 5, 4
    return (16, 256, 6, 2) if inputs >= 8192 else (16, 256, 4, 1)


def _power(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()


class CompiledOperations:
    """See ``Operations``."""

    def __init__(self, adapters: Adapters | None, like: Tensor, *, has_own_products: bool = True) -> None:
        """Take the adapters; without any no pass has some. ``like`` has the model's dtype and device."""
        self._adapters, self._has_own_products = adapters, has_own_products
        # Kernels take pointers also where they read nothing.
        self._nothing = like.new_zeros(16)
        self._pool = adapters.pool if adapters is not None else self._nothing
        self._no_sums = torch.zeros(16, dtype=torch.float32, device=like.device)
        self._no_numbers = torch.zeros(16, dtype=torch.int32, device=like.device)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
        outputs, inputs = weight.shape
        shape = {"OUTPUTS": outputs, "INPUTS": inputs, "HAS_BIAS": bias is not None}
        places = (x, weight, self._nothing if bias is None else bias, out)
        if self._has_own_products and len(x) <= FEW and x.dtype != torch.float32:
            rows, along, stages, warps = shape_of_few(outputs, inputs)
            kernels.product_of_few[(-(-outputs // rows),)](
                *places, len(x), **shape, ROWS=rows, ALONG=along, STAGES=stages, FEW=FEW, num_warps=warps
            )
        elif bias is None:
            torch.mm(x, weight.t(), out=out)
        else:
            torch.addmm(bias, x, weight.t(), out=out)

    def add_norm(
        self,
        given: Pass,
        x: Tensor,
        y: Tensor | None,
        source: Tensor | None,
        weight: Tensor,
        epsilon: float,
        summed: Tensor,
        normed: Tensor,
        added: Low | None,
        into: Low | None,
    ) -> None:
        count, hidden = normed.shape
        width = _power(hidden)
        rows = max(1, min(4, TILE // width))
        a_rows = into.site.modules * self._rank if into is not None else 1
        programs = 1 + (self._terms * -(-a_rows // rows) if into is not None else 0)
        kernels.add_norm[(count, programs)](
            x,
            self._nothing if y is None else y,
            self._no_numbers if source is None else source,
            given.lanes,
            weight,
            summed,
            normed,
            self._pool,
            given.slots,
            given.factors,
            *self._added(added),
            self._no_sums if into is None else into.sums,
            0 if into is None else into.site.a_offset,
            epsilon,
            HIDDEN=hidden,
            H=width,
            HAS_Y=y is not None,
            HAS_SOURCE=source is not None,
            HAS_ADDED=added is not None,
            **_splits(added),
            HAS_INTO=into is not None,
            HAS_LANES=given.starts is not None,
            A_ROWS=a_rows,
            ROWS=rows,
            **self._sizes(width),
            num_warps=max(4, min(16, width // WARP_WIDTH)),
        )

    def attend(self, given: Pass, qkv: Tensor, attention: Attention, added: Low | None, attended: Tensor) -> None:
        partial, extremes = self._no_sums, self._no_sums
        if given.chunks > 1:
            assert given.partial is not None
            heads = given.tokens * attention.queries * given.chunks
            partial = given.partial[: heads * attention.width]
            extremes = given.partial[heads * attention.width : heads * (attention.width + 2)]
        sizes = _head_sizes(attention, least=16)
        attention_kernels.attend[(given.tokens, attention.keys, given.chunks)](
            qkv,
            *self._places(given, attention),
            attended,
            partial,
            extremes,
            self._pool,
            given.slots,
            given.factors,
            *self._added(added),
            attention.width**-0.5,
            CHUNK=CHUNK,
            CHUNKS=given.chunks,
            BLOCK=KEYS_AT_ONCE,
            HAS_NORM=attention.query_norm is not None,
            HAS_ADDED=added is not None,
            **_splits(added),
            **sizes,
            **self._sizes(sizes["G"] * sizes["WP"]),
            num_warps=4,
        )
        if given.chunks > 1:
            attention_kernels.combine[(given.tokens * attention.queries,)](
                partial,
                extremes,
                attended,
                CHUNKS=given.chunks,
                C=_power(given.chunks),
                W=sizes["W"],
                WP=sizes["WP"],
                num_warps=2,
            )

    def rotate(self, given: Pass, qkv: Tensor, attention: Attention, added: Low | None, rotated: Tensor) -> None:
        sizes = _head_sizes(attention, least=1)
        attention_kernels.rotate[(given.tokens, attention.keys)](
            qkv,
            *self._places(given, attention),
            rotated,
            given.lanes,
            self._pool,
            given.slots,
            given.factors,
            *self._added(added),
            HAS_NORM=attention.query_norm is not None,
            HAS_ADDED=added is not None,
            **_splits(added),
            **sizes,
            **self._sizes(sizes["G"] * sizes["WP"]),
            num_warps=2,
        )

    def attend_prompts(self, given: Pass, rotated: Tensor, attention: Attention, attended: Tensor) -> None:
        assert given.starts is not None
        width = max(16, _power(attention.width))
        attention_kernels.attend_prompts[(len(given.blocks), attention.queries)](
            rotated,
            given.blocks,
            given.starts,
            attended,
            attention.width**-0.5,
            QUERIES=attention.queries,
            KEYS=attention.keys,
            W=attention.width,
            WP=width,
            TOGETHER=TOGETHER,
            BLOCK=KEYS_AT_ONCE,
            num_warps=4,
        )

    def low(self, given: Pass, x: Tensor, into: Low) -> None:
        width = into.sums.shape[2]
        padded = max(16, _power(width))
        kernels.low[(len(given.blocks), into.sums.shape[1])](
            x,
            given.blocks,
            self._pool,
            given.slots,
            into.sums,
            into.site.a_offset,
            INPUTS=into.site.inputs,
            ALONG=ALONG,
            SPLITS=into.sums.shape[1],
            P=width,
            PD=padded,
            STEP=64,
            TOGETHER=TOGETHER,
            ELEMENTS=self._pool.shape[1],
            TERMS=self._terms,
            RANK=self._rank,
            num_warps=4,
        )

    def activate(self, given: Pass, gate_up: Tensor, added: Low | None, act: Tensor, into: Low | None) -> None:
        parts = -(-act.shape[1] // COLUMNS)
        pool = (
            self._pool,
            given.slots,
            given.factors,
            *self._added(added),
            self._no_sums if into is None else into.sums,
            0 if into is None else into.site.a_offset,
        )
        shape = {"WIDTH": act.shape[1], "COLUMNS": COLUMNS, "PARTS": parts}
        has = {"HAS_ADDED": added is not None, "HAS_INTO": into is not None}
        sizes = self._sizes(COLUMNS)
        if given.starts is None:
            kernels.activate[(given.tokens, parts)](
                gate_up, act, *pool, **shape, **has, **_splits(added), **sizes, num_warps=ACTIVATE_WARPS
            )
            return
        padded = max(16, sizes.pop("Q"))
        sizes.pop("STEP")
        splits = added.sums.shape[1] if added is not None else 1
        kernels.activate_blocks[(len(given.blocks), parts)](
            gate_up,
            given.blocks,
            act,
            *pool,
            **shape,
            **has,
            SPLITS=splits,
            TOGETHER=TOGETHER,
            AT_ONCE=AT_ONCE,
            QD=padded,
            **sizes,
            num_warps=4,
        )

    def gather(self, body: Tensor, index: Tensor, entry: Tensor) -> None:
        size = 1024
        kernels.gather[(-(-len(index) // size),)](body, index, entry, len(index), SIZE=size, num_warps=4)

    @property
    def _rank(self) -> int:
        return self._adapters.rank if self._adapters is not None else 1

    @property
    def _terms(self) -> int:
        return self._adapters.terms if self._adapters is not None else 1

    def _sizes(self, width: int) -> dict[str, int]:
        """Return the constants of ``added_to`` for so many outputs."""
        elements = self._pool.shape[1] if self._adapters is not None else 0
        ranks = _power(self._terms * self._rank)
        step = max(1, min(ranks, 2 * TILE // width))
        return {"ELEMENTS": elements, "TERMS": self._terms, "RANK": self._rank, "Q": ranks, "STEP": step}

    def _added(self, added: Low | None) -> tuple[Tensor, int]:
        return (self._no_sums, 0) if added is None else (added.sums, added.site.b_offset)

    def _places(self, given: Pass, attention: Attention) -> tuple[Any, ...]:
        return (
            given.positions,
            given.rows,
            attention.cosine,
            attention.sine,
            self._nothing if attention.query_norm is None else attention.query_norm,
            self._nothing if attention.key_norm is None else attention.key_norm,
            attention.epsilon,
            attention.cached_keys,
            attention.cached_values,
        )


def _splits(added: Low | None) -> dict[str, int]:
    splits = 1 if added is None else added.sums.shape[1]
    return {"SPLITS": splits, "S": _power(splits)}


def _head_sizes(attention: Attention, *, least: int) -> dict[str, int]:
    group = attention.queries // attention.keys
    return {
        "CONTEXT": attention.cached_keys.shape[2],
        "QUERIES": attention.queries,
        "KEYS": attention.keys,
        "GROUP": group,
        "G": max(least, _power(group)),  # a product on the matrix units has 16 rows at least
        "W": attention.width,
        "WP": max(16, _power(attention.width)),
    }
