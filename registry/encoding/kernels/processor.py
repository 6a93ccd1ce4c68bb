"""Kernels on a CPU: compiled loops over the tensors' memory, and plain batched products for attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from registry.encoding.kernels import FeedForward, Heads, LowRank, Memory, compiled
from registry.encoding.packing import Packing, Segment
from registry.encoding.stack import Adapted
from registry.kernels import loops

_F = np.float32


@dataclass(frozen=True, slots=True)
class _Tables:
    """The segments of a packing as the loops read them.

    ``segments`` ``[n, 8]`` int64, in the order of buckets: start, length, prefix, before, place of the first query
    and queries of the bucket, place of the first key and keys of the bucket. ``followers`` ``[m, 2]`` are the segments
    in whose prefix a segment lies, and where in it; those of segment i from ``starts[i]`` to ``starts[i + 1]``.
    """

    segments: np.ndarray[Any, Any]
    followers: np.ndarray[Any, Any]
    starts: np.ndarray[Any, Any]
    queries: int
    keys: int
    scores: int


@dataclass(frozen=True, slots=True)
class _Saved:
    packing: Packing
    heads: Heads
    tables: _Tables
    queries: Tensor
    keys: Tensor
    values: Tensor
    weights: Tensor


class ProcessorKernels:
    """See ``Kernels``."""

    def __init__(self) -> None:
        """Remember the last packing's tables: every layer of a pass asks for them."""
        self._last: tuple[Packing, _Tables] | None = None

    def low_rank(self, modules: Sequence[Adapted], outs: int, scale: float) -> LowRank:
        return _OwnLowRank(modules, scale)

    def feed_forward(
        self,
        gate_up: Tensor,
        down: Tensor,
        gate_up_adapted: Sequence[Adapted],
        down_adapted: Sequence[Adapted],
        scale: float,
    ) -> FeedForward:
        return _FeedForward(gate_up, down, gate_up_adapted, down_adapted, scale)

    def rms_norm(
        self, x: Tensor, addend: Tensor | None, weight: Tensor, epsilon: float, summed: Tensor, out: Tensor
    ) -> Tensor:
        inverse = torch.empty(len(x))
        own = (_array(weight), _F(epsilon))
        if addend is None:
            loops.rms_norm(_array(x), *own, _array(out), inverse.numpy())
        else:
            loops.add_rms_norm(_array(x), _array(addend), *own, _array(summed), _array(out), inverse.numpy())
        return inverse

    def rms_norm_backward(self, slope: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, into: Tensor) -> None:
        compiled.rms_norm_backward(_array(slope), _array(x), _array(weight), inverse.numpy(), _array(into))

    def attention(
        self, qkv: Tensor, packing: Packing, heads: Heads, out: Tensor, memory: Memory, layer: int | None
    ) -> Any:
        tables, dtype, width = self._tables(packing), qkv.dtype, heads.width
        own = "scratch" if layer is None else str(layer)
        queries = memory.take(f"queries {own}", (tables.queries * heads.queries, width), dtype)
        keys = memory.take(f"keys {own}", (tables.keys * heads.keys, width), dtype)
        values = memory.take(f"values {own}", (tables.keys * heads.keys, width), dtype)
        weights = memory.take(f"weights {own}", (tables.scores * heads.queries,), dtype)
        found = memory.take("attended", (tables.queries * heads.queries, width), dtype)
        segments, shape = tables.segments, (heads.queries, heads.keys, width)
        rotation = (heads.cosine.numpy(), heads.sine.numpy(), _F(heads.scale))
        laid = [_array(tensor.view(-1)) for tensor in (queries, keys, values)]
        compiled.spread(_array(qkv), *shape, *rotation, segments, *laid)
        saved = _Saved(packing, heads, tables, queries, keys, values, weights)
        for q, k, _, w in _buckets(saved, queries, keys, values, weights):
            torch.bmm(q, k.transpose(1, 2), out=w)
        compiled.softmax(_array(weights), heads.queries, segments)
        for o, _, v, w in _buckets(saved, found, keys, values, weights):
            torch.bmm(w, v, out=o)
        compiled.collect(_array(found.view(-1)), heads.queries, width, segments, _array(out))
        return saved if layer is not None else None

    def attention_backward(self, slope: Tensor, saved: Any, into: Tensor, memory: Memory) -> None:
        assert isinstance(saved, _Saved)
        heads, tables, dtype, width = saved.heads, saved.tables, slope.dtype, saved.heads.width
        segments, shape = tables.segments, (heads.queries, heads.keys, width)
        rotation = (heads.cosine.numpy(), heads.sine.numpy(), _F(heads.scale))
        above = memory.take("attended", tuple(saved.queries.shape), dtype)
        of_queries = memory.take("queries slope", tuple(saved.queries.shape), dtype)
        of_keys = memory.take("keys slope", tuple(saved.keys.shape), dtype)
        of_values = memory.take("values slope", tuple(saved.values.shape), dtype)
        of_weights = memory.take("weights slope", tuple(saved.weights.shape), dtype)
        compiled.spread_slope(_array(slope), heads.queries, width, segments, _array(above.view(-1)))
        known = list(_buckets(saved, saved.queries, saved.keys, saved.values, saved.weights))
        slopes = list(_buckets(saved, of_queries, of_keys, of_values, of_weights))
        outer = [o for o, *_ in _buckets(saved, above, saved.keys, saved.values, saved.weights)]
        for o, (_, _, v, w), (_, _, dv, dw) in zip(outer, known, slopes, strict=True):
            torch.bmm(w.transpose(1, 2), o, out=dv)
            torch.bmm(o, v.transpose(1, 2), out=dw)
        compiled.softmax_backward(_array(saved.weights), _array(of_weights), heads.queries, segments)
        for (q, k, _, _), (dq, dk, _, dw) in zip(known, slopes, strict=True):
            torch.bmm(dw, k, out=dq)
            torch.bmm(dw.transpose(1, 2), q, out=dk)
        found = [_array(tensor.view(-1)) for tensor in (of_queries, of_keys, of_values)]
        following = (segments, tables.followers, tables.starts)
        compiled.collect_slopes(*found, *shape, *rotation, *following, _array(into))

    def cross_entropy(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        losses = torch.empty(len(logits))
        compiled.cross_entropy(_array(logits), targets.numpy(), weights.numpy(), losses.numpy())
        return losses

    def adamw(
        self,
        parameters: Tensor,
        gradients: Tensor,
        mean: Tensor,
        square: Tensor,
        rows: Sequence[int],
        rates: Tensor,
        done: Tensor,
        weight_decay: float,
        betas: tuple[float, float],
        epsilon: float,
    ) -> None:
        state = [tensor.numpy() for tensor in (parameters, gradients, mean, square)]
        for row, rate, steps in zip(rows, rates.tolist(), done.tolist(), strict=True):
            compiled.adamw(
                *(values[row] for values in state),
                _F(rate),
                _F(1 - rate * weight_decay),
                _F(1 / (1 - betas[0] ** steps)),
                _F(1 / (1 - betas[1] ** steps)),
                _F(betas[0]),
                _F(betas[1]),
                _F(epsilon),
            )

    def _tables(self, packing: Packing) -> _Tables:
        if self._last is None or self._last[0] is not packing:
            self._last = packing, _tables(packing)
        return self._last[1]


class _OwnLowRank:
    """See ``LowRank``: every token is multiplied with its own member's A and B, in float32."""

    def __init__(self, modules: Sequence[Adapted], scale: float) -> None:
        self._modules, self._scale = modules, scale

    def forward(self, x: Tensor, y: Tensor, packing: Packing) -> Any:
        owners, lows = packing.owners, []
        for module in self._modules:
            low = torch.empty(len(x), module.a.shape[1])
            compiled.low_product(_array(x), owners, _rows(module.a), low.numpy())
            compiled.add_product(_array(y[:, module.columns]), owners, low.numpy(), _rows(module.b), _F(self._scale))
            lows.append(low)
        return packing, lows

    def backward(self, saved: Any, x: Tensor, slope: Tensor, into: Tensor | None) -> None:
        packing, lows = saved
        owners = packing.owners
        for module, low in zip(self._modules, lows, strict=True):
            of_low = torch.empty_like(low)
            compiled.product_backward(
                _array(slope[:, module.columns]),
                owners,
                low.numpy(),
                _rows(module.b),
                _F(self._scale),
                _rows(module.of_b),
                of_low.numpy(),
            )
            compiled.low_backward(
                _array(x),
                owners,
                of_low.numpy(),
                _rows(module.a),
                _rows(module.of_a),
                _array(x if into is None else into),
                into is not None,
            )


@dataclass(frozen=True, slots=True)
class _FedForward:
    packing: Packing
    gate_up: Tensor
    lows: tuple[Tensor, Tensor, Tensor]


class _FeedForward:
    """See ``FeedForward``: products of the adapters are made where the activation is, while its rows are at hand."""

    def __init__(
        self,
        gate_up: Tensor,
        down: Tensor,
        gate_up_adapted: Sequence[Adapted],
        down_adapted: Sequence[Adapted],
        scale: float,
    ) -> None:
        width, hidden = down.shape[1], down.shape[0]
        self._gate_up, self._down, self._scale = gate_up, down, _F(scale)
        by_start = {module.columns.start: module for module in gate_up_adapted}
        self._gate = by_start.get(0) or _not_adapted(hidden, width)
        self._up = by_start.get(width) or _not_adapted(hidden, width)
        self._last = down_adapted[0] if down_adapted else _not_adapted(width, hidden)

    def forward(self, x: Tensor, out: Tensor, packing: Packing, memory: Memory, layer: int | None) -> Any:
        owners, gate, up, last = packing.owners, self._gate, self._up, self._last
        gate_up = memory.take(f"gate_up {layer}", (len(x), len(self._gate_up)), x.dtype)
        activated = memory.take("activated", (len(x), self._down.shape[1]), x.dtype)
        lows = tuple(torch.empty(len(x), module.a.shape[1]) for module in (gate, up, last))
        torch.mm(x, self._gate_up.t(), out=gate_up)
        for module, low in ((gate, lows[0]), (up, lows[1])):
            compiled.low_product(_array(x), owners, _rows(module.a), low.numpy())
        compiled.swiglu(
            _array(gate_up),
            _array(activated),
            owners,
            self._scale,
            lows[0].numpy(),
            _rows(gate.b),
            lows[1].numpy(),
            _rows(up.b),
            _rows(last.a),
            lows[2].numpy(),
        )
        torch.mm(activated, self._down.t(), out=out)
        compiled.add_product(_array(out), owners, lows[2].numpy(), _rows(last.b), self._scale)
        return _FedForward(packing, gate_up, (lows[0], lows[1], lows[2])) if layer is not None else None

    def backward(self, saved: Any, x: Tensor, slope: Tensor, into: Tensor | None, memory: Memory) -> None:
        assert isinstance(saved, _FedForward)
        owners, gate, up, last = saved.packing.owners, self._gate, self._up, self._last
        low_gate, low_up, low_last = (low.numpy() for low in saved.lows)
        of_gate, of_up, of_last = (np.empty_like(low) for low in (low_gate, low_up, low_last))
        of_activated = memory.take("activated", (len(x), self._down.shape[1]), x.dtype)
        torch.mm(slope, self._down, out=of_activated)
        compiled.product_backward(
            _array(slope), owners, low_last, _rows(last.b), self._scale, _rows(last.of_b), of_last
        )
        compiled.swiglu_backward(
            _array(of_activated),
            _array(saved.gate_up),
            owners,
            self._scale,
            low_gate,
            _rows(gate.b),
            _rows(gate.of_b),
            of_gate,
            low_up,
            _rows(up.b),
            _rows(up.of_b),
            of_up,
            _rows(last.a),
            _rows(last.of_a),
            of_last,
        )
        if into is not None:
            torch.mm(saved.gate_up, self._gate_up, out=into)
        for module, of_low in ((gate, of_gate), (up, of_up)):
            target = _array(x if into is None else into)
            compiled.low_backward(
                _array(x), owners, of_low, _rows(module.a), _rows(module.of_a), target, into is not None
            )


def _not_adapted(inner: int, outer: int) -> Adapted:
    """Return adapters of rank 0."""
    a, b = torch.empty(1, 0, inner), torch.empty(1, 0, outer)
    return Adapted(a, a, b, b, slice(0, 0))


def _array(tensor: Tensor) -> Any:
    """Return the tensor's memory as NumPy sees it; bfloat16 as its bits."""
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def _rows(values: Tensor) -> Any:
    """Return A or B of every member ``[n, r, width]`` as ``[n, r * width]``, in place."""
    return values.flatten(1).numpy()


def _tables(packing: Packing) -> _Tables:
    rows: list[tuple[int, ...]] = []
    ordered: list[Segment] = []
    queries = keys = scores = 0
    for bucket in packing.buckets:
        for segment in bucket.segments:
            place = (queries, bucket.queries, keys, bucket.keys)
            rows.append((segment.start, segment.length, segment.prefix, segment.before, *place))
            ordered.append(segment)
            queries, keys = queries + bucket.queries, keys + bucket.keys
            scores += bucket.queries * bucket.keys
    own: list[list[tuple[int, int]]] = [[] for _ in ordered]
    by_start = {segment.start: number for number, segment in enumerate(ordered)}
    for number, segment in enumerate(ordered):
        at = segment.prefix
        while at < segment.prefix + segment.before:  # a prefix is one segment or several, one after the other
            own[by_start[at]].append((number, at - segment.prefix))
            at += ordered[by_start[at]].length
    return _Tables(
        segments=np.array(rows, np.int64),
        followers=np.array([follower for some in own for follower in some], np.int64).reshape(-1, 2),
        starts=np.array([0, *accumulate(map(len, own))], np.int64),
        queries=queries,
        keys=keys,
        scores=scores,
    )


def _buckets(saved: _Saved, queries: Tensor, keys: Tensor, values: Tensor, weights: Tensor) -> Any:
    """Yield every bucket's part as batches: ``[segments * key heads, ...]``, queries that share a key as one matrix."""
    heads = saved.heads
    shared = heads.queries // heads.keys
    query = key = score = 0
    for bucket in saved.packing.buckets:
        count = len(bucket.segments)
        batch = count * heads.keys
        to_query = query + count * heads.queries * bucket.queries
        to_key = key + batch * bucket.keys
        to_score = score + count * heads.queries * bucket.queries * bucket.keys
        yield (
            queries[query:to_query].view(batch, shared * bucket.queries, -1),
            keys[key:to_key].view(batch, bucket.keys, -1),
            values[key:to_key].view(batch, bucket.keys, -1),
            weights[score:to_score].view(batch, shared * bucket.queries, bucket.keys),
        )
        query, key, score = to_query, to_key, to_score
