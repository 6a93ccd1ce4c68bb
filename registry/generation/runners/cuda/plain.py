"""The operations of a pass in PyTorch: what the kernels are checked against, and what runs without them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from registry.generation.runners.cuda.operations import Attention, Pass
from registry.generation.runners.cuda.pool import Adapters, Low


class PlainOperations:
    """See ``Operations``."""

    def __init__(self, adapters: Adapters | None) -> None:
        """Take the adapters; without any no pass has some."""
        self._adapters = adapters

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
        torch.mm(x, weight.t(), out=out)
        if bias is not None:
            out += bias

    def add_norm(
        self,
        given: Pass,
        x: Tensor,
        y: Tensor | None,
        source: Tensor | None,
        weight: Tensor,
        epsilon: float,
        summed: Tensor,
        normed: Tensor,
        added: Low | None,
        into: Low | None,
    ) -> None:
        total = (x if source is None else x[source]).float()
        if y is not None:
            total = total + (y if source is None else y[source]).float()
        for token in range(len(total)):
            at = token if source is None else int(source[token])
            total[token] += self._added(given, at, added, 0, 0, total.shape[1])
        summed.copy_(total)
        own = summed.float()
        scaled = own * torch.rsqrt(own.square().mean(dim=-1, keepdim=True) + epsilon)
        normed.copy_((scaled.to(x.dtype).float() * weight.float()).to(x.dtype))
        if into is not None:
            self.low(given, normed, into)

    def attend(self, given: Pass, qkv: Tensor, attention: Attention, added: Low | None, attended: Tensor) -> None:
        rotated = torch.empty_like(qkv)
        self.rotate(given, qkv, attention, added, rotated)
        queries = rotated.view(len(qkv), -1, attention.width)[:, : attention.queries]
        for token, (row, position) in enumerate(zip(given.rows.tolist(), given.positions.tolist(), strict=True)):
            keys = attention.cached_keys[row, :, : position + 1]
            values = attention.cached_values[row, :, : position + 1]
            attended[token] = _attend(queries[token, :, None], keys, values, is_causal=False).reshape(-1)

    def rotate(self, given: Pass, qkv: Tensor, attention: Attention, added: Low | None, rotated: Tensor) -> None:
        total = qkv.float()
        ends = [0, attention.queries, attention.queries + attention.keys, attention.queries + 2 * attention.keys]
        for token in range(len(total) if added is not None else 0):
            for module in range(3):
                start, end = ends[module] * attention.width, ends[module + 1] * attention.width
                total[token, start:end] += self._added(given, token, added, module, start, end - start)
        heads = total.to(qkv.dtype).view(len(qkv), -1, attention.width)
        cosine, sine = (table[given.positions.long()][:, None] for table in (attention.cosine, attention.sine))
        for module, norm in enumerate((attention.query_norm, attention.key_norm)):
            own = heads[:, ends[module] : ends[module + 1]].float()
            if norm is not None:
                own = own * torch.rsqrt(own.square().mean(dim=-1, keepdim=True) + attention.epsilon)
                own = (own.to(qkv.dtype).float() * norm.float()).to(qkv.dtype).float()
            first, second = own.chunk(2, dim=-1)
            turned = torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
            heads[:, ends[module] : ends[module + 1]] = turned.to(qkv.dtype)
        rotated.copy_(heads.reshape(qkv.shape))
        rows, positions = given.rows.long(), given.positions.long()
        attention.cached_keys[rows, :, positions] = heads[:, ends[1] : ends[2]]
        attention.cached_values[rows, :, positions] = heads[:, ends[2] :]

    def attend_prompts(self, given: Pass, rotated: Tensor, attention: Attention, attended: Tensor) -> None:
        assert given.starts is not None
        heads = rotated.view(len(rotated), -1, attention.width).transpose(0, 1)
        split = attention.queries + attention.keys
        queries, keys, values = heads[: attention.queries], heads[attention.queries : split], heads[split:]
        starts = given.starts.tolist()
        for start in sorted(set(starts)):
            own = slice(start, start + starts.count(start))
            result = _attend(queries[:, own], keys[:, own], values[:, own], is_causal=True)
            attended[own] = result.transpose(0, 1).reshape(own.stop - own.start, -1)

    def low(self, given: Pass, x: Tensor, into: Low) -> None:
        into.sums.zero_()
        for token in range(len(x)):
            for number, a, _, _ in self._terms(given, token, into):
                products = (a.float() @ x[token].float()).view(into.site.modules, -1)
                into.sums[token, 0].view(into.site.modules, -1, products.shape[1])[:, number] = products

    def activate(self, given: Pass, gate_up: Tensor, added: Low | None, act: Tensor, into: Low | None) -> None:
        total, width = gate_up.float(), act.shape[1]
        for token in range(len(total) if added is not None else 0):
            for module in range(2):
                own = slice(module * width, (module + 1) * width)
                total[token, own] += self._added(given, token, added, module, own.start, width)
        act.copy_(functional.silu(total[:, :width]) * total[:, width:])
        if into is not None:
            self.low(given, act, into)

    def gather(self, body: Tensor, index: Tensor, entry: Tensor) -> None:
        entry.copy_(torch.where(index >= 0, body[index.clamp(min=0).long()], 0))

    def _terms(self, given: Pass, token: int, low: Low) -> Iterator[tuple[int, Tensor, Tensor, float]]:
        """Yield the number, A, B and factor of every term of a token."""
        assert self._adapters is not None
        site, rank, terms = low.site, self._adapters.rank, self._adapters.terms
        slot = given.slots[int(given.lanes[token])]
        for number, (entry, factor) in enumerate(
            zip(slot[:terms].tolist(), slot[terms:].view(torch.float32).tolist(), strict=True)
        ):
            if entry >= 0:
                own = self._adapters.pool[entry]
                rows = site.modules * rank
                a = own[site.a_offset : site.a_offset + rows * site.inputs].view(rows, site.inputs)
                b = own[site.b_offset : site.b_offset + rank * site.outputs].view(rank, site.outputs)
                yield number, a, b, factor

    def _added(self, given: Pass, token: int, low: Low | None, module: int, start: int, width: int) -> Tensor:
        added = torch.zeros(width, device=given.ids.device)
        if low is not None and self._adapters is not None:
            sums = low.sums[token].view(low.sums.shape[1], low.site.modules, self._adapters.terms, -1)
            for number, _, b, factor in self._terms(given, token, low):
                own = sums[:, module, number].sum(dim=0)
                added += (own * factor) @ b[:, start : start + width].float()
        return added


def _attend(queries: Tensor, keys: Tensor, values: Tensor, *, is_causal: bool) -> Tensor:
    return functional.scaled_dot_product_attention(queries, keys, values, is_causal=is_causal, enable_gqa=True)
