"""Distillation: the model itself, with the passage in its prompt and no adapter, teaches the adapter what to expect.

The teacher's passes are made once for a group, before its first step, and its most probable tokens are kept; no second
model is in memory. (Context distillation: arXiv 2112.00861, section 2.1; for adapters of documents: arXiv 2506.06266.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from registry.base_model import LoadedModel
from registry.encoding.examples import Example
from registry.encoding.packing import Packing, Row, passes

TOP_TOKENS = 32
"""Of how many most probable next tokens a teacher's expectation is kept, renormalised to sum 1."""

ForwardPass = Callable[[Packing], Tensor]


@dataclass(frozen=True, slots=True)
class Expected:
    """For every loss token of one example its ``TOP_TOKENS`` candidates: both ``[loss tokens, k]``."""

    tokens: Tensor
    probabilities: Tensor


Taught = Sequence[Sequence[Expected | None]]
"""For every member and each of its examples what its teacher expects; None where it has none."""


def teacher_rows(examples: Sequence[Sequence[Example]], first: int) -> list[Row]:
    """Return the rows that teachers read, member after member; ``first`` is where they start in the group's tokens."""
    found = [(member, example) for member, own in enumerate(examples) for example in own if example.teacher]
    ids = [(*example.teacher, *example.ids[example.loss_start :]) for _, example in found]
    starts = accumulate((len(row) for row in ids), initial=first)
    return [Row(member, row, start) for (member, _), row, start in zip(found, ids, starts, strict=False)]


@torch.no_grad()
def teach(
    loaded: LoadedModel, forward: ForwardPass, examples: Sequence[Sequence[Example]], rows: Sequence[Row], most: int
) -> Taught:
    """Return what the teachers of ``rows`` (of ``teacher_rows``) expect, at most ``most`` tokens in a pass.

    ``forward`` gives the last hidden states ``[tokens, hidden]`` of a packing, with adapters that do nothing yet.
    """
    head = loaded.model.get_output_embeddings().weight.detach()
    expected = _expected(loaded, forward, examples, rows, most, head)
    return [[next(expected) if example.teacher else None for example in own] for own in examples]


def _expected(
    loaded: LoadedModel,
    forward: ForwardPass,
    examples: Sequence[Sequence[Example]],
    rows: Sequence[Row],
    most: int,
    head: Tensor,
) -> Iterator[Expected]:
    counts = [example.loss_tokens for own in examples for example in own if example.teacher]
    cap = getattr(loaded.model.config, "final_logit_softcapping", None)
    for part in passes([len(row.ids) for row in rows], most) if rows else ():
        packing = Packing(rows[part], loaded.device, loaded.model.dtype)
        hidden = forward(packing)
        for places, count in zip(packing.places, counts[part], strict=True):
            logits = (hidden[places[-count - 1 : -1].to(hidden.device)] @ head.t()).float()
            if cap is not None:
                logits = cap * torch.tanh(logits / cap)
            best = logits.topk(min(TOP_TOKENS, logits.shape[1]), dim=1)
            yield Expected(best.indices, best.values.softmax(dim=1))
