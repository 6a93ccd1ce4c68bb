"""The runner for processors: blocks of Llama and its kin by hand, few passes over memory, nothing made per question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from registry.base_model import LoadedModel
from registry.base_model.blocks import rotation
from registry.errors import BaseModelError, IntegrityError, UsageError
from registry.generation.requests import Bytes
from registry.generation.runners.passes import passes
from registry.generation.runners.processor import loops
from registry.generation.runners.processor.arrays import as_array, room
from registry.generation.runners.processor.packed import PackedLinear, filled_up
from registry.generation.runners.processor.places import Places
from registry.generation.runners.processor.step import State, Step
from registry.generation.runners.processor.weights import weights_of
from registry.kernels.loops import F, rms_norm
from registry.kernels.vectors import WIDTH
from registry.store.layout import AdapterLayout

TOGETHER = 128
"""So many tokens of several prompts share a pass; a longer prompt has one alone.

Up to here oneDNN's products give a row the same bits whatever is beside it (measured for the shapes of SmolLM2), so an
answer does not depend on which others are asked at the same time.
"""


class ProcessorRunner:
    """See ``Runner``. Keys, values and adapters are in the base's dtype, sums between the blocks in float32."""

    def __init__(
        self,
        loaded: LoadedModel,
        layout: AdapterLayout | None,
        scale: float,
        *,
        rows: int,
        context: int,
        entries: int,
        most_terms: int,
    ) -> None:
        """Take room for ``rows`` texts of ``context`` tokens, and for ``entries`` adapters; touched only when used."""
        weights = weights_of(loaded.model)
        blocks = weights.blocks
        self._weights, self._blocks, self._scale = weights, blocks, scale
        self.rows, self.context, self.entries, self.most_terms = rows, context, entries, most_terms
        self._places = Places.of(blocks, layout)
        self._layout = layout
        self._dtype = blocks.embedding.dtype
        count = len(blocks.blocks)
        folded = (context + WIDTH - 1) // WIDTH
        cosine, sine = rotation(loaded.model, context, "cpu")
        self._state = State(
            blocks=blocks,
            dtype=self._dtype,
            pool=room((max(1, entries), self._places.elements), self._dtype),
            slots=np.zeros((rows, most_terms), np.int64),
            factors=np.zeros((rows, most_terms), np.float32),
            counts=np.zeros(rows, np.int64),
            keys=room((count, rows, blocks.keys, folded, blocks.width, WIDTH), self._dtype),
            values=room((count, rows, blocks.keys, context, blocks.width), self._dtype),
            cosine=cosine.numpy(),
            sine=sine.numpy(),
            norms=[(as_array(one.norm), as_array(one.second_norm)) for one in blocks.blocks],
        )
        self._pool_bits = self._state.pool.view(np.uint32 if self._dtype == torch.float32 else np.uint16)
        self._staged = np.empty(self._places.elements, np.uint16)
        self._lengths = np.zeros(rows, np.int64)
        self._last_norm = as_array(blocks.last_norm)

    def put(self, entry: int, body: Bytes) -> None:
        """See ``Runner``."""
        if self._layout is None:
            raise IntegrityError(f"an adapter of {memoryview(body).nbytes} bytes was given where 0 fit")
        view = self._layout.checked(body)
        body_bits: Any = np.frombuffer(view, np.uint16 if self._layout.dtype == "bfloat16" else np.uint32)
        if body_bits.dtype != self._pool_bits.dtype:
            if body_bits.dtype == np.uint32:
                loops.rounded(body_bits, self._staged)
                body_bits = self._staged
            else:
                body_bits = body_bits.astype(np.uint32) << 16
        loops.unfold(body_bits, self._places.tensors, self._pool_bits[entry])

    def inject(self, row: int, entries: Sequence[int], factors: Sequence[float]) -> None:
        """See ``Runner``."""
        if len(entries) > self.most_terms:
            raise UsageError(f"{len(entries)} adapters do not fit a slot for {self.most_terms}")
        for place, (entry, factor) in enumerate(zip(entries, factors, strict=True)):
            self._state.slots[row, place], self._state.factors[row, place] = entry, factor * self._scale
        self._state.counts[row] = len(entries)

    def weight(self, path: str) -> Tensor:
        """Return the weight ``[out, in]`` of a module that adapters are for, in the model's dtype; a copy."""
        linear, rows = self._module(path)
        return linear.weight()[rows].clone()

    def set_weight(self, path: str, weight: Tensor) -> None:
        """Put these numbers in the place of a module's weight, bit for bit."""
        linear, rows = self._module(path)
        whole = linear.weight().clone()
        whole[rows] = weight
        linear.replace(whole)

    def _module(self, path: str) -> tuple[PackedLinear, slice]:
        """Return the map that a module is a part of, and which of its outputs are the module's."""
        for packed in self._weights.packed:
            for map_, linear in packed.maps():
                if path in map_.paths:
                    place = map_.paths.index(path)
                    start = sum(map_.outs[:place])
                    return linear, slice(start, start + map_.outs[place])
        raise BaseModelError(f"the base model has no module {path}, which the adapters are for")

    @torch.inference_mode()
    def prefill(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> Tensor:
        """See ``Runner``; prompts go through the model one behind the other, without padding."""
        lengths = [len(prompt) for prompt in prompts]
        hidden = [self._prefill(rows[part], prompts[part]) for part in passes(lengths, TOGETHER, self.rows)]
        return self._logits(np.concatenate(hidden))

    def _prefill(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> np.ndarray[Any, Any]:
        lengths = [len(prompt) for prompt in prompts]
        owners = np.repeat(np.array(rows, np.int64), lengths)
        positions = np.concatenate([np.arange(length) for length in lengths])
        hidden = self._forward([token for prompt in prompts for token in prompt], owners, positions, lengths)
        self._lengths[list(rows)] = lengths
        last: np.ndarray[Any, Any] = hidden[np.cumsum(lengths) - 1]
        return last

    @torch.inference_mode()
    def decode(self, rows: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """See ``Runner``."""
        owners = np.array(rows, np.int64)
        hidden = self._forward(tokens, owners, self._lengths[owners], None)
        self._lengths[owners] += 1
        return self._logits(hidden)

    def _forward(
        self, tokens: Sequence[int], owners: Any, positions: Any, lengths: Sequence[int] | None
    ) -> np.ndarray[Any, Any]:
        """Return the last sums ``[tokens, hidden]`` float32, not yet normed; ``lengths`` are those of new prompts."""
        x: Any = self._blocks.embedding[torch.tensor(tokens)].float().numpy()
        step = Step(self._state, self._places, owners, positions, lengths)
        more: Tensor | None = None
        for number, (packed, adapted) in enumerate(zip(self._weights.packed, self._places.blocks, strict=True)):
            more = step.block(x, more, number, packed, adapted)
        assert more is not None
        x += more.float().numpy()
        summed: np.ndarray[Any, Any] = x
        return summed

    def _logits(self, hidden: np.ndarray[Any, Any]) -> Tensor:
        rows, inverse = len(hidden), np.empty(len(hidden), np.float32)
        normed = torch.zeros(filled_up(rows), hidden.shape[1], dtype=self._dtype)
        rms_norm(hidden, self._last_norm, F(self._blocks.epsilon), as_array(normed)[:rows], inverse)
        return self._weights.head(normed)[:rows].float()
