"""Choosing the next token of many rows at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TOP_TOKENS = 64
TOP_SHARE = 0.9
"""Sampling chooses among the likeliest of ``TOP_TOKENS`` that have this share of their probability together."""


@torch.inference_mode()
def choose(logits: Tensor, temperatures: Sequence[float], draws: Sequence[float]) -> list[int]:
    """Return a token for every row of ``logits`` [rows, vocabulary].

    A row whose temperature is 0 gets its likeliest token, another the one at its draw, a number from 0 up to 1.
    """
    best, tokens = logits.topk(min(TOP_TOKENS, logits.shape[-1]))
    scales = torch.tensor(temperatures, device=logits.device)[:, None]
    # Divided by next to nothing, the likeliest token has all the probability.
    cumulated = (best.float() / scales.clamp(min=1e-6)).softmax(-1).cumsum(-1)
    within = (cumulated < TOP_SHARE * cumulated[:, -1:]).sum(-1, keepdim=True)
    points = torch.tensor(draws, device=logits.device)[:, None] * cumulated.gather(-1, within)
    places = torch.minimum((cumulated < points).sum(-1, keepdim=True), within)
    places = places.masked_fill(scales <= 0, 0)
    chosen: list[int] = tokens.gather(-1, places)[:, 0].tolist()
    return chosen
