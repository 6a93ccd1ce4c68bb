"""Where adapters lie on the device: one row of a pool for each, in the order in which the kernels read them.

Linear modules that share an input share a *site*: their A lie one after the other as ``[modules * rank, in]``, their B
side by side as ``[rank, outs]``, so that what the outputs of one token gain is read along the outputs. Modules that the
adapters do not have are zeros in a site that has others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from registry.base_model.blocks import Block, Linear
from registry.errors import BaseModelError
from registry.store.layout import AdapterLayout, TensorSpec

ALIGNED = 16
"""Matrices begin at a multiple of so many elements, so that they can be read 16 bytes at a time."""
Indices = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Site:
    """Linear modules with one input in an entry: A ``[modules * rank, inputs]`` and B ``[rank, outputs]``."""

    a_offset: int
    b_offset: int
    modules: int
    inputs: int
    outputs: int


@dataclass(frozen=True, slots=True)
class BlockSites:
    """The sites of one block; None where the adapters have none of its modules."""

    qkv: Site | None = None
    output: Site | None = None
    gate_up: Site | None = None
    down: Site | None = None


@dataclass(frozen=True, slots=True)
class Low:
    """A x of a site for every token, ``[tokens, splits, modules * terms * rank]`` float32; the splits are to be summed.

    What belongs to terms that a token does not have is undefined.
    """

    site: Site
    sums: Tensor


class Arrangement:
    """Which element of a body goes where in an entry; ``elements`` is the length of one."""

    def __init__(self, blocks: Sequence[Block], layout: AdapterLayout) -> None:
        """Lay out the sites of all blocks.

        Raises:
            BaseModelError: the model lacks a module of the layout, or it has another shape.
        """
        self.rank, self.elements = layout.rank, 0
        self._modules = dict(layout.modules)
        self._parts: list[tuple[int, Indices]] = []
        self.sites = [
            BlockSites(*[self._site(linear) for linear in (block.qkv, block.output, block.gate_up, block.down)])
            for block in blocks
        ]
        if self._modules:
            raise BaseModelError(f"the base model has no module {min(self._modules)}, which the adapters are for")
        self.index = np.full(self.elements, -1, dtype=np.int32)
        """For every element of an entry the element of a body, -1 for a zero."""
        for start, part in self._parts:
            self.index[start : start + len(part)] = part
        self._parts.clear()

    def _site(self, linear: Linear) -> Site | None:
        specs = [self._modules.pop(path, None) for path in linear.paths]
        if not any(specs):
            return None
        inputs, outputs = linear.weight.shape[1], sum(linear.outs)
        a = np.full((len(specs), self.rank, inputs), -1, dtype=np.int32)
        b = np.full((self.rank, outputs), -1, dtype=np.int32)
        start = 0
        for number, (own, out, path) in enumerate(zip(specs, linear.outs, linear.paths, strict=True)):
            if own is not None:
                if own[0].shape[1] != inputs or own[1].shape[0] != out:
                    raise BaseModelError(f"module {path} of the base model is not of the shape {[out, inputs]}")
                a[number] = _elements(own[0])
                b[:, start : start + out] = _elements(own[1]).T
            start += out
        return Site(self._place(a), self._place(b), len(specs), inputs, outputs)

    def _place(self, part: Indices) -> int:
        start = self.elements
        self._parts.append((start, part.reshape(-1)))
        self.elements += -(-part.size // ALIGNED) * ALIGNED
        return start


def _elements(spec: TensorSpec) -> Indices:
    return np.arange(spec.offset_elements, spec.offset_elements + spec.elements, dtype=np.int32).reshape(spec.shape)


@dataclass(frozen=True, slots=True)
class Adapters:
    """All adapters on the device: ``pool`` ``[entries, elements]``, of ``rank`` each, ``terms`` at most in a sum."""

    pool: Tensor
    rank: int
    terms: int
