"""What a sum of adapters is, the plain way: in the weights of a copy of the model."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from registry.base_model import LoadedModel
from registry.generation.runners.choosing import make_runner
from registry.generation.runners.library import LibraryRunner
from registry.store.layout import AdapterLayout


def dense(model: Any, layout: AdapterLayout, terms: Sequence[tuple[bytes, float]], scale: float) -> Any:
    """A copy of the model with scale * (the sum of factor * B A) in its weights."""
    merged = copy.deepcopy(model)
    for body, factor in terms:
        vector = torch.frombuffer(bytearray(body), dtype=getattr(torch, layout.dtype)).float().to(model.device)
        for module, (a, b) in layout.modules.items():
            own_a = vector[a.offset_elements : a.offset_elements + a.elements].view(a.shape)
            own_b = vector[b.offset_elements : b.offset_elements + b.elements].view(b.shape)
            weight = merged.get_submodule(module).weight
            weight.data += (factor * scale * (own_b @ own_a)).to(weight)
    return merged


@torch.no_grad()
def logits_after(model: Any, ids: Sequence[int]) -> Tensor:
    """The logits ``[vocabulary]`` that transformers computes after a text."""
    result: Tensor = model(input_ids=torch.tensor([list(ids)], device=model.device)).logits[0, -1]
    return result.float()


def online(
    loaded: LoadedModel,
    layout: AdapterLayout,
    bodies: Sequence[bytes | memoryview],
    factors: Sequence[float],
    scale: float,
    ids: Tensor,
) -> Tensor:
    """The logits ``[1, n, vocabulary]`` after every token of ``ids`` ``[1, n]``, of adapters merged while asking."""
    text = ids[0].tolist()
    room = {"rows": len(text), "context": len(text), "cache_bytes": 0, "most_terms": max(1, len(bodies))}
    runner = make_runner(loaded, layout, scale, **room)
    try:
        for entry, body in enumerate(bodies):
            runner.put(entry, body)
        for row in range(len(text)):
            runner.inject(row, range(len(bodies)), factors)
        return runner.prefill(range(len(text)), [text[: row + 1] for row in range(len(text))]).clone()[None]
    finally:
        if isinstance(runner, LibraryRunner):
            runner.close()
