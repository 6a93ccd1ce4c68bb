"""What a pass computes between its matrix products.

Two implementations of one interface: kernels in Triton for CUDA, and PyTorch operations that say the same in plain
words, for tests and for devices without Triton.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from registry.generation.runners.cuda.pool import Low

COLUMNS = 128
"""Activations that one program computes; each leaves its part of A_down's product."""
ALONG = 256
"""Inputs that one program of ``low`` multiplies."""
TOGETHER = 64
"""Most tokens of a block: as many as four warps multiply at once."""
CHUNK = 256
"""Keys that one program of ``attend`` goes through."""


@dataclass(frozen=True, slots=True)
class Pass:
    """The tokens of a pass, on the device, int32.

    ``ids``, ``positions``, ``rows`` (of keys and values) and ``lanes`` (of slots) are ``[tokens]``. ``slots``
    ``[lanes, 2 * terms]`` holds a lane's entries (-1: none) and then their float32 factors, bit by bit. ``blocks``
    ``[n, 3]`` are up to ``TOGETHER`` tokens of one lane each: the lane, the first token and how many (0: nothing).
    ``starts`` ``[tokens]`` is in passes of whole prompts the token that a token's prompt begins with. ``last`` are the
    tokens whose logits are wanted. ``chunks`` is in passes of a token a row how many parts attention comes in, and
    ``partial`` float32 is room for them.
    """

    ids: Tensor
    positions: Tensor
    rows: Tensor
    lanes: Tensor
    slots: Tensor
    blocks: Tensor
    starts: Tensor | None = None
    last: Tensor | None = None
    chunks: int = 1
    partial: Tensor | None = None

    @property
    def factors(self) -> Tensor:
        """The slots' numbers, read as float32."""
        return self.slots.view(torch.float32)

    @property
    def tokens(self) -> int:
        """How many there are."""
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Attention:
    """The shape of attention, the rotation, and keys and values ``[rows, key heads, context, width]`` of one block."""

    queries: int
    keys: int
    width: int
    cosine: Tensor
    sine: Tensor
    query_norm: Tensor | None
    key_norm: Tensor | None
    epsilon: float
    cached_keys: Tensor
    cached_values: Tensor


class Operations(Protocol):
    """See the module. ``added`` is always what the adapters add to the input that is named before it."""

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
        """Write W x (+ b) for ``x`` ``[tokens, in]`` and ``weight`` ``[outs, in]``.

        What comes out for a token of a pass of one token a row does not depend on the other rows.
        """

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
        """Write x + y + added to ``summed`` and its norm to ``normed``, and A normed to ``into``.

        ``source`` ``[n]`` says which rows of ``x`` and ``y`` are meant, where it is not each token's own.
        """

    def attend(self, given: Pass, qkv: Tensor, attention: Attention, added: Low | None, attended: Tensor) -> None:
        """Attend from one token of every row to those before it, and keep the token's key and value."""

    def rotate(self, given: Pass, qkv: Tensor, attention: Attention, added: Low | None, rotated: Tensor) -> None:
        """Write qkv + added with queries and keys rotated to ``rotated``, and keep keys and values."""

    def attend_prompts(self, given: Pass, rotated: Tensor, attention: Attention, attended: Tensor) -> None:
        """Attend from every token of a prompt to itself and those before it."""

    def low(self, given: Pass, x: Tensor, into: Low) -> None:
        """Write A x to ``into``, a split for every ``ALONG`` inputs."""

    def activate(self, given: Pass, gate_up: Tensor, added: Low | None, act: Tensor, into: Low | None) -> None:
        """Write silu(gate) * up of gate_up + added to ``act``, and A act to ``into``, a split for every ``COLUMNS``."""

    def gather(self, body: Tensor, index: Tensor, entry: Tensor) -> None:
        """Write the elements ``index`` of a body to an entry, 0 for -1."""
