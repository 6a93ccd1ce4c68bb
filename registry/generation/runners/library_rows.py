"""Keys and values of rows that run through a model of transformers' modules, and come and go at any time.

Every row's tokens lie from column 0 of its place on, so a row knows nothing of the others: a prompt needs no padding
before it, and what of a row is seen by its next token is its own length alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from registry.base_model import LoadedModel
from registry.errors import BaseModelError
from registry.generation.runners.library_adapters import untouched_zeros

PREFILL_TOKENS = 4096
"""Tokens of prompts, padding counted, that go through the model at once."""
PREFILL_EVENNESS = 0.8
"""The shortest prompt of a pass is at least so much of the longest."""


@dataclass(frozen=True, slots=True)
class Pass:
    """A forward pass: ``rows`` in the order of the batch, which begins at place ``first``, and what transformers needs.

    ``mask`` is None where each row sees all that lies before its token, ``positions`` where they follow from the cache.
    """

    rows: tuple[int, ...]
    first: int
    cache: Cache
    mask: Tensor | dict[str, Tensor] | None = None
    positions: Tensor | None = None


class Rows(Protocol):
    """Keeps what a model remembers of each row."""

    def begin(self, rows: Sequence[int], lengths: Sequence[int]) -> Iterator[Pass]:
        """Yield passes by which these rows begin anew with prompts of ``lengths``, padded at the right."""

    def go_on(self, rows: Sequence[int]) -> Iterator[Pass]:
        """Yield passes by which these rows get a token each."""

    def length(self, row: int) -> int:
        """Return how many tokens a row has."""


def make_rows(loaded: LoadedModel, rows: int, context: int) -> Rows:
    """Return buffers where the model keeps plain keys and values and is told positions, else caches of each row's own.

    State spaces, chunks and the like are kept row by row: slower, and as right.

    Raises:
        BaseModelError: the model remembers past tokens in a way of its own, or not at all.
    """
    model, device = loaded.model, torch.device(loaded.device)
    parameters = inspect.signature(model.get_decoder().forward).parameters
    if "cache" not in parameters:  # it would take the word, and begin anew with every token
        raise BaseModelError(
            f"{type(model).__name__} does not take transformers' caches, so it cannot go on with a text",
            hint="use a base model of another architecture, such as Llama, Qwen, Mistral or Gemma",
        )
    sample = DynamicCache(config=model.config)
    ids = torch.tensor([[loaded.tokenizer.eos_token_id]], device=device)
    with torch.inference_mode():
        model.get_decoder()(input_ids=ids, cache=sample, use_cache=True)
    is_plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in sample.layers)
    is_plain = is_plain and all(layer.is_initialized and layer.keys.shape[2] == 1 for layer in sample.layers)
    windows = {layer.sliding_window for layer in sample.layers if isinstance(layer, DynamicSlidingWindowLayer)}
    config = model.config.get_text_config()
    types = set(getattr(config, "layer_types", None) or ())
    has_masks = len(windows) <= 1 and types <= {"full_attention", "sliding_attention"}
    if not is_plain or not has_masks or "position_ids" not in parameters:
        return OwnCaches(model, rows)
    return StaticRows(config, sample, min(windows, default=None), rows, context)


class OwnCaches:
    """Each row has transformers' own cache, and a pass of its own."""

    def __init__(self, model: Any, rows: int) -> None:
        """Begin with none."""
        self._model = model
        self._caches: list[Cache | None] = [None] * rows
        self._lengths = [0] * rows

    def begin(self, rows: Sequence[int], lengths: Sequence[int]) -> Iterator[Pass]:
        """See ``Rows``."""
        for row, length in zip(rows, lengths, strict=True):
            cache = self._caches[row] = DynamicCache(config=self._model.config)
            yield Pass((row,), row, cache)
            self._lengths[row] = length

    def go_on(self, rows: Sequence[int]) -> Iterator[Pass]:
        """See ``Rows``."""
        for row in rows:
            cache = self._caches[row]
            assert cache is not None
            yield Pass((row,), row, cache)
            self._lengths[row] += 1

    def length(self, row: int) -> int:
        """See ``Rows``."""
        return self._lengths[row]


class _Window:
    """What a pass sees: ``places``, columns up to ``end``; it writes from ``start`` on, or each row at its ``columns``.

    ``index`` are the places as a tensor, to be used with ``columns``.
    """

    def __init__(self) -> None:
        self.places = slice(0, 0)
        self.start = self.end = 0
        self.index: Tensor | None = None
        self.columns: Tensor | None = None


class _Layer(DynamicLayer):  # type: ignore[misc]
    """One layer's buffers as transformers' caches are used; there are no sliding layers, the mask does it."""

    def __init__(self, window: _Window, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.is_initialized = True
        self.keys, self.values = keys, values
        self._window = window

    def update(self, keys: Tensor, values: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        window = self._window
        places, end = window.places, window.end
        if window.columns is None:
            self.keys[places, :, window.start : end] = keys
            self.values[places, :, window.start : end] = values
        else:
            self.keys[window.index, :, window.columns] = keys[:, :, 0]
            self.values[window.index, :, window.columns] = values[:, :, 0]
        if not window.start:
            return keys, values
        return self.keys[places, :, :end], self.values[places, :, :end]

    def get_seq_length(self) -> int:
        return self._window.start

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._window.end, 0


class StaticRows:
    """Keys and values of every layer in a buffer ``[rows, heads, context, head size]`` made once.

    A batch is a stretch of places, seen without copying. Rows trade places where those of a batch have others between
    them, which is when rows have left.
    """

    def __init__(self, config: Any, sample: Cache, sliding: int | None, rows: int, context: int) -> None:
        """Make buffers like the layers of ``sample``; ``sliding`` is how many tokens a sliding layer sees."""
        self._config, self._sliding = config, sliding
        self._window = _Window()
        self._layers = [
            _Layer(self._window, *(_buffer(part, rows, context) for part in (layer.keys, layer.values)))
            for layer in sample.layers
        ]
        self._cache = Cache(layers=list(self._layers))
        self._dtype, self._device = sample.layers[0].keys.dtype, sample.layers[0].keys.device
        self._row_at = list(range(rows))
        self._lengths = [0] * rows  # by row, as is what of a row's columns may not be zero
        self._written = [0] * rows

    def length(self, row: int) -> int:
        """See ``Rows``."""
        return self._lengths[row]

    def begin(self, rows: Sequence[int], lengths: Sequence[int]) -> Iterator[Pass]:
        """See ``Rows``."""
        length_of = dict(zip(rows, lengths, strict=True))
        for part in _parts(length_of):
            places = self._gather(part)
            longest = max(length_of[row] for row in part)
            window = self._window
            window.places, window.start, window.end, window.columns = places, 0, longest, None
            batch = tuple(self._row_at[places])
            for place, row in enumerate(batch, places.start):
                # What is masked is still multiplied by 0, which is 0 only for numbers.
                for buffer in self._buffers():
                    buffer[place, :, longest : self._written[row]] = 0
                self._written[row] = longest
            yield Pass(batch, places.start, self._cache)
            for row in batch:
                self._lengths[row] = length_of[row]

    def go_on(self, rows: Sequence[int]) -> Iterator[Pass]:
        """See ``Rows``."""
        places = self._gather(rows)
        batch = tuple(self._row_at[places])
        lengths = [self._lengths[row] for row in batch]
        longest = max(lengths)
        is_even = min(lengths) == longest
        own = torch.tensor(lengths, device=self._device)
        window = self._window
        window.places, window.start, window.end = places, longest, longest + 1
        window.index = None if is_even else torch.arange(places.start, places.stop, device=self._device)
        window.columns = None if is_even else own
        yield Pass(batch, places.start, self._cache, None if is_even else self._mask(own, longest), own[:, None])
        for row in batch:
            self._lengths[row] += 1
            self._written[row] = max(self._written[row], self._lengths[row])

    def _mask(self, lengths: Tensor, longest: int) -> Tensor | dict[str, Tensor]:
        """Return what the next token of each row sees of the columns."""
        columns = torch.arange(longest + 1, device=self._device)
        full = columns <= lengths[:, None]
        if self._sliding is None or longest < self._sliding:
            return full
        # transformers takes sliding masks ready made: by the layers' types, or one where all are of one type.
        sliding = self._made(full & (columns > lengths[:, None] - self._sliding))
        types = getattr(self._config, "layer_types", None)
        if types is None:
            return sliding
        return {kind: sliding if kind == "sliding_attention" else self._made(full) for kind in set(types)}

    def _made(self, mask: Tensor) -> Tensor:
        """Return a mask ``[n, columns]`` as the attention takes it."""
        mask = mask[:, None, None]
        if self._config._attn_implementation != "eager":
            return mask
        zeros = torch.zeros(mask.shape, dtype=self._dtype, device=self._device)
        return zeros.masked_fill(~mask, torch.finfo(self._dtype).min)

    def _gather(self, rows: Sequence[int]) -> slice:
        """Have these rows in a stretch of places, and return it."""
        wanted = set(rows)
        places = [place for place, row in enumerate(self._row_at) if row in wanted]
        count = len(places)
        most, best = 0, places[0]
        for first in range(len(self._row_at) - count + 1):
            inside = sum(first <= place < first + count for place in places)
            if inside > most:
                most, best = inside, first
        stretch = range(best, best + count)
        outside = [place for place in places if place not in stretch]
        holes = [place for place in stretch if self._row_at[place] not in wanted]
        for one, other in zip(outside, holes, strict=True):
            self._trade(one, other)
        return slice(best, best + count)

    def _trade(self, one: int, other: int) -> None:
        end = max(self._written[self._row_at[place]] for place in (one, other))
        for buffer in self._buffers():
            kept = buffer[one, :, :end].clone()
            buffer[one, :, :end] = buffer[other, :, :end]
            buffer[other, :, :end] = kept
        self._row_at[one], self._row_at[other] = self._row_at[other], self._row_at[one]

    def _buffers(self) -> Iterator[Tensor]:
        for layer in self._layers:
            yield layer.keys
            yield layer.values


def _buffer(sample: Tensor, rows: int, context: int) -> Tensor:
    return untouched_zeros((rows, sample.shape[1], context, sample.shape[3]), sample.dtype, sample.device)


def _parts(length_of: dict[int, int]) -> Iterator[list[int]]:
    """Yield rows of like length that together have at most ``PREFILL_TOKENS``, padding counted."""
    part: list[int] = []
    for row in sorted(length_of, key=length_of.__getitem__, reverse=True):
        longest = length_of[part[0]] if part else length_of[row]
        if part and (longest * (len(part) + 1) > PREFILL_TOKENS or length_of[row] < PREFILL_EVENNESS * longest):
            yield part
            part = []
        part.append(row)
    if part:
        yield part
