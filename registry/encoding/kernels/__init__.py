"""What a decoder block computes between its matrix products, forward and backward, as few passes over memory as can be.

Two implementations of one interface: loops compiled for the processor, and PyTorch operations for every other device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from registry.encoding.packing import Packing

if TYPE_CHECKING:
    from registry.encoding.stack import Adapted


@dataclass(frozen=True, slots=True)
class Heads:
    """The shape of attention: ``queries`` heads share ``keys`` key heads of ``width`` elements.

    ``cosine`` and ``sine`` ``[positions, width / 2]`` float32 rotate queries and keys (arXiv 2104.09864), ``scale``
    multiplies the scores.
    """

    queries: int
    keys: int
    width: int
    scale: float
    cosine: Tensor
    sine: Tensor


@dataclass
class Memory:
    """Buffers by name that are taken again at every pass: fresh memory costs a page fault every 4 KiB on a CPU."""

    device: str
    _held: dict[str, Tensor] = field(default_factory=dict)

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a tensor of undefined content; what was taken under ``name`` before is overwritten."""
        count = 1
        for size in shape:
            count *= size
        held = self._held.get(name)
        if held is None or held.dtype != dtype or len(held) < count:
            # On a CPU half as much again: until it is written to it is no memory, and the next group may be larger.
            room = count + count // 2 if self.device == "cpu" else count
            held = self._held[name] = torch.empty(room, dtype=dtype, device=self.device)
        return held[:count].view(shape)


class LowRank(Protocol):
    """scale * B A x for every token's own A and B, of linear modules that share their input."""

    def forward(self, x: Tensor, y: Tensor, packing: Packing) -> Any:
        """Add the product for ``x`` ``[tokens, in]`` to ``y`` ``[tokens, outs]``; return what ``backward`` needs."""

    def backward(self, saved: Any, x: Tensor, slope: Tensor, into: Tensor | None) -> None:
        """Add the gradients of A and B to the stack's, and that of ``x`` to ``into`` if it is given."""


class FeedForward(Protocol):
    """W_down (silu(W_gate x) * W_up x), with the adapters of each of the three."""

    def forward(self, x: Tensor, out: Tensor, packing: Packing, memory: Memory, layer: int | None) -> Any:
        """Write the result for ``x`` ``[tokens, hidden]``; see ``Kernels.attention`` for ``layer`` and what returns."""

    def backward(self, saved: Any, x: Tensor, slope: Tensor, into: Tensor | None, memory: Memory) -> None:
        """Add the adapters' gradients to the stack's, and write that of ``x`` to ``into`` if it is given."""


class Kernels(Protocol):
    """The operations; ``slope`` is always the gradient of the loss by the operation's result."""

    def low_rank(self, modules: Sequence[Adapted], outs: int, scale: float) -> LowRank:
        """Return the products of adapters whose modules write to ``outs`` columns together."""

    def feed_forward(
        self,
        gate_up: Tensor,
        down: Tensor,
        gate_up_adapted: Sequence[Adapted],
        down_adapted: Sequence[Adapted],
        scale: float,
    ) -> FeedForward:
        """Return the operation for frozen weights ``[2 * width, hidden]`` and ``[hidden, width]``."""

    def rms_norm(
        self, x: Tensor, addend: Tensor | None, weight: Tensor, epsilon: float, summed: Tensor, out: Tensor
    ) -> Tensor:
        """Write ``x + addend`` to ``summed`` and that over its root mean square, times ``weight``, to ``out``.

        All are ``[n, width]``; without an addend ``summed`` is ``x``. Returns the inverse roots ``[n]`` float32.
        """

    def rms_norm_backward(self, slope: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, into: Tensor) -> None:
        """Add the gradient of ``x`` to ``into`` ``[n, width]``."""

    def attention(
        self, qkv: Tensor, packing: Packing, heads: Heads, out: Tensor, memory: Memory, layer: int | None
    ) -> Any:
        """Write what tokens attend to, ``[tokens, queries * width]``; ``qkv`` has queries, keys, values side by side.

        Returns what ``attention_backward`` needs, which lives in ``memory`` under the number of its layer; None where
        ``layer`` is None, for a pass without gradients.
        """

    def attention_backward(self, slope: Tensor, saved: Any, into: Tensor, memory: Memory) -> None:
        """Write the gradient of ``qkv`` to ``into``."""

    def cross_entropy(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Overwrite logits ``[n, vocabulary]`` by the slope of their weighted losses; return losses ``[n]`` float32."""

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
        """Move the adapters ``rows`` of ``[n, elements]`` float32 by their gradients, and clear those.

        ``rates`` and ``done`` ``[rows]`` float64, on the CPU, are their learning rates and the steps they have taken
        with this one (arXiv 1711.05101).
        """


@cache
def kernels_for(device: str) -> Kernels:
    """Return the kernels that are fastest on ``device``, the same each time: on CUDA they are compiled once."""
    if device == "cpu":
        from registry.encoding.kernels.processor import ProcessorKernels

        return ProcessorKernels()
    from registry.encoding.kernels.portable import PortableKernels

    return PortableKernels(device)
