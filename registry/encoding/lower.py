"""The blocks below the first adapter: frozen, so what they give for an example is computed once for all epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from registry.base_model import LoadedModel
from registry.encoding.batches import batch_indices, padded_ids, token_budget
from registry.encoding.examples import Example

SPLITTABLE = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose decoder may be run from hidden states: no scaling of embeddings, all blocks of one kind."""

Upper = Callable[[Sequence[Example]], Tensor]
"""Examples to last hidden states ``[batch, longest, hidden]``, with gradient for what the upper blocks hold."""


@contextmanager
def upper_blocks(loaded: LoadedModel, first_layer: int, examples: Sequence[Example]) -> Iterator[Upper]:
    """Give a function that runs ``examples`` through the blocks from ``first_layer`` on.

    For the time of the block the model consists of those only. Where a model cannot be split, the function runs all
    blocks every time; the result is the same.
    """
    body = loaded.model.get_decoder()
    if first_layer == 0 or not _is_splittable(loaded.model):
        yield lambda batch: _run(body, input_ids=padded_ids(batch).to(loaded.device))
        return
    layers, norm = body.layers, body.norm
    try:
        body.layers, body.norm = layers[:first_layer], nn.Identity()
        states = _lower_states(loaded, body, examples)
        body.layers, body.norm = layers[first_layer:], norm

        def run(batch: Sequence[Example]) -> Tensor:
            rows = [states[id(example)] for example in batch]
            return _run(body, inputs_embeds=nn.utils.rnn.pad_sequence(rows, batch_first=True))

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
    for indices in batch_indices(lengths, token_budget(loaded.device)):
        batch = [examples[index] for index in indices]
        hidden = _run(body, input_ids=padded_ids(batch).to(loaded.device))
        for row, example in zip(hidden, batch, strict=True):
            states[id(example)] = row[: len(example.ids)].clone()
    return states


def _run(body: nn.Module, **inputs: Tensor) -> Tensor:
    hidden: Tensor = body(**inputs, use_cache=False).last_hidden_state
    return hidden
