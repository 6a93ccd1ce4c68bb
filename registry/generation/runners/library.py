"""Tokens of any causal language model that transformers knows, on any device, by transformers' own modules."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from registry.base_model import LoadedModel
from registry.errors import BaseModelError, UsageError
from registry.generation.requests import Bytes
from registry.generation.runners.library_adapters import EMPTY, Adapters
from registry.generation.runners.library_rows import Pass, make_rows
from registry.store.layout import AdapterLayout


class _LastTokens:
    """A hook that leaves of the decoder's output what the head is needed for: each row's token at ``places``.

    By itself, too: on a CPU the head takes 20 times as long for a view into all tokens.
    """

    def __init__(self) -> None:
        self.thread = 0
        self.places = torch.empty(0)

    def keep(self, _: nn.Module, inputs: Any, output: Any) -> None:
        hidden, places = output.last_hidden_state, self.places
        if self.thread == get_ident() and hidden.shape[1] > 1:
            output.last_hidden_state = hidden[torch.arange(len(places), device=places.device), places, None]


class LibraryRunner:
    """A ``Runner``; see ``registry.generation.runners``. In float32 each row's tokens are those that it gets alone.

    Several runners may be in one model, in several threads, each with adapters of its own.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        layout: AdapterLayout | None,
        scale: float,
        *,
        rows: int,
        context: int,
        cache_bytes: int,
        most_terms: int,
    ) -> None:
        """Make the buffers, and hook into the model.

        Args:
            loaded: the model; it stays as it is for all others.
            layout: the adapters'; None answers with the bare model alone.
            scale: alpha / r of the adapters.
            rows: how many texts can be in progress.
            context: how many tokens each may have.
            cache_bytes: memory for entries; there are at least ``most_terms``.
            most_terms: how many adapters a row's sum may have.

        Raises:
            BaseModelError: the model lacks a module of the layout, or it is not linear or of another shape, or the
                model does not take transformers' caches.
            UsageError: a number is below 1.
        """
        if rows < 1 or context < 1:
            raise UsageError(f"a runner needs room for at least one token, not {rows} rows x {context} tokens")
        self.rows, self.context, self.most_terms = rows, context, most_terms
        self._model: Any = loaded.model
        self._layout = layout
        self._device = loaded.device
        self._kept = make_rows(loaded, rows, context)
        self._adapters: Adapters | None = None
        if layout is not None:
            self._adapters = Adapters(
                loaded.model, layout, scale, places=rows, most_terms=most_terms, cache_bytes=cache_bytes
            )
        self._slots = [EMPTY] * rows
        self._last = _LastTokens()
        hook = self._model.get_decoder().register_forward_hook(self._last.keep)
        self._finish = weakref.finalize(self, hook.remove)

    @property
    def entries(self) -> int:
        """See ``Runner``."""
        return 0 if self._adapters is None else self._adapters.entries

    def close(self) -> None:
        """Take everything of this runner out of the model, as happens when nothing refers to it any more."""
        self._finish()
        if self._adapters is not None:
            self._adapters.close()

    def put(self, entry: int, body: Bytes) -> None:
        """See ``Runner``.

        Raises:
            IntegrityError: the body is not of the layout's length.
            UsageError: there is no such entry.
        """
        self._require_adapters().put(entry, body)

    def inject(self, row: int, entries: Sequence[int], factors: Sequence[float]) -> None:
        """See ``Runner``.

        Raises:
            UsageError: there is no such row or entry, or more adapters than ``most_terms``.
        """
        self._check([row])
        self._slots[row] = self._require_adapters().slot(entries, factors) if entries or factors else EMPTY

    @torch.inference_mode()
    def prefill(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> Tensor:
        """See ``Runner``.

        Raises:
            UsageError: there is no such row, or a prompt is empty or longer than ``context``.
        """
        self._check(rows)
        lengths = [len(prompt) for prompt in prompts]
        if len(prompts) != len(rows) or not all(0 < length <= self.context for length in lengths):
            raise UsageError(f"prompts of {lengths} tokens do not fit {len(rows)} rows of 1 to {self.context} tokens")
        prompt_of = dict(zip(rows, prompts, strict=True))
        return self._logits(rows, self._kept.begin(rows, lengths), prompt_of)

    @torch.inference_mode()
    def decode(self, rows: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """See ``Runner``.

        Raises:
            UsageError: there is no such row, it has not begun, or it is as long as ``context``.
        """
        self._check(rows)
        if len(tokens) != len(rows) or not all(0 < self._kept.length(row) < self.context for row in rows):
            lengths = [self._kept.length(row) for row in rows]
            raise UsageError(f"rows of {lengths} tokens cannot go on by {len(tokens)}, each up to {self.context}")
        token_of = {row: [token] for row, token in zip(rows, tokens, strict=True)}
        return self._logits(rows, self._kept.go_on(rows), token_of)

    def weight(self, path: str) -> Tensor:
        """Return the weight ``[out, in]`` of a module that adapters are for: the parameter itself.

        Raises:
            BaseModelError: adapters are not for such a module.
        """
        if self._layout is None or path not in self._layout.shapes:
            raise BaseModelError(f"the adapters of this runner are not for a module {path}")
        weight: Tensor = self._model.get_submodule(path).weight
        return weight

    @torch.inference_mode()
    def set_weight(self, path: str, weight: Tensor) -> None:
        """Put numbers of the same shape and dtype in the place of a module's weight, bit by bit.

        Raises:
            BaseModelError: adapters are not for such a module.
        """
        self.weight(path).copy_(weight)

    def _require_adapters(self) -> Adapters:
        if self._adapters is None:
            raise UsageError("a row names adapters, but the runner was made for the bare model")
        return self._adapters

    def _check(self, rows: Sequence[int]) -> None:
        if not rows or len(set(rows)) != len(rows) or not all(0 <= row < self.rows for row in rows):
            raise UsageError(f"rows are numbers from 0 to {self.rows - 1}, each once, not {list(rows)}")

    def _logits(self, rows: Sequence[int], passes: Iterable[Pass], ids_of: Mapping[int, Sequence[int]]) -> Tensor:
        """Run the passes; return the logits ``[n, vocabulary]`` after each row's last token, in the rows' order."""
        order: list[int] = []
        parts: list[Tensor] = []
        for one in passes:
            order += one.rows
            parts.append(self._forward(one, [ids_of[row] for row in one.rows]))
        logits = parts[0] if len(parts) == 1 else torch.cat(parts)
        if order == list(rows):
            return logits
        place_of = {row: place for place, row in enumerate(order)}
        return logits[torch.tensor([place_of[row] for row in rows], device=logits.device)]

    def _forward(self, one: Pass, ids: Sequence[Sequence[int]]) -> Tensor:
        longest = max(map(len, ids))
        padded = [[*own, *own[-1:] * (longest - len(own))] for own in map(list, ids)]
        last = torch.tensor([len(own) - 1 for own in ids], device=self._device)
        options = {} if one.positions is None else {"position_ids": one.positions}
        slots = [self._slots[row] for row in one.rows]
        with nullcontext() if self._adapters is None else self._adapters.active(one.first, slots):
            self._last.places, self._last.thread = last, get_ident()
            try:
                logits: Tensor = self._model(
                    input_ids=torch.tensor(padded, device=self._device),
                    attention_mask=one.mask,
                    cache=one.cache,
                    use_cache=True,
                    **options,
                ).logits
            finally:
                self._last.thread = 0
        if logits.shape[1] > 1:
            logits = logits[torch.arange(len(ids), device=self._device), last, None]
        return logits[:, 0].float()
