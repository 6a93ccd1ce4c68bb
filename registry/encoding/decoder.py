"""The decoder of Llama and its kin, forward and backward by hand.

Only what the adapters need is computed and kept: no gradient of a frozen weight, none below the first adapter, no
autograd graph, the same memory at every pass. Models of other architectures go through ``library.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from registry.base_model import LoadedModel
from registry.base_model.blocks import Block, Linear, blocks_of, rotation
from registry.encoding.kernels import FeedForward, Heads, Kernels, LowRank, Memory
from registry.encoding.packing import Packing, Row, passes
from registry.encoding.stack import AdapterStack


@dataclass(frozen=True, slots=True)
class _Linear:
    """Linear modules of one input as one: ``weight`` ``[sum of outs, in]``, and their adapters if they have some."""

    weight: Tensor
    bias: Tensor | None
    low_rank: LowRank | None

    def forward(self, x: Tensor, y: Tensor, packing: Packing) -> Any:
        """Write W x (+ b) + scale B A x to ``y``; return what the adapters keep."""
        torch.mm(x, self.weight.t(), out=y)
        if self.bias is not None:
            y += self.bias
        return self.low_rank.forward(x, y, packing) if self.low_rank is not None else None

    def backward(self, saved: Any, x: Tensor, slope: Tensor, into: Tensor | None) -> None:
        """Write the gradient of ``x`` to ``into`` if it is wanted, and add the adapters' to their stack."""
        if into is not None:
            torch.mm(slope, self.weight, out=into)
        if self.low_rank is not None:
            self.low_rank.backward(saved, x, slope, into)


@dataclass(frozen=True, slots=True)
class _Block:
    number: int
    norm: Tensor
    qkv: _Linear
    query_norm: Tensor | None
    key_norm: Tensor | None
    output: _Linear
    second_norm: Tensor
    feed_forward: FeedForward


@dataclass(frozen=True, slots=True)
class _Saved:
    """What a block's backward pass needs of its forward pass; ``x`` and ``middle`` are before the norms."""

    x: Tensor
    inverse: Tensor
    normed: Tensor
    of_qkv: Any
    plain_heads: tuple[Tensor, Tensor, Tensor] | None
    attention: Any
    attended: Tensor
    of_output: Any
    middle: Tensor
    second_inverse: Tensor
    second_normed: Tensor
    of_feed_forward: Any


class Decoder:
    """The blocks of a loaded model with a stack of adapters on them.

    ``forward`` gives last hidden states, ``backward`` adds to the stack's gradients.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        stack: AdapterStack,
        scale: float,
        first_layer: int,
        kernels: Kernels,
        memory: Memory,
        *,
        positions: int,
        recompute: bool = False,
    ) -> None:
        """Take the model's weights; those that share an input are laid together once, in place.

        No row has more than ``positions`` tokens.
        With ``recompute`` the forward pass keeps every block's input only, and the backward pass runs each block
        again: a third more work, for little memory.
        """
        blocks = blocks_of(loaded.model)
        self._loaded, self._kernels, self._memory = loaded, kernels, memory
        self._epsilon, self._embedding, self._last_norm = blocks.epsilon, blocks.embedding, blocks.last_norm
        angles = rotation(loaded.model, positions, loaded.device)
        self._heads = Heads(blocks.queries, blocks.keys, blocks.width, blocks.width**-0.5, *angles)
        self._blocks = [_block(block, stack, scale, kernels) for block in blocks.blocks]
        self._first_layer, self._recompute = first_layer, recompute
        self._states: Tensor | None = None
        self._saved: list[_Saved] = []
        self._inputs: list[tuple[Tensor, Tensor | None]] = []
        self._packing: Packing | None = None
        self._last: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def prepare(self, rows: Sequence[Row], most: int) -> None:
        """Run all rows of a group through the frozen blocks below the first adapter, once for all epochs.

        At most ``most`` tokens go through at once.

        Their places among the group's tokens are ``first`` of each row and those after it.
        """
        if self._first_layer == 0:
            self._states = None
            return
        lengths = [len(row.ids) for row in rows]
        states = torch.empty(
            sum(lengths), self._embedding.shape[1], dtype=self._embedding.dtype, device=self._loaded.device
        )
        # Without adapters no token depends on the document, so rows of all documents share their beginnings.
        anonymous = [Row(0, row.ids, row.first) for row in sorted(rows, key=lambda row: row.ids)]
        for part in passes([len(row.ids) for row in anonymous], most):
            batch = anonymous[part]
            packing = Packing(batch, self._loaded.device, self._embedding.dtype)
            x, more = self._run(self._blocks[: self._first_layer], self._embedding[packing.ids], packing, keep=False)
            x = x + more
            at = torch.cat([torch.arange(row.first, row.first + len(row.ids)) for row in batch])
            states[at.to(states.device)] = x[torch.cat(packing.places).to(states.device)]
        self._states = states

    @torch.no_grad()
    def forward(self, packing: Packing) -> Tensor:
        """Return the last hidden states ``[tokens, hidden]``, and keep what ``backward`` needs."""
        self._saved, self._inputs, self._packing = [], [], packing
        start = self._embedding[packing.ids] if self._states is None else self._states[packing.first]
        x, more = self._run(self._blocks[self._first_layer :], start, packing, keep=True)
        hidden, summed = self._take("last hidden", x.shape, x), self._take("last sum", x.shape, x)
        inverse = self._kernels.rms_norm(x, more, self._last_norm, self._epsilon, summed, hidden)
        self._last = summed, inverse
        return hidden

    @torch.no_grad()
    def backward(self, slope: Tensor) -> None:
        """Take the gradient of the loss by the last hidden states ``[tokens, hidden]``."""
        assert self._last is not None
        x, inverse = self._last
        above = self._take("slope", x.shape, x).zero_()
        self._kernels.rms_norm_backward(slope, x, self._last_norm, inverse, above)
        blocks = self._blocks[self._first_layer :]
        for block in reversed(blocks):
            if self._recompute:
                assert self._packing is not None
                x, more = self._inputs.pop()
                self._forward_block(block, x, more, self._packing, keep=True)
            self._backward_block(block, self._saved.pop(), above, is_lowest=block.number == self._first_layer)
        self._last = self._packing = None

    @staticmethod
    def kept_bytes(model: Any) -> int:
        """Return how many bytes a token leaves in all blocks between forward and backward pass, about."""
        config: Any = model.config
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        qkv = (config.num_attention_heads + 2 * config.num_key_value_heads) * width
        numbers = 5 * config.hidden_size + 3 * config.intermediate_size + 4 * qkv
        size: int = config.num_hidden_layers * numbers * model.get_input_embeddings().weight.element_size()
        return size

    def _take(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        return self._memory.take(name, tuple(shape), like.dtype)

    def _run(self, blocks: Sequence[_Block], x: Tensor, packing: Packing, *, keep: bool) -> tuple[Tensor, Tensor]:
        """Return two tensors ``[tokens, hidden]`` whose sum is the blocks' result: the next norm adds them."""
        more: Tensor | None = None
        for block in blocks:
            if keep and self._recompute:
                self._inputs.append((x.clone(), more if more is None else more.clone()))
            x, more = self._forward_block(block, x, more, packing, keep=keep and not self._recompute)
        assert more is not None
        return x, more

    def _forward_block(
        self, block: _Block, x: Tensor, more: Tensor | None, packing: Packing, *, keep: bool
    ) -> tuple[Tensor, Tensor]:
        kernels, heads, memory = self._kernels, self._heads, self._memory
        tokens, hidden = x.shape
        layer = None if not keep else 0 if self._recompute else block.number
        own = str(layer) if keep else f"passing {block.number % 2}"
        normed = self._take(f"normed {own}", (tokens, hidden), x)
        summed = x if more is None else self._take(f"x {own}", (tokens, hidden), x)
        inverse = kernels.rms_norm(x, more, block.norm, self._epsilon, summed, normed)
        qkv = self._take("qkv", (tokens, len(block.qkv.weight)), x)
        of_qkv = block.qkv.forward(normed, qkv, packing)
        plain_heads = self._norm_heads(block, qkv, own)
        attended = self._take(f"attended {own}", (tokens, heads.queries * heads.width), x)
        attention = kernels.attention(qkv, packing, heads, attended, memory, layer)
        output = self._take("output", (tokens, hidden), x)
        of_output = block.output.forward(attended, output, packing)
        middle = self._take(f"middle {own}", (tokens, hidden), x)
        second_normed = self._take(f"second normed {own}", (tokens, hidden), x)
        second_inverse = kernels.rms_norm(summed, output, block.second_norm, self._epsilon, middle, second_normed)
        out = self._take("block", (tokens, hidden), x)
        of_feed_forward = block.feed_forward.forward(second_normed, out, packing, memory, layer)
        if keep:
            saved = _Saved(
                x=summed,
                inverse=inverse,
                normed=normed,
                of_qkv=of_qkv,
                plain_heads=plain_heads,
                attention=attention,
                attended=attended,
                of_output=of_output,
                middle=middle,
                second_inverse=second_inverse,
                second_normed=second_normed,
                of_feed_forward=of_feed_forward,
            )
            self._saved.append(saved)
        return middle, out

    def _backward_block(self, block: _Block, saved: _Saved, slope: Tensor, *, is_lowest: bool) -> None:
        """Turn ``slope``, the gradient by the result, into that by the input; in the lowest block as far as needed."""
        kernels, memory = self._kernels, self._memory
        is_attention_adapted = block.qkv.low_rank is not None or block.output.low_rank is not None
        if is_lowest and not is_attention_adapted:
            block.feed_forward.backward(saved.of_feed_forward, saved.second_normed, slope, None, memory)
            return
        of_normed = self._take("normed slope", saved.normed.shape, slope)
        block.feed_forward.backward(saved.of_feed_forward, saved.second_normed, slope, of_normed, memory)
        kernels.rms_norm_backward(of_normed, saved.middle, block.second_norm, saved.second_inverse, slope)
        of_attended = self._take("attended slope", saved.attended.shape, slope)
        block.output.backward(saved.of_output, saved.attended, slope, of_attended)
        of_qkv = self._take("qkv", (len(slope), len(block.qkv.weight)), slope)
        kernels.attention_backward(of_attended, saved.attention, of_qkv, memory)
        if saved.plain_heads is not None:
            self._norm_heads_backward(block, of_qkv, saved.plain_heads)
        block.qkv.backward(saved.of_qkv, saved.normed, of_qkv, None if is_lowest else of_normed)
        if not is_lowest:
            kernels.rms_norm_backward(of_normed, saved.x, block.norm, saved.inverse, slope)

    def _norm_heads(self, block: _Block, qkv: Tensor, own: str) -> tuple[Tensor, Tensor, Tensor] | None:
        """Norm queries and keys, head by head, in place (Qwen 3); return them as they were and their inverse roots."""
        if block.query_norm is None or block.key_norm is None:
            return None
        kept: list[Tensor] = []
        for part, weight in self._normed_heads(block):
            heads = qkv.view(len(qkv), -1, self._heads.width)[:, part]
            plain = self._take(f"plain {part} {own}", (heads.shape[0] * heads.shape[1], heads.shape[2]), qkv)
            plain.view(heads.shape).copy_(heads)
            normed = self._take("normed heads", plain.shape, qkv)
            kept += [plain, self._kernels.rms_norm(plain, None, weight, self._epsilon, plain, normed)]
            heads.copy_(normed.view(heads.shape))
        return kept[0], kept[2], torch.cat([kept[1], kept[3]])

    def _norm_heads_backward(self, block: _Block, of_qkv: Tensor, saved: tuple[Tensor, Tensor, Tensor]) -> None:
        inverses = torch.split(saved[2], [len(saved[0]), len(saved[1])])
        for (part, weight), plain, inverse in zip(self._normed_heads(block), saved[:2], inverses, strict=True):
            heads = of_qkv.view(len(of_qkv), -1, self._heads.width)[:, part]
            slope = heads.reshape(plain.shape).contiguous()
            into = torch.zeros_like(slope)
            self._kernels.rms_norm_backward(slope, plain, weight, inverse.contiguous(), into)
            heads.copy_(into.view(heads.shape))

    def _normed_heads(self, block: _Block) -> list[tuple[slice, Tensor]]:
        assert block.query_norm is not None
        assert block.key_norm is not None
        queries = self._heads.queries
        return [(slice(0, queries), block.query_norm), (slice(queries, queries + self._heads.keys), block.key_norm)]


def _block(block: Block, stack: AdapterStack, scale: float, kernels: Kernels) -> _Block:
    def linear(own: Linear) -> _Linear:
        adapted = stack.adapted(own.paths, own.outs)
        return _Linear(own.weight, own.bias, kernels.low_rank(adapted, sum(own.outs), scale) if adapted else None)

    return _Block(
        number=block.number,
        norm=block.norm,
        qkv=linear(block.qkv),
        query_norm=block.query_norm,
        key_norm=block.key_norm,
        output=linear(block.output),
        second_norm=block.second_norm,
        feed_forward=kernels.feed_forward(
            block.gate_up.weight,
            block.down.weight,
            stack.adapted(block.gate_up.paths, block.gate_up.outs),
            stack.adapted(block.down.paths, block.down.outs),
            scale,
        ),
    )
