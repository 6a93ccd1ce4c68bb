"""What adapters do, the long way: their sum in a copy of the model's weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from registry.store.layout import AdapterLayout


def dense(model: Any, layout: AdapterLayout, bodies: Sequence[bytes], factors: Sequence[float], scale: float) -> Any:
    """A copy of the model with the sum of the adapters in its weights."""
    merged = copy.deepcopy(model)
    for body, factor in zip(bodies, factors, strict=True):
        vector = torch.frombuffer(bytearray(body), dtype=getattr(torch, layout.dtype)).float().to(model.device)
        for module, (a, b) in layout.modules.items():
            own_a = vector[a.offset_elements : a.offset_elements + a.elements].view(a.shape)
            own_b = vector[b.offset_elements : b.offset_elements + b.elements].view(b.shape)
            merged.get_submodule(module).weight.data += factor * scale * (own_b @ own_a)
    return merged
