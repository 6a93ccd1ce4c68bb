"""A model's blocks over the tokens of a pass, in buffers that are allocated once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from registry.base_model.blocks import Block, Blocks
from registry.generation.runners.cuda.operations import ALONG, COLUMNS, Attention, Operations, Pass
from registry.generation.runners.cuda.pool import Adapters, BlockSites, Low, Site

FUSED_TOKENS = 128
"""In passes of so many tokens the norm computes A x as well; in longer ones tokens that share an A read it together."""


@dataclass(frozen=True, slots=True)
class Room:
    """How much there must be room for."""

    rows: int
    context: int
    tokens: int
    logits: int


class Layers:
    """See the module. ``logits`` ``[n, vocabulary]`` float32 are those of the last pass."""

    def __init__(
        self,
        model: Blocks,
        sites: list[BlockSites],
        adapters: Adapters | None,
        operations: Operations,
        rotation: tuple[Tensor, Tensor],
        room: Room,
    ) -> None:
        """Allocate keys, values and buffers on the model's device; keys and values are not touched."""
        self._model, self._sites, self._adapters, self.operations = model, sites, adapters, operations
        like, first = model.embedding, model.blocks[0]
        shape = (len(model.blocks), room.rows + 1, model.keys, room.context, model.width)
        keys, values = like.new_empty(shape), like.new_empty(shape)
        self._attentions = [
            Attention(
                queries=model.queries,
                keys=model.keys,
                width=model.width,
                cosine=rotation[0],
                sine=rotation[1],
                query_norm=block.query_norm,
                key_norm=block.key_norm,
                epsilon=model.epsilon,
                cached_keys=keys[block.number],
                cached_values=values[block.number],
            )
            for block in model.blocks
        ]
        # The row that fills passes up is read as well, and must hold numbers.
        keys[:, -1, :, :1].zero_()
        values[:, -1, :, :1].zero_()
        hidden, inner = like.shape[1], first.down.weight.shape[1]
        widths = {
            "middle": hidden,
            "summed": hidden,
            "normed": hidden,
            "qkv": len(first.qkv.weight),
            "rotated": len(first.qkv.weight),
            "attended": model.queries * model.width,
            "output": hidden,
            "gate_up": 2 * inner,
            "act": inner,
            "down": hidden,
        }
        self._buffers = {name: like.new_zeros(room.tokens, width) for name, width in widths.items()}
        self._sums = {
            name: torch.empty(self._sum_elements(name, room.tokens), dtype=torch.float32, device=like.device)
            for name in ("qkv", "output", "gate_up", "down")
        }
        self._last_normed, self._last_summed = (like.new_zeros(room.logits, hidden) for _ in range(2))
        vocabulary = len(model.head)
        self.logits = torch.zeros(room.logits, vocabulary, dtype=torch.float32, device=like.device)
        self._narrow = self.logits if like.dtype == torch.float32 else like.new_zeros(room.logits, vocabulary)

    def run(self, given: Pass) -> None:
        """Compute a pass; ``logits`` are then those of its ``last`` tokens, or of all."""
        model, operations = self._model, self.operations
        buffers = {name: buffer[: given.tokens] for name, buffer in self._buffers.items()}
        x: Tensor = model.embedding
        source: Tensor | None = given.ids
        y: Tensor | None = None
        added: Low | None = None
        for block in model.blocks:
            added = self._block(given, block, buffers, x, y, source, added)
            x, y, source = buffers["middle"], buffers["down"], None
        count = given.tokens if given.last is None else len(given.last)
        normed, narrow = self._last_normed[:count], self._narrow[:count]
        operations.add_norm(
            given, x, y, given.last, model.last_norm, model.epsilon, self._last_summed[:count], normed, added, None
        )
        operations.product(normed, model.head, None, narrow)
        if narrow.dtype != torch.float32:
            self.logits[:count].copy_(narrow)

    def _block(
        self,
        given: Pass,
        block: Block,
        buffers: dict[str, Tensor],
        x: Tensor,
        y: Tensor | None,
        source: Tensor | None,
        added: Low | None,
    ) -> Low | None:
        """Go on from x + y + added; leave the result's parts in ``middle`` and ``down``, and return what is added."""
        operations, attention = self.operations, self._attentions[block.number]
        sites = self._sites[block.number]
        epsilon, is_fused = self._model.epsilon, given.starts is None or given.tokens <= FUSED_TOKENS
        summed, middle, normed = buffers["summed"], buffers["middle"], buffers["normed"]
        qkv, attended, act = buffers["qkv"], buffers["attended"], buffers["act"]

        of_qkv = self._low(given, sites.qkv, "qkv", is_fused=is_fused)
        fused = of_qkv if is_fused else None
        operations.add_norm(given, x, y, source, block.norm, epsilon, summed, normed, added, fused)
        if of_qkv is not None and not is_fused:
            operations.low(given, normed, of_qkv)
        operations.product(normed, block.qkv.weight, block.qkv.bias, qkv)
        if given.starts is None:
            operations.attend(given, qkv, attention, of_qkv, attended)
        else:
            operations.rotate(given, qkv, attention, of_qkv, buffers["rotated"])
            operations.attend_prompts(given, buffers["rotated"], attention, attended)
        of_output = self._low(given, sites.output, "output", is_fused=False)
        if of_output is not None:
            operations.low(given, attended, of_output)
        operations.product(attended, block.output.weight, block.output.bias, buffers["output"])

        of_gate_up = self._low(given, sites.gate_up, "gate_up", is_fused=is_fused)
        fused = of_gate_up if is_fused else None
        operations.add_norm(
            given, summed, buffers["output"], None, block.second_norm, epsilon, middle, normed, of_output, fused
        )
        if of_gate_up is not None and not is_fused:
            operations.low(given, normed, of_gate_up)
        operations.product(normed, block.gate_up.weight, None, buffers["gate_up"])
        of_down = self._low(given, sites.down, "down", is_fused=False)
        operations.activate(given, buffers["gate_up"], of_gate_up, act, of_down)
        operations.product(act, block.down.weight, None, buffers["down"])
        return of_down

    def _low(self, given: Pass, site: Site | None, name: str, *, is_fused: bool) -> Low | None:
        if site is None or self._adapters is None:
            return None
        splits = 1 if is_fused else _splits(site, name)
        width = site.modules * self._adapters.terms * self._adapters.rank
        return Low(site, self._sums[name][: given.tokens * splits * width].view(given.tokens, splits, width))

    def _sum_elements(self, name: str, tokens: int) -> int:
        sites = [site for own in self._sites if (site := _named(own, name)) is not None]
        if not sites or self._adapters is None:
            return 0
        width = sites[0].modules * self._adapters.terms * self._adapters.rank
        return tokens * _splits(sites[0], name) * width


def _named(sites: BlockSites, name: str) -> Site | None:
    site: Site | None = getattr(sites, name)
    return site


def _splits(site: Site, name: str) -> int:
    return -(-site.inputs // (COLUMNS if name == "down" else ALONG))
