"""The blocks below the first adapter: frozen, so what they give for an example is computed once for all epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from registry.base_model import LoadedModel
from registry.encoding.examples import Example
from registry.encoding.packing import Packing, pass_tokens, passes

SPLITTABLE = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose decoder may be run from hidden states: no scaling of embeddings, all blocks of one kind."""

Upper = Callable[[Sequence[Example], Packing], Tensor]
"""Packed examples to last hidden states ``[tokens, hidden]``, with gradient for what the upper blocks hold."""


@contextmanager
def upper_blocks(loaded: LoadedModel, first_layer: int, examples: Sequence[Example]) -> Iterator[Upper]:
    """Give a function that runs ``examples`` through the blocks from ``first_layer`` on.

    For the time of the block the model consists of those only. Where a model cannot be split, the function runs all
    blocks every time; the result is the same.
    """
    body = loaded.model.get_decoder()
    if first_layer == 0 or not _is_splittable(loaded.model):
        yield lambda batch, packing: _run(body, packing, input_ids=_ids(loaded, batch))
        return
    layers, norm = body.layers, body.norm
    try:
        body.layers, body.norm = layers[:first_layer], nn.Identity()
        states = _lower_states(loaded, body, examples)
        body.layers, body.norm = layers[first_layer:], norm

        def run(batch: Sequence[Example], packing: Packing) -> Tensor:
            rows = torch.cat([states[id(example)] for example in batch])
            return _run(body, packing, inputs_embeds=rows[None])

        yield run
    finally:
        body.layers, body.norm = layers, norm


def _is_splittable(model: nn.Module) -> bool:
    config = model.config
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    return getattr(config, "model_type", "") in SPLITTABLE and set(kinds) == {"full_attention"}


@torch.no_grad()
def _lower_states(loaded: LoadedModel, body: nn.Module, examples: Sequence[Example]) -> dict[int, Tensor]:
    """Return ``[tokens, hidden]`` of every example, by the example's ``id``."""
    states: dict[int, Tensor] = {}
    lengths = [len(example.ids) for example in examples]
    for part in passes(lengths, pass_tokens(loaded.device)):
        batch = examples[part]
        packing = Packing(lengths[part], [0] * len(batch), loaded.device, loaded.model.dtype)
        hidden = _run(body, packing, input_ids=_ids(loaded, batch))
        states.update(zip(map(id, batch), torch.split(hidden, list(lengths[part])), strict=True))
    return states


def _ids(loaded: LoadedModel, batch: Sequence[Example]) -> Tensor:
    return torch.tensor([[token for example in batch for token in example.ids]], device=loaded.device)


def _run(body: nn.Module, packing: Packing, **inputs: Tensor) -> Tensor:
    output = body(**inputs, position_ids=packing.positions, packing=packing, use_cache=False)
    hidden: Tensor = output.last_hidden_state[0]
    return hidden
