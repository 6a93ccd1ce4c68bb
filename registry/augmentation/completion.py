"""Completing many texts at once with the base model: what they share is computed once, finished rows leave.

Rows are padded on the left (between a shared beginning and their own), so that all of them go on at the same place.
What a row becomes depends on its own ids, temperature and seed, not on its neighbours, but for the rounding of floats.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.base_model import LoadedModel, stop_tokens

if TYPE_CHECKING:
    import torch

TOP_SHARE = 0.9
"""Sampling chooses among the likeliest tokens that have this share of the probability together."""


@dataclass(frozen=True, slots=True)
class Row:
    """A text to go on with: at most ``max_new_tokens``, up to and with ``stop`` if that is reached before.

    A ``temperature`` of 0 takes the likeliest token each time, others sample by ``seed``.
    """

    ids: tuple[int, ...]
    max_new_tokens: int
    stop: str | None = None
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """What followed a row, without special tokens; ``elapsed_seconds`` is its share of its batch's time."""

    text: str
    tokens: int
    elapsed_seconds: float


class Completer:
    """Completes rows with one loaded model; keeps the computed shared beginnings."""

    def __init__(self, loaded: LoadedModel, batch_rows: int) -> None:
        """Use ``loaded`` for at most ``batch_rows`` rows at a time."""
        self._loaded = loaded
        self._batch_rows = batch_rows
        self._stop_ids = stop_tokens(loaded.tokenizer, loaded.model)
        self._beginnings: dict[tuple[int, ...], Any] = {}

    def complete(self, rows: Sequence[Row], beginning: tuple[int, ...] = ()) -> list[Completion]:
        """Return the completion of every row, each of which follows ``beginning``, in the order of ``rows``."""
        import torch

        order = sorted(range(len(rows)), key=lambda number: (len(rows[number].ids), number))
        found: dict[int, Completion] = {}
        for start in range(0, len(order), self._batch_rows):
            numbers = order[start : start + self._batch_rows]
            with torch.inference_mode():
                done = self._complete_batch([rows[number] for number in numbers], beginning)
            found.update(zip(numbers, done, strict=True))
        return [found[number] for number in range(len(rows))]

    def _complete_batch(self, rows: list[Row], beginning: tuple[int, ...]) -> list[Completion]:
        started = time.perf_counter()
        generated: list[list[int]] = [[] for _ in rows]
        texts = [""] * len(rows)
        draws = [random.Random(row.seed) for row in rows]
        batch = _Batch(self._loaded, rows, beginning, self._begin(beginning, len(_distinct(rows))))
        while batch.numbers:
            logits = batch.logits
            chosen: list[int] = []
            for place, number in enumerate(batch.numbers):
                row = rows[number]
                token = _choose(logits[place], row.temperature, draws[number])
                chosen.append(token)
                if token in self._stop_ids:
                    continue
                generated[number].append(token)
                texts[number] = self._loaded.tokenizer.decode(generated[number], skip_special_tokens=True)
            unfinished = [
                place
                for place, number in enumerate(batch.numbers)
                if chosen[place] not in self._stop_ids
                and not _has(texts[number], rows[number].stop)
                and len(generated[number]) < rows[number].max_new_tokens
            ]
            batch.advance(chosen, unfinished)
        elapsed = time.perf_counter() - started
        total = sum(map(len, generated)) or 1
        return [
            Completion(_until(text, row.stop), len(ids), elapsed * len(ids) / total)
            for text, row, ids in zip(texts, rows, generated, strict=True)
        ]

    def _begin(self, beginning: tuple[int, ...], count: int) -> Any:
        """Return the cache after ``beginning``, repeated for ``count`` rows."""
        import torch
        from transformers import DynamicCache

        model = self._loaded.model
        if not beginning:
            return DynamicCache(config=model.config)
        if beginning not in self._beginnings:
            ids = torch.tensor([beginning], device=self._loaded.device)
            cache = DynamicCache(config=model.config)
            model(input_ids=ids, cache=cache, use_cache=True, logits_to_keep=1)
            self._beginnings[beginning] = cache
        repeated = copy.deepcopy(self._beginnings[beginning])
        repeated.batch_repeat_interleave(count)
        return repeated


class _Batch:
    """Rows on their way: ``numbers`` of those that still run and ``logits`` [rows, vocabulary], float32 on the CPU."""

    logits: torch.Tensor

    def __init__(self, loaded: LoadedModel, rows: Sequence[Row], beginning: tuple[int, ...], cache: Any) -> None:
        """Compute what rows have in common only once: ``cache`` holds ``beginning`` for every distinct row."""
        import torch

        self._loaded = loaded
        self._cache = cache
        self.numbers = list(range(len(rows)))
        distinct = _distinct(rows)
        longest = max(map(len, distinct))
        pad = loaded.tokenizer.pad_token_id
        padded = [[pad] * (longest - len(ids)) + list(ids) for ids in distinct]
        present = [[1] * len(beginning) + [0] * (longest - len(ids)) + [1] * len(ids) for ids in distinct]
        self._mask = torch.tensor(present, device=loaded.device)
        positions = (self._mask.cumsum(-1) - 1).clamp(min=0)[:, len(beginning) :]
        self._forward(torch.tensor(padded, device=loaded.device), positions)
        if len(distinct) < len(rows):
            places = {ids: place for place, ids in enumerate(distinct)}
            spread = torch.tensor([places[row.ids] for row in rows])
            self.logits = self.logits[spread]
            self._select(spread.to(loaded.device))

    def _select(self, places: torch.Tensor) -> None:
        self._cache.batch_select_indices(places)
        self._mask = self._mask[places]

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> None:
        output = self._loaded.model(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions,
            cache=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.logits = output.logits[:, -1].float().cpu()

    def advance(self, chosen: list[int], unfinished: list[int]) -> None:
        """Append the chosen tokens and go one step on with the rows at the places ``unfinished``."""
        import torch

        if len(unfinished) < len(self.numbers):
            self.numbers = [self.numbers[place] for place in unfinished]
            if not unfinished:
                return
            self._select(torch.tensor(unfinished, device=self._loaded.device))
        ids = torch.tensor([[chosen[place]] for place in unfinished], device=self._loaded.device)
        self._mask = torch.cat([self._mask, torch.ones_like(ids)], dim=-1)
        self._forward(ids, self._mask.sum(-1, keepdim=True) - 1)


def _distinct(rows: Sequence[Row]) -> list[tuple[int, ...]]:
    return list(dict.fromkeys(row.ids for row in rows))


def _choose(logits: torch.Tensor, temperature: float, draws: random.Random) -> int:
    if temperature <= 0:
        return int(logits.argmax())
    probabilities, tokens = (logits / temperature).softmax(-1).topk(min(64, logits.shape[-1]))
    cumulated = probabilities.cumsum(-1)
    within = int((cumulated < TOP_SHARE * float(cumulated[-1])).sum()) + 1
    point = draws.random() * float(cumulated[within - 1])
    return int(tokens[min(int((cumulated < point).sum()), within - 1)])


def _has(text: str, stop: str | None) -> bool:
    return stop is not None and stop in text


def _until(text: str, stop: str | None) -> str:
    head, found, _ = text.partition(stop) if stop else (text, "", "")
    return head + found


def encode_after(tokenizer: Any, beginning: str, texts: Sequence[str]) -> tuple[tuple[int, ...], Iterator[list[int]]]:
    """Return the ids of ``beginning`` as the start of a text, and those of each of ``texts`` as they follow it."""
    first: list[int] = tokenizer(beginning, add_special_tokens=True)["input_ids"]
    if first and first[-1] == tokenizer.eos_token_id:
        first = first[:-1]
    return tuple(first), (_after(tokenizer, beginning, first, text) for text in texts)


def _after(tokenizer: Any, beginning: str, first: list[int], text: str) -> list[int]:
    whole: list[int] = tokenizer(beginning + text, add_special_tokens=True)["input_ids"]
    if whole[: len(first)] != first:
        whole = first + tokenizer(text, add_special_tokens=False)["input_ids"]
    return whole[len(first) : -1 if whole[-1] == tokenizer.eos_token_id else None]
