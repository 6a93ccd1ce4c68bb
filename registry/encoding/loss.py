"""Next-token loss from hidden states, without keeping the logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

CHUNK_POSITIONS = 256
"""Positions whose logits exist at one time: [256, vocabulary] in the base model's dtype."""


class _HeadLoss(torch.autograd.Function):
    """Sum of weighted cross-entropies; the gradient of the hidden states is made in the forward pass.

    The head is frozen, so nothing else needs the logits, and only one chunk of them exists at a time.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor, cap: float | None
    ) -> tuple[Tensor, Tensor]:
        losses = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden)
        for start in range(0, len(targets), CHUNK_POSITIONS):
            part = slice(start, start + CHUNK_POSITIONS)
            logits = functional.linear(hidden[part], head)
            if cap is not None:
                logits = torch.tanh(logits / cap) * cap
            # In the dtype of the logits: rounded logarithms stay exact near 0, where a token is nearly learned.
            log_probabilities = torch.log_softmax(logits, dim=-1)
            at_target = targets[part, None]
            of_target = log_probabilities.gather(1, at_target)
            losses[part] = -of_target[:, 0].float()
            slope = log_probabilities.exp_().scatter_(1, at_target, torch.expm1(of_target))
            if cap is not None:
                slope.mul_(1 - (logits / cap) ** 2)
            torch.mul(slope @ head, weights[part, None], out=gradient[part])
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(losses)
        return (losses * weights).sum(), losses

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].to(gradient.dtype), None, None, None, None


def head_loss(
    hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor, cap: float | None = None
) -> tuple[Tensor, Tensor]:
    """Return the weighted sum of next-token losses and the loss at every position.

    Args:
        hidden: ``[positions, hidden]``, last hidden states at the positions with loss only.
        head: ``[vocabulary, hidden]``, the frozen output embedding.
        targets: ``[positions]`` int64, the next tokens.
        weights: ``[positions]`` float32, such as 1 / number of loss tokens of the position's document.
        cap: the model's soft cap of logits (Gemma 2), if it has one: logits = cap * tanh(logits / cap).

    Returns:
        A scalar that back-propagates to ``hidden``, and ``[positions]`` float32 without gradient.
    """
    total, losses = _HeadLoss.apply(hidden, head, targets, weights, cap)  # type: ignore[no-untyped-call]
    return total, losses
