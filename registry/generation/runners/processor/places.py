"""Where an adapter's tensors lie in an entry of the processor's pool.

An entry is a flat vector, block after block. Of every linear map of a block (modules of one input are one map) first
the A of its adapted modules, one after the other ``[modules * r, in]``, then each one's B, turned to ``[r, out]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from registry.base_model.blocks import Block, Blocks, Linear
from registry.errors import BaseModelError
from registry.store.layout import AdapterLayout, TensorSpec


@dataclass(frozen=True, slots=True)
class Product:
    """The B of one module: at ``at`` of an entry, for ``width`` columns from ``column`` on of its map's output.

    In the products with A its numbers come behind the first ``skip``.
    """

    at: int
    column: int
    width: int
    skip: int


@dataclass(frozen=True, slots=True)
class Adapted:
    """The adapters of one linear map: A ``[rows, in]`` at ``at`` of an entry, and the B of its modules."""

    at: int
    rows: int
    products: tuple[Product, ...]

    def product(self, column: int) -> Product | None:
        """Return the B of the module whose output begins at ``column``, if it is adapted."""
        return next((product for product in self.products if product.column == column), None)


@dataclass(frozen=True, slots=True)
class AdaptedBlock:
    """The adapters of one block; None where a map has none."""

    qkv: Adapted | None = None
    output: Adapted | None = None
    gate_up: Adapted | None = None
    down: Adapted | None = None


@dataclass(frozen=True)
class Places:
    """All adapters of a layout: ``tensors`` says how a body becomes an entry (see ``loops.unfold``)."""

    blocks: tuple[AdaptedBlock, ...]
    tensors: npt.NDArray[np.int64]
    elements: int
    most_rows: int

    @classmethod
    def of(cls, blocks: Blocks, layout: AdapterLayout | None) -> Places:
        """Lay out the adapters of ``layout``; None has none.

        Raises:
            BaseModelError: the model lacks a module of the layout, or it has another shape.
        """
        if layout is None:
            return cls(tuple(AdaptedBlock() for _ in blocks.blocks), np.zeros((0, 5), np.int64), 0, 0)
        writer = _Writer(layout.modules, layout.rank)
        adapted = tuple(writer.block(block) for block in blocks.blocks)
        writer.require_all()
        return cls(adapted, np.array(writer.tensors, np.int64).reshape(-1, 5), writer.at, writer.most_rows)


class _Writer:
    def __init__(self, modules: Mapping[str, tuple[TensorSpec, TensorSpec]], rank: int) -> None:
        self._modules, self._rank = dict(modules), rank
        self.at = self.most_rows = 0
        self.tensors: list[tuple[int, int, int, int, int]] = []

    def require_all(self) -> None:
        if self._modules:
            raise BaseModelError(f"the base model has no module {min(self._modules)}, which the adapters are for")

    def block(self, block: Block) -> AdaptedBlock:
        return AdaptedBlock(*(self._linear(one) for one in (block.qkv, block.output, block.gate_up, block.down)))

    def _linear(self, linear: Linear) -> Adapted | None:
        columns = np.cumsum((0, *linear.outs)).tolist()
        own = [
            (*self._specs(path, out, linear.weight.shape[1]), column, out)
            for path, column, out in zip(linear.paths, columns, linear.outs, strict=False)
            if path in self._modules
        ]
        if not own:
            return None
        start = self.at
        for a, *_ in own:
            self._add(a, is_turned=False)
        products = []
        for number, (_, b, column, out) in enumerate(own):
            products.append(Product(self.at, column, out, number * self._rank))
            self._add(b, is_turned=True)
        self.most_rows = max(self.most_rows, len(own) * self._rank)
        return Adapted(start, len(own) * self._rank, tuple(products))

    def _specs(self, path: str, out: int, inputs: int) -> tuple[TensorSpec, TensorSpec]:
        a, b = self._modules.pop(path)
        if (b.shape[0], a.shape[1]) != (out, inputs):
            raise BaseModelError(f"module {path} of the base model has the shape {[out, inputs]}, not the adapters'")
        return a, b

    def _add(self, tensor: TensorSpec, *, is_turned: bool) -> None:
        self.tensors.append((tensor.offset_elements, self.at, *tensor.shape, is_turned))
        self.at += tensor.elements
