"""Next-token loss from hidden states, without keeping the logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from registry.encoding.kernels import Kernels, Memory

CHUNK_BYTES = {"cpu": 128 * 2**20}
ACCELERATOR_CHUNK_BYTES = 512 * 2**20
"""How much of the logits exists at one time."""


@dataclass(frozen=True, slots=True)
class SoftTargets:
    """What a teacher expects at some positions: next tokens and how probable they are.

    ``at`` ``[n]`` int64 are the positions, ``tokens`` ``[n, k]`` int64 the most probable tokens there and
    ``probabilities`` ``[n, k]`` float32, of sum 1; ``share`` is how much of these positions' loss they are.
    """

    at: Tensor
    tokens: Tensor
    probabilities: Tensor
    share: float


def head_loss(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    weights: Tensor,
    cap: float | None,
    kernels: Kernels,
    memory: Memory,
    soft: SoftTargets | None = None,
) -> tuple[Tensor, Tensor]:
    """Return next-token losses and the gradient of their weighted sum by the hidden states.

    The head is frozen, so the gradient is made with the loss, and only one chunk of logits exists at a time. Where a
    teacher is followed with share s, the loss is (1 - s) * -log p(target) + s * sum over its tokens j of q_j * -log
    p_j (arXiv 1503.02531, at temperature 1), whose gradient by the logits is p - (1 - s) onehot - s q.

    Args:
        hidden: ``[positions, hidden]``, last hidden states at the positions with loss only.
        head: ``[vocabulary, hidden]``, the frozen output embedding.
        targets: ``[positions]`` int64, the next tokens.
        weights: ``[positions]`` float32, such as 1 / number of loss tokens of the position's document.
        cap: the model's soft cap of logits (Gemma 2), if it has one: logits = cap * tanh(logits / cap).
        kernels: of the device.
        memory: for the chunk.
        soft: what a teacher expects, positions ascending; None without one.

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
        taught = None if soft is None else _Taught.of(soft, logits, targets, start)
        losses[part] = kernels.cross_entropy(logits, targets[part], weights[part])
        if taught is not None:
            taught.put(logits, losses[part], weights[part])
        if capped is not None:
            logits.mul_(1 - capped**2)
        torch.mm(logits, head, out=slope[part])
    return losses, slope


@dataclass(frozen=True, slots=True)
class _Taught:
    """The positions of one chunk that a teacher is followed at: ``rows`` of the chunk.

    ``tokens`` ``[n, 1 + k]`` are the target and the teacher's, ``logits`` theirs, ``change`` ``[n, 1 + k]`` what the
    teacher adds to the slopes of a loss of weight 1.
    """

    rows: Tensor
    tokens: Tensor
    logits: Tensor
    change: Tensor

    @classmethod
    def of(cls, soft: SoftTargets, logits: Tensor, targets: Tensor, start: int) -> _Taught | None:
        which = ((soft.at >= start) & (soft.at < start + len(logits))).nonzero()[:, 0]
        if not len(which):
            return None
        rows = soft.at[which] - start
        tokens = torch.cat([targets[start:][rows][:, None], soft.tokens[which]], dim=1)
        probabilities = soft.probabilities[which]
        change = soft.share * torch.cat([torch.ones_like(probabilities[:, :1]), -probabilities], dim=1)
        return cls(rows, tokens, logits[rows[:, None], tokens].float(), change)

    def put(self, slopes: Tensor, losses: Tensor, weights: Tensor) -> None:
        """Turn slopes and losses of the targets into those of the mixture, in place."""
        added = self.change * weights[self.rows][:, None]
        at = (self.rows[:, None].expand_as(self.tokens), self.tokens)
        slopes.index_put_(at, added.to(slopes.dtype), accumulate=True)
        # -log p_j is the target's loss and its logit less that of j.
        losses.index_add_(0, self.rows, (self.change * self.logits).sum(1))
