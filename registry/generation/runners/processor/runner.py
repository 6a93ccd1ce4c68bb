"""The runner for processors: blocks of Llama and its kin by hand, few passes over memory, nothing made per question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from registry.base_model import LoadedModel
from registry.base_model.blocks import rotation
from registry.errors import BaseModelError, IntegrityError, UsageError
from registry.generation.requests import Bytes
from registry.generation.runners.processor import loops
from registry.generation.runners.processor.packed import PackedLinear, filled_up
from registry.generation.runners.processor.places import Adapted, AdaptedBlock, Places
from registry.generation.runners.processor.weights import PackedBlock, weights_of
from registry.kernels.loops import F, add_rms_norm, rms_norm
from registry.kernels.vectors import WIDTH
from registry.store.layout import AdapterLayout

FUSED_TOKENS = 64
"""For prompts of at least so many tokens PyTorch's fused attention is quicker than the loop."""
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
        self._bits = np.uint16 if self._dtype == torch.bfloat16 else np.float32
        self._pool = _room((max(1, entries), self._places.elements), self._dtype)
        self._pool_bits = self._pool.view(np.uint32 if self._bits is np.float32 else np.uint16)
        self._staged = np.empty(self._places.elements, np.uint16)
        self._slots = np.zeros((rows, most_terms), np.int64)
        self._factors = np.zeros((rows, most_terms), np.float32)
        self._counts = np.zeros(rows, np.int64)
        self._lengths = np.zeros(rows, np.int64)
        count = len(blocks.blocks)
        folded = (context + WIDTH - 1) // WIDTH
        self._keys = _room((count, rows, blocks.keys, folded, blocks.width, WIDTH), self._dtype)
        self._values = _room((count, rows, blocks.keys, context, blocks.width), self._dtype)
        cosine, sine = rotation(loaded.model, context, "cpu")
        self._cosine, self._sine = cosine.numpy(), sine.numpy()
        self._norms = [(_array(one.norm), _array(one.second_norm)) for one in blocks.blocks]
        self._last_norm = _array(blocks.last_norm)

    def put(self, entry: int, body: Bytes) -> None:
        """See ``Runner``."""
        view = memoryview(body).cast("B")
        if self._layout is None or view.nbytes != self._layout.body_bytes:
            wanted = 0 if self._layout is None else self._layout.body_bytes
            raise IntegrityError(f"an adapter of {view.nbytes} bytes was given where {wanted} fit")
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
            self._slots[row, place], self._factors[row, place] = entry, factor * self._scale
        self._counts[row] = len(entries)

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
        hidden = [
            self._prefill(rows[part], prompts[part]) for part in passes([len(prompt) for prompt in prompts], TOGETHER)
        ]
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
        step = _Step(self, owners, positions, lengths, int(self._counts[owners].max()))
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
        rms_norm(hidden, self._last_norm, F(self._blocks.epsilon), _array(normed)[:rows], inverse)
        return self._weights.head(normed)[:rows].float()


class _Step:
    """One pass of some tokens through the blocks."""

    def __init__(
        self, runner: ProcessorRunner, owners: Any, positions: Any, lengths: Sequence[int] | None, terms: int
    ) -> None:
        self._runner, self._owners, self._positions, self._lengths = runner, owners, positions, lengths
        blocks, tokens = runner._blocks, len(owners)
        hidden = blocks.embedding.shape[1]
        self._epsilon, self._terms = F(blocks.epsilon), terms
        self._tokens = tokens
        self._normed, self._normed_bits = self._input(hidden)
        self._inverse = np.empty(tokens, np.float32)
        self._queries = np.empty((tokens, blocks.queries * blocks.width), np.float32)
        self._attended, self._attended_bits = self._input(blocks.queries * blocks.width)
        self._activated, self._activated_bits = self._input(blocks.blocks[0].down.weight.shape[1])
        self._low = np.empty((tokens, max(1, terms * runner._places.most_rows)), np.float32)
        self._slot = (runner._pool, runner._slots, runner._factors, runner._counts)

    def _input(self, width: int) -> tuple[Tensor, Any]:
        """Return room for the rows of a product, filled up, and the array of those that are tokens."""
        rows = torch.empty(filled_up(self._tokens), width, dtype=self._runner._dtype)
        rows[self._tokens :] = 0
        return rows, _array(rows)[: self._tokens]

    def block(self, x: Any, more: Tensor | None, number: int, packed: PackedBlock, adapted: AdaptedBlock) -> Tensor:
        """Add what the block makes of ``x`` + ``more`` to ``x``, but for the last part, which is returned."""
        norm, second_norm = self._runner._norms[number]
        self._norm(x, more, norm)
        qkv = packed.qkv(self._normed)[: self._tokens]
        if self._terms and adapted.qkv is not None:
            self._low_products(self._normed_bits, adapted.qkv)
            self._add_products(_array(qkv), adapted.qkv)
        self._attend(qkv, number, packed)
        output = packed.output(self._attended)[: self._tokens]
        if self._terms and adapted.output is not None:
            self._low_products(self._attended_bits, adapted.output)
            self._add_products(x, adapted.output)
        self._norm(x, output, second_norm)
        gate_up = packed.gate_up(self._normed)[: self._tokens]
        self._feed(gate_up, adapted.gate_up)
        down = packed.down(self._activated)[: self._tokens]
        if self._terms and adapted.down is not None:
            self._low_products(self._activated_bits, adapted.down)
            self._add_products(x, adapted.down)
        return down

    def _norm(self, x: Any, more: Tensor | None, weight: Any) -> None:
        if more is None:
            rms_norm(x, weight, self._epsilon, self._normed_bits, self._inverse)
        else:
            add_rms_norm(x, _array(more), weight, self._epsilon, x, self._normed_bits, self._inverse)

    def _attend(self, qkv: Tensor, number: int, packed: PackedBlock) -> None:
        runner = self._runner
        blocks = runner._blocks
        shape = (blocks.queries, blocks.keys, blocks.width)
        block = packed.block
        if block.query_norm is not None and block.key_norm is not None:
            _norm_heads(qkv, block.query_norm, block.key_norm, shape, self._epsilon)
        keys, values = runner._keys[number], runner._values[number]
        bits, scale = _array(qkv), F(blocks.width**-0.5)
        angles = (runner._cosine, runner._sine)
        loops.remember(bits, self._owners, self._positions, *shape, scale, *angles, self._queries, keys, values)
        if self._lengths is None or max(self._lengths) < FUSED_TOKENS:
            loops.attend(self._queries, self._owners, self._positions, *shape, keys, values, self._attended_bits)
            return
        start = 0
        for length in self._lengths:
            part = slice(start, start + length)
            row = self._owners[start]
            self._attended[part] = self._attend_prompt(self._queries[part], keys[row], values[row])
            start += length

    def _attend_prompt(self, queries: Any, keys: Any, values: Any) -> Tensor:
        """Return what a prompt's tokens see of those before them ``[tokens, heads * width]``; ``keys`` are folded."""
        blocks, dtype, tokens = self._runner._blocks, self._runner._dtype, len(queries)
        folded = _tensor(keys, dtype)[:, : (tokens + WIDTH - 1) // WIDTH]
        own = folded.transpose(2, 3).reshape(blocks.keys, -1, blocks.width)[:, :tokens]
        heads = torch.from_numpy(queries).to(dtype).view(tokens, blocks.queries, blocks.width).transpose(0, 1)
        found = torch.nn.functional.scaled_dot_product_attention(
            heads[None], own[None], _tensor(values, dtype)[None, :, :tokens], is_causal=True, scale=1.0, enable_gqa=True
        )
        return found[0].transpose(0, 1).reshape(tokens, -1)

    def _feed(self, gate_up: Tensor, adapted: Adapted | None) -> None:
        pool, slots, _, counts = self._slot
        gate = up = -1
        rows = rank = 0
        if self._terms and adapted is not None:
            self._low_products(self._normed_bits, adapted)
            first, second = adapted.product(0), adapted.product(self._activated.shape[1])
            gate, up = -1 if first is None else first.at, -1 if second is None else second.at
            rows, rank = adapted.rows, adapted.rows // len(adapted.products)
        else:
            counts = np.zeros_like(counts)
        loops.swiglu(
            _array(gate_up), self._activated_bits, self._owners, pool, slots, counts, self._low, rows, gate, up, rank
        )

    def _low_products(self, x: Any, adapted: Adapted) -> None:
        loops.low_products(x, self._owners, *self._slot, adapted.at, adapted.rows, self._low)

    def _add_products(self, y: Any, adapted: Adapted) -> None:
        pool, slots, _, counts = self._slot
        rank = adapted.rows // len(adapted.products)
        for b in adapted.products:
            loops.add_products(
                y, self._owners, pool, slots, counts, self._low, adapted.rows, b.skip, b.at, rank, b.column, b.width
            )


def _norm_heads(qkv: Tensor, query_norm: Tensor, key_norm: Tensor, shape: tuple[int, int, int], epsilon: Any) -> None:
    """Norm queries and keys, head by head, in place (Qwen 3)."""
    queries, keys, width = shape
    heads = qkv.view(len(qkv), -1, width)
    for part, weight in ((heads[:, :queries], query_norm), (heads[:, queries : queries + keys], key_norm)):
        plain = part.reshape(-1, width)
        normed = torch.empty_like(plain)
        rms_norm(_array(plain), _array(weight), epsilon, _array(normed), np.empty(len(plain), np.float32))
        part.copy_(normed.view(part.shape))


def passes(lengths: Sequence[int], most: int) -> Iterator[slice]:
    """Yield which prompts share a pass: as many in their order as have ``most`` tokens together, or one alone."""
    start = tokens = 0
    for number, length in enumerate(lengths):
        if number > start and tokens + length > most:
            yield slice(start, number)
            start, tokens = number, 0
        tokens += length
    yield slice(start, len(lengths))


def _room(shape: tuple[int, ...], dtype: torch.dtype) -> Any:
    """Return an array of undefined content that takes no memory before it is written.

    NumPy would ask the system for huge pages, of which a row's first token would touch one for every layer and head.
    """
    return _array(torch.empty(shape, dtype=dtype))


def _tensor(array: Any, dtype: torch.dtype) -> Tensor:
    """Return an array's memory as a tensor; bits as bfloat16."""
    found = torch.from_numpy(array)
    return found.view(torch.bfloat16) if dtype == torch.bfloat16 else found


def _array(tensor: Tensor) -> Any:
    """Return the tensor's memory as NumPy sees it; bfloat16 as its bits."""
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
