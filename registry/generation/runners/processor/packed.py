"""Weights packed once for oneDNN, so that a product of few rows does not lay them out again every time.

PyTorch packs the weights of a plain product anew at every call, which for a prompt of thirty tokens in bfloat16 takes
longer than the product. ``torch.compile`` packs them beforehand by two operations of its own, which are used here where
they are there and give what the plain product gives.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

_ROWS_HINT = {torch.bfloat16: 1, torch.float32: 16}
"""For how many rows the layout is chosen. These are quickest for few rows, and a row's result does then not depend on
how many there are beside it, but for some shapes in float32 (in its last bits)."""


STEPS = ((8, 1), (128, 8), (512, 32), (2048, 128))
"""Up to so many rows, their number is rounded up to a multiple of so many."""
_LARGEST_STEP = 512


def filled_up(rows: int) -> int:
    """Return with how many rows a product is computed for so many.

    oneDNN makes code for every number of rows that it meets, in about 10 ms and 2 MB for a block's four products; with
    few numbers it has them all soon.
    """
    step = next((step for most, step in STEPS if rows <= most), _LARGEST_STEP)
    return -(-rows // step) * step


class PackedLinear:
    """A frozen linear map ``[rows, in]`` to ``[rows, out]`` in the dtype of its weight."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Pack ``weight`` ``[out, in]``; it is not needed afterwards where ``is_copy``."""
        self.bias = bias
        self._packed: Any = None
        self._plain: Tensor | None = weight
        if can_pack(weight.dtype):
            self._packed, self._plain = _pack(weight), None

    @property
    def is_copy(self) -> bool:
        """Whether the weight's own memory is not used any more."""
        return self._plain is None

    def __call__(self, x: Tensor) -> Tensor:
        """Return x W^T + bias; x is contiguous."""
        if self._packed is not None:
            return _multiply(x, self._packed, self.bias)
        assert self._plain is not None
        return torch.nn.functional.linear(x, self._plain, self.bias)

    def weight(self) -> Tensor:
        """Return the weight ``[out, in]``; a copy where it is packed."""
        return self._packed.to_dense() if self._plain is None else self._plain

    def replace(self, weight: Tensor) -> None:
        """Take another weight from now on."""
        if self._plain is None:
            self._packed = _pack(weight)
        else:
            self._plain.copy_(weight)


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Return whether packing works here and changes nothing but the last bits."""
    if dtype not in _ROWS_HINT or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(96, 64, generator=random).to(dtype)
    x = torch.randn(3, 64, generator=random).to(dtype)
    try:
        found = _multiply(x, _pack(weight), None)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    wanted = x.double() @ weight.double().T
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    return bool((found.double() - wanted).abs().max() <= tolerance * wanted.abs().max())


def _pack(weight: Tensor) -> Any:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS_HINT[weight.dtype])


def _multiply(x: Tensor, packed: Any, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return found
