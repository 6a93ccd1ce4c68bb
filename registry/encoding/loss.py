"""Next-token loss from hidden states, without keeping the logits."""

from __future__ import annotations

import torch
from torch import Tensor

from registry.encoding.kernels import Kernels, Memory

CHUNK_BYTES = {"cpu": 128 * 2**20}
ACCELERATOR_CHUNK_BYTES = 512 * 2**20
"""How much of the logits exists at one time."""


def head_loss(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    weights: Tensor,
    cap: float | None,
    kernels: Kernels,
    memory: Memory,
) -> tuple[Tensor, Tensor]:
    """Return next-token losses and the gradient of their weighted sum by the hidden states.

    The head is frozen, so the gradient is made with the loss, and only one chunk of logits exists at a time.

    Args:
        hidden: ``[positions, hidden]``, last hidden states at the positions with loss only.
        head: ``[vocabulary, hidden]``, the frozen output embedding.
        targets: ``[positions]`` int64, the next tokens.
        weights: ``[positions]`` float32, such as 1 / number of loss tokens of the position's document.
        cap: the model's soft cap of logits (Gemma 2), if it has one: logits = cap * tanh(logits / cap).
        kernels: of the device.
        memory: for the chunk.

    Returns:
        ``[positions]`` float32 and ``[positions, hidden]``.
    """
    losses = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
    slope = torch.empty_like(hidden)
    limit = CHUNK_BYTES.get(memory.device, ACCELERATOR_CHUNK_BYTES)
    rows = max(1, limit // (len(head) * head.element_size()))
    for start in range(0, len(targets), rows):
        part = slice(start, start + rows)
        logits = memory.take("logits", (len(targets[part]), len(head)), hidden.dtype)
        torch.mm(hidden[part], head.t(), out=logits)
        capped = None
        if cap is not None:
            capped = torch.tanh(logits / cap)
            logits = capped * cap
        losses[part] = kernels.cross_entropy(logits, targets[part], weights[part])
        if capped is not None:
            logits.mul_(1 - capped**2)
        torch.mm(logits, head, out=slope[part])
    return losses, slope
