"""Memory as both NumPy and PyTorch see it; NumPy, and so the compiled loops, knows bfloat16 by its bits in uint16."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def room(shape: tuple[int, ...], dtype: torch.dtype) -> Any:
    """Return an array of undefined content that takes no memory before it is written.

    NumPy would ask the system for huge pages, of which a row's first token would touch one for every layer and head.
    """
    return as_array(torch.empty(shape, dtype=dtype))


def as_tensor(array: Any, dtype: torch.dtype) -> Tensor:
    """Return an array's memory as a tensor; bits as bfloat16."""
    found = torch.from_numpy(array)
    return found.view(torch.bfloat16) if dtype == torch.bfloat16 else found


def as_array(tensor: Tensor) -> Any:
    """Return the tensor's memory as NumPy sees it; bfloat16 as its bits."""
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
