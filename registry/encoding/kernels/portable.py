"""Kernels of PyTorch operations, for GPUs; on CUDA torch.compile fuses each into one or two launches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from registry.encoding.kernels import FeedForward, Heads, LowRank, Memory
from registry.encoding.low_rank import MaskedLowRank
from registry.encoding.packing import Bucket, Packing
from registry.encoding.stack import Adapted


class PortableKernels:
    """See ``Kernels``."""

    def __init__(self, device: str, compiled: bool | None = None) -> None:
        """Compile on CUDA, where Triton comes with PyTorch, unless ``compiled`` says otherwise."""
        fuse: Callable[[Any], Any] = _unchanged
        if device.startswith("cuda") if compiled is None else compiled:
            fuse = _compile
        self._rms_norm, self._rms_norm_backward = fuse(_rms_norm), fuse(_rms_norm_backward)
        self._swiglu, self._swiglu_backward = fuse(_swiglu), fuse(_swiglu_backward)
        self._rotate, self._cross_entropy, self._adamw = fuse(_rotate), fuse(_cross_entropy), fuse(_adamw)

    def low_rank(self, modules: Sequence[Adapted], outs: int, scale: float) -> LowRank:
        return MaskedLowRank(modules, outs, scale)

    def feed_forward(
        self,
        gate_up: Tensor,
        down: Tensor,
        gate_up_adapted: Sequence[Adapted],
        down_adapted: Sequence[Adapted],
        scale: float,
    ) -> FeedForward:
        return _FeedForward(
            gate_up,
            down,
            self.low_rank(gate_up_adapted, len(gate_up), scale) if gate_up_adapted else None,
            self.low_rank(down_adapted, len(down), scale) if down_adapted else None,
            self._swiglu,
            self._swiglu_backward,
        )

    def rms_norm(
        self, x: Tensor, addend: Tensor | None, weight: Tensor, epsilon: float, summed: Tensor, out: Tensor
    ) -> Tensor:
        inverse: Tensor = self._rms_norm(x, addend, weight, epsilon, summed, out)
        return inverse

    def rms_norm_backward(self, slope: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, into: Tensor) -> None:
        self._rms_norm_backward(slope, x, weight, inverse, into)

    def attention(
        self, qkv: Tensor, packing: Packing, heads: Heads, out: Tensor, memory: Memory, layer: int | None
    ) -> Any:
        with torch.set_grad_enabled(layer is not None):
            start = qkv.clone().requires_grad_() if layer is not None else qkv
            found = self._attend(start, packing, heads)
        out.copy_(found.detach())
        return (start, found) if layer is not None else None

    def attention_backward(self, slope: Tensor, saved: Any, into: Tensor, memory: Memory) -> None:
        start, found = saved
        into.copy_(torch.autograd.grad(found, start, slope)[0])

    def _attend(self, qkv: Tensor, packing: Packing, heads: Heads) -> Tensor:
        every = qkv.view(packing.tokens, -1, heads.width)
        q, k, v = torch.split(every, [heads.queries, heads.keys, heads.keys], dim=1)
        cosine, sine = heads.cosine[packing.positions, None], heads.sine[packing.positions, None]
        q, k = self._rotate(q, cosine, sine), self._rotate(k, cosine, sine)
        return attend(q, k, v, packing, heads.scale).flatten(1)

    def cross_entropy(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        losses: Tensor = self._cross_entropy(logits, targets, weights)
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
        scales = torch.stack([rates, 1 - rates * weight_decay, 1 / (1 - betas[0] ** done), 1 / (1 - betas[1] ** done)])
        columns = scales.to(parameters.device, torch.float32)[:, :, None]
        state = (parameters, gradients, mean, square)
        if len(rows) == len(parameters):
            self._adamw(*state, columns, betas, epsilon)
            return
        at = torch.tensor(list(rows), device=parameters.device)
        chosen = [values[at] for values in state]
        self._adamw(*chosen, columns, betas, epsilon)
        for values, moved in zip(state, chosen, strict=True):
            values[at] = moved


@dataclass(frozen=True, slots=True)
class _FedForward:
    gate_up: Tensor
    activated: Tensor
    of_gate_up: Any
    of_down: Any


@dataclass(frozen=True, slots=True)
class _FeedForward:
    """See ``FeedForward``."""

    gate_up: Tensor
    down: Tensor
    gate_up_low: LowRank | None
    down_low: LowRank | None
    swiglu: Callable[[Tensor, Tensor], None]
    swiglu_backward: Callable[[Tensor, Tensor], None]

    def forward(self, x: Tensor, out: Tensor, packing: Packing, memory: Memory, layer: int | None) -> Any:
        gate_up = memory.take(f"gate_up {layer}", (len(x), len(self.gate_up)), x.dtype)
        torch.mm(x, self.gate_up.t(), out=gate_up)
        of_gate_up = self.gate_up_low.forward(x, gate_up, packing) if self.gate_up_low else None
        activated = memory.take(f"activated {layer}", (len(x), self.down.shape[1]), x.dtype)
        self.swiglu(gate_up, activated)
        torch.mm(activated, self.down.t(), out=out)
        of_down = self.down_low.forward(activated, out, packing) if self.down_low else None
        return _FedForward(gate_up, activated, of_gate_up, of_down) if layer is not None else None

    def backward(self, saved: Any, x: Tensor, slope: Tensor, into: Tensor | None, memory: Memory) -> None:
        assert isinstance(saved, _FedForward)
        of_activated = memory.take("activated slope", tuple(saved.activated.shape), x.dtype)
        torch.mm(slope, self.down, out=of_activated)
        if self.down_low:
            self.down_low.backward(saved.of_down, saved.activated, slope, of_activated)
        self.swiglu_backward(of_activated, saved.gate_up)
        if into is not None:
            torch.mm(saved.gate_up, self.gate_up, out=into)
        if self.gate_up_low:
            self.gate_up_low.backward(saved.of_gate_up, x, saved.gate_up, into)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    packing: Packing,
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
) -> Tensor:
    """Return what every token attends to, ``[tokens, heads, width]``, each segment within itself and its prefix.

    Args:
        q: ``[tokens, heads, width]``, rotated.
        k: ``[tokens, key heads, width]``; each is shared by heads / key heads queries.
        v: like ``k``.
        packing: where the segments lie.
        scale: of the scores.
        softcap: scores are cap * tanh(score / cap) (Gemma 2).
        window: how many tokens, itself included, a token sees; None for all.
    """
    gather, _, back = packing.by_head(q.shape[1])
    _, gather_keys, _ = packing.by_head(k.shape[1])
    queries, keys, values = (tensor.reshape(-1, tensor.shape[-1]) for tensor in (q, k, v))
    found: list[Tensor] = []
    for bucket, own, own_keys in zip(packing.buckets, gather, gather_keys, strict=True):
        found.append(
            _attend(
                queries.index_select(0, own).view(len(bucket.segments), q.shape[1], bucket.queries, -1),
                keys.index_select(0, own_keys).view(len(bucket.segments), k.shape[1], bucket.keys, -1),
                values.index_select(0, own_keys).view(len(bucket.segments), k.shape[1], bucket.keys, -1),
                bucket,
                scale,
                softcap,
                window if window is not None and window < bucket.keys else None,
            ).reshape(-1, v.shape[-1])
        )
    return torch.cat(found).index_select(0, back).view(packing.tokens, q.shape[1], -1)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, bucket: Bucket, scale: float, softcap: float | None, window: int | None
) -> Tensor:
    """Return softmax(q k^T scale) v of a bucket, ``[segments, heads, queries, width]``."""
    is_plain = window is None and not any(segment.before for segment in bucket.segments)
    if softcap is None and is_plain:
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
    visible = bucket.visible(window)[:, None]
    if softcap is None:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=scale, enable_gqa=True)
    shared = q.shape[1] // k.shape[1]
    scores = (q * scale).view(len(q), -1, shared, *q.shape[2:]) @ k[:, :, None].transpose(-1, -2)
    scores = torch.tanh(scores / softcap) * softcap
    weights = torch.softmax(scores.masked_fill(~visible[:, None], float("-inf")), dim=-1)
    return (weights @ v[:, :, None]).flatten(1, 2)


def _unchanged(function: Any) -> Any:
    return function


def _compile(function: Any) -> Any:
    return torch.compile(function, dynamic=True)


def _rms_norm(x: Tensor, addend: Tensor | None, weight: Tensor, epsilon: float, summed: Tensor, out: Tensor) -> Tensor:
    if addend is not None:
        summed.copy_(x + addend)
    inverse = torch.rsqrt(summed.float().square().mean(-1) + epsilon)
    out.copy_(summed.float() * inverse[:, None] * weight.float())
    return inverse


def _rms_norm_backward(slope: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, into: Tensor) -> None:
    weighted, scale = slope.float() * weight.float(), inverse[:, None]
    along = (weighted * x.float()).mean(-1, keepdim=True) * scale**3
    into.copy_(into.float() + weighted * scale - x.float() * along)


def _swiglu(gate_up: Tensor, out: Tensor) -> None:
    gate, up = gate_up.float().chunk(2, dim=-1)
    out.copy_(functional.silu(gate) * up)


def _swiglu_backward(slope: Tensor, gate_up: Tensor) -> None:
    gate, up = gate_up.float().chunk(2, dim=-1)
    outer, sigmoid = slope.float(), torch.sigmoid(gate)
    of_gate = outer * up * sigmoid * (1 + gate * (1 - sigmoid))
    gate_up.copy_(torch.cat([of_gate, outer * gate * sigmoid], dim=-1))


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], dim=-1).to(x.dtype)


def _cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    logarithms = torch.log_softmax(logits.float(), dim=-1)
    at_target = targets[:, None]
    of_target = logarithms.gather(1, at_target)
    logits.copy_(logarithms.exp().scatter(1, at_target, torch.expm1(of_target)) * weights[:, None])
    return -of_target[:, 0]


def _adamw(
    parameters: Tensor,
    gradients: Tensor,
    mean: Tensor,
    square: Tensor,
    columns: Tensor,
    betas: tuple[float, float],
    epsilon: float,
) -> None:
    rate, shrink, mean_scale, square_scale = columns
    mean.lerp_(gradients, 1 - betas[0])
    square.mul_(betas[1]).addcmul_(gradients, gradients, value=1 - betas[1])
    step = mean * mean_scale / ((square * square_scale).sqrt() + epsilon)
    parameters.mul_(shrink).sub_(rate * step)
    gradients.zero_()
