"""Greedy generation for a batch of prompts, each with its own adapters or none."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from registry.base_model import LoadedModel, stop_tokens
from registry.errors import UsageError
from registry.generation.slots import NO_ADAPTER, AdapterSlots

OnText = Callable[[int, str], None]
"""Called with the row and the text that it grew by."""


def token_limit(loaded: LoadedModel) -> int | None:
    """Return how many tokens a prompt and its answer may have together; None where the model sets no limit."""
    limit = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    return None if limit is None else int(limit)


@dataclass(frozen=True, slots=True)
class Generated:
    """What came after one prompt: ``text`` without special tokens and outer white space, ``tokens`` without the end.

    ``prefill_ms`` and ``decode_ms`` are the batch's milliseconds divided by its rows.
    """

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    prefill_ms: float
    decode_ms: float


@dataclass(slots=True)
class _Row:
    """A prompt in progress; ``shown`` is the text that the caller was told."""

    number: int
    slot: int
    tokens: list[int] = field(default_factory=list)
    shown: str = ""


@torch.inference_mode()
def generate(
    loaded: LoadedModel,
    slots: AdapterSlots | None,
    prompts: Sequence[Sequence[int]],
    slot_of_row: Sequence[int] | None = None,
    *,
    max_new_tokens: int,
    on_text: OnText | None = None,
) -> list[Generated]:
    """Continue every prompt by the most probable tokens, all in one batch, and return them in order.

    A row ends at an end-of-text or end-of-turn token or after ``max_new_tokens``, and then leaves the batch. In fp32
    each row's tokens are those that it gets alone: padding is on the left, masked, and does not count as a position.

    Args:
        loaded: the model, with ``slots`` in it if any are given.
        slots: the adapters; None answers with the bare model.
        prompts: token ids, at least one for each prompt.
        slot_of_row: each prompt's slot or ``NO_ADAPTER``; None is ``NO_ADAPTER`` for all.
        max_new_tokens: at least 1.
        on_text: told of each row's text as it grows.

    Raises:
        UsageError: a prompt is empty or too long for the model, or a number does not fit.
    """
    chosen = list(slot_of_row) if slot_of_row is not None else [NO_ADAPTER] * len(prompts)
    _check(loaded, slots, prompts, chosen, max_new_tokens)
    if not prompts:
        return []
    rows = [_Row(number=number, slot=slot) for number, slot in enumerate(chosen)]
    with nullcontext() if slots is None else slots.active(chosen):
        started = time.perf_counter()
        batch = _Batch(loaded, slots, rows, prompts)
        prefilled = time.perf_counter()
        _decode(loaded, batch, max_new_tokens, on_text)
        decoded = time.perf_counter()
    return [
        Generated(
            text=loaded.tokenizer.decode(row.tokens, skip_special_tokens=True).strip(),
            tokens=tuple(row.tokens),
            prompt_tokens=len(prompt),
            prefill_ms=(prefilled - started) * 1000 / len(rows),
            decode_ms=(decoded - prefilled) * 1000 / len(rows),
        )
        for row, prompt in zip(rows, prompts, strict=True)
    ]


def _decode(loaded: LoadedModel, batch: _Batch, max_new_tokens: int, on_text: OnText | None) -> None:
    ends = stop_tokens(loaded.tokenizer, loaded.model)
    while True:
        batch.keep([token not in ends for token in batch.next_tokens])
        for row, token in zip(batch.rows, batch.next_tokens, strict=True):
            row.tokens.append(token)
            if on_text is not None:
                _show(loaded, row, on_text)
        batch.keep([len(row.tokens) < max_new_tokens for row in batch.rows])
        if not batch.rows:
            break
        batch.step()


class _Batch:
    """The rows that still run, with the model's cache and the token that each gets next."""

    def __init__(
        self, loaded: LoadedModel, slots: AdapterSlots | None, rows: list[_Row], prompts: Sequence[Sequence[int]]
    ) -> None:
        """Run the prompts through the model."""
        self.rows = rows
        self._model: Any = loaded.model
        self._slots = slots
        lengths = [len(prompt) for prompt in prompts]
        longest = max(lengths)
        ids = torch.zeros(len(prompts), longest, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for index, prompt in enumerate(prompts):
            ids[index, longest - lengths[index] :] = torch.tensor(prompt)
            mask[index, longest - lengths[index] :] = 1
        self._positions = torch.tensor(lengths, device=loaded.device)
        # Without padding the model needs no mask, and attention takes its fast path.
        self._mask: Tensor | None = mask.to(loaded.device) if min(lengths) < longest else None
        self._cache = DynamicCache(config=self._model.config)
        positions = (mask.cumsum(1) - 1).clamp_(min=0).to(loaded.device)
        self.next_tokens = self._forward(ids.to(loaded.device), positions)

    def step(self) -> None:
        """Feed every row its next token."""
        ids = torch.tensor(self.next_tokens, device=self._positions.device)[:, None]
        if self._mask is not None:
            self._mask = torch.cat([self._mask, torch.ones_like(ids)], dim=1)
        positions = self._positions[:, None]
        self._positions = self._positions + 1
        self.next_tokens = self._forward(ids, positions)

    def keep(self, wanted: Sequence[bool]) -> None:
        """Leave only the wanted rows in the batch."""
        if all(wanted):
            return
        indices = [index for index, is_wanted in enumerate(wanted) if is_wanted]
        self.rows = [self.rows[index] for index in indices]
        self.next_tokens = [self.next_tokens[index] for index in indices]
        if self.rows:
            chosen = torch.tensor(indices, device=self._positions.device)
            self._positions = self._positions[chosen]
            self._mask = None if self._mask is None else self._mask[chosen]
            self._cache.batch_select_indices(chosen)
            if self._slots is not None:
                self._slots.choose([row.slot for row in self.rows])

    def _forward(self, ids: Tensor, positions: Tensor) -> list[int]:
        hidden = self._model.get_decoder()(
            input_ids=ids, attention_mask=self._mask, position_ids=positions, cache=self._cache, use_cache=True
        ).last_hidden_state
        # The last of many tokens by itself: on a CPU the head takes 20 times as long for a view into all of them. What
        # some models do to logits (caps, scales) does not change which is the largest.
        logits = self._model.get_output_embeddings()(hidden[:, -1])
        best: list[int] = logits.argmax(dim=-1).tolist()
        return best


def _check(
    loaded: LoadedModel,
    slots: AdapterSlots | None,
    prompts: Sequence[Sequence[int]],
    slot_of_row: Sequence[int],
    max_new_tokens: int,
) -> None:
    if max_new_tokens < 1:
        raise UsageError(f"an answer needs room for at least one token, not {max_new_tokens}")
    if len(slot_of_row) != len(prompts):
        raise UsageError(f"{len(slot_of_row)} adapter slots are given for {len(prompts)} prompts")
    if slots is None and any(slot != NO_ADAPTER for slot in slot_of_row):
        raise UsageError("a prompt names an adapter slot, but the model has no slots")
    limit = token_limit(loaded)
    for number, prompt in enumerate(prompts):
        if not prompt:
            raise UsageError(f"prompt {number} is empty")
        if limit is not None and len(prompt) + max_new_tokens > limit:
            raise UsageError(
                f"prompt {number} has {len(prompt)} tokens; with {max_new_tokens} new ones that is more than the "
                f"{limit} the base model takes",
                hint="shorten the prompt, or ask for fewer new tokens",
            )


def _show(loaded: LoadedModel, row: _Row, on_text: OnText) -> None:
    text = loaded.tokenizer.decode(row.tokens, skip_special_tokens=True)
    # A character of several tokens is not text until its last one has come.
    if text.endswith("\ufffd") or len(text) <= len(row.shown):
        return
    on_text(row.number, text[len(row.shown) :])
    row.shown = text
