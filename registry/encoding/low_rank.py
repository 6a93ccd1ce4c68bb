"""Low-rank products of many adapters as matrix products: for GPUs, and for blocks that transformers runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from registry.encoding.packing import Block, Packing
from registry.encoding.stack import Adapted


@dataclass(frozen=True, slots=True)
class LowRankPass:
    """What the backward pass needs: for every block its A, its B and the masked products with A."""

    blocks: Sequence[Block]
    products: Sequence[tuple[Tensor, Tensor, Tensor]]


class MaskedLowRank:
    """scale * B A x for every token's own A and B, of linear modules that share their input.

    The A of all members and modules are one matrix ``[modules * members * r, in]``, and so are their B, each in its
    module's columns of ``[modules * members * r, sum of outs]``: a token's product with another member's A is masked
    away. That is two large products instead of many small ones, and no copy of A and B for every row.
    """

    def __init__(self, modules: Sequence[Adapted], outs: int, scale: float) -> None:
        """Take the adapters of modules that write to ``outs`` columns together."""
        self._modules, self._outs, self._scale = modules, outs, scale

    def forward(self, x: Tensor, y: Tensor, packing: Packing) -> LowRankPass:
        """Add the product for ``x`` ``[tokens, in]`` to ``y`` ``[tokens, outs]``."""
        products = []
        for block in packing.blocks:
            a, b = self._matrices(block, x.dtype)
            low = self._masked(x[block.tokens] @ a.T, block)
            y[block.tokens].addmm_(low, b, alpha=self._scale)
            products.append((a, b, low))
        return LowRankPass(packing.blocks, products)

    def backward(self, done: LowRankPass, x: Tensor, slope: Tensor, into: Tensor | None) -> None:
        """Add the gradients of A and B to the stack's, and that of ``x`` to ``into`` if it is given."""
        for block, (a, b, low) in zip(done.blocks, done.products, strict=True):
            own = slope[block.tokens]
            low_slope = self._masked(own @ b.T, block).mul_(self._scale)
            self._add_gradients(block, low_slope.T @ x[block.tokens], (low.T @ own).mul_(self._scale))
            if into is not None:
                into[block.tokens].addmm_(low_slope, a)

    def _matrices(self, block: Block, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        a = torch.cat([module.a[block.members].flatten(0, 1) for module in self._modules]).to(dtype)
        b = torch.zeros(len(a), self._outs, dtype=dtype, device=a.device)
        for part, module in zip(b.chunk(len(self._modules)), self._modules, strict=True):
            part[:, module.columns] = module.b[block.members].flatten(0, 1)
        return a, b

    def _masked(self, low: Tensor, block: Block) -> Tensor:
        """Zero what ``[tokens, modules * members * r]`` holds of other members than the token's own."""
        low.view(len(low), len(self._modules), block.own.shape[1], -1).mul_(block.own[:, None, :, None])
        return low

    def _add_gradients(self, block: Block, of_a: Tensor, of_b: Tensor) -> None:
        parts = zip(of_a.chunk(len(self._modules)), of_b.chunk(len(self._modules)), self._modules, strict=True)
        for own_a, own_b, module in parts:
            a, b = module.of_a[block.members], module.of_b[block.members]
            a += own_a.view(a.shape)
            b += own_b[:, module.columns].reshape(b.shape)
