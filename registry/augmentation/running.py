"""Rows of text on their way through a model, one token a step: their keys and values, and who comes and goes.

Keys and values lie in buffers [rows, heads, columns, head size] made once. All rows write the same column in a step, so
a row that joins is laid so that its last token is in the newest column; what is left of its first is masked. A row that
leaves is replaced by the last one. Columns are moved to the left when the right edge is reached.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import psutil
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from registry.base_model import LoadedModel
from registry.errors import AugmentationError

SPARE_COLUMNS = 128
"""Steps between two moves to the left, at least."""
PREFILL_TOKENS = 4096
"""Tokens of new rows, padding counted, that go through the model at once."""
MEMORY_SHARE = 0.25
"""How much of the free memory the buffers may take."""

KeysAndValues = list[tuple[Tensor, Tensor]]


class _Window:
    """What a forward pass sees of the buffers: ``rows``, and columns from ``first`` on; it writes from ``start`` on."""

    def __init__(self) -> None:
        self.rows = slice(0, 0)
        self.first = self.start = 0


class _Layer(DynamicLayer):  # type: ignore[misc]
    """One layer's buffers as transformers' caches are used; there are no sliding layers, the mask does it."""

    def __init__(self, window: _Window, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.is_initialized = True
        self.keys, self.values = keys, values
        self._window = window

    def update(self, keys: Tensor, values: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        rows, first, start = self._window.rows, self._window.first, self._window.start
        end = start + keys.shape[2]
        self.keys[rows, :, start:end] = keys
        self.values[rows, :, start:end] = values
        return self.keys[rows, :, first:end], self.values[rows, :, first:end]

    def get_seq_length(self) -> int:
        return self._window.start - self._window.first

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0


class RunningRows:
    """The rows that run; ``count`` of them, at the places 0 to ``count`` - 1."""

    def __init__(self, loaded: LoadedModel, most_rows: int) -> None:
        """Begin with none.

        Raises:
            AugmentationError: the model keeps something else of past tokens than keys and values.
        """
        self.count = 0
        self._loaded = loaded
        self._most_rows = most_rows
        self._beginnings: dict[tuple[int, ...], KeysAndValues] = {}
        self._window = _Window()
        self._width = 0
        self._columns: list[int] = []
        self._firsts: list[int] = []
        self._next = 0
        self._lengths = torch.zeros(0, dtype=torch.int64, device=loaded.device)
        self._mask = torch.zeros(0, 0, dtype=torch.bool, device=loaded.device)
        sample = self._keys_and_values((loaded.tokenizer.eos_token_id,))
        self._layers = [_Layer(self._window, keys[:0], values[:0]) for keys, values in sample]
        self._cache = Cache(layers=list(self._layers))
        self._token_bytes = sum(part.numel() * part.element_size() for pair in sample for part in pair)
        self._most_columns = int(MEMORY_SHARE * _free_bytes(loaded.device)) // self._token_bytes

    @property
    def held_bytes(self) -> int:
        """The size of the keys and values of all rows' tokens, each of which a step has to read."""
        return int(self._lengths.sum()) * self._token_bytes

    def room(self, columns: int) -> int:
        """Return how many rows may join of which the longest needs ``columns``, with all that it may grow by."""
        widest = max([columns, *self._columns]) + SPARE_COLUMNS
        return max(1, min(self._most_rows, self._most_columns // widest)) - self.count

    @torch.inference_mode()
    def join(self, prompts: Sequence[Sequence[int]], growths: Sequence[int], beginning: tuple[int, ...] = ()) -> None:
        """Add rows behind the others: token ids, at least one each, which follow ``beginning`` and grow by ``growths``.

        All tokens but the last go through the model now, the last one with the next step. Prompts of like length should
        come together: they are padded to the longest of some.
        """
        shared = len(beginning)
        longest = shared + max(map(len, prompts))
        self._make_room(self.count + len(prompts), longest - 1, longest + max(growths))
        for part in _parts([len(prompt) - 1 for prompt in prompts]):
            own = [list(prompt[:-1]) for prompt in prompts[part]]
            padded = max(map(len, own))
            self._prefill(own, padded, beginning)
            starts = [shared + padded if beginning else len(ids) for ids in own]
            self._firsts += [self._next - start for start in starts]
            self._columns += [shared + padded + 1 + growth for growth in growths[part]]
            lengths = torch.tensor([shared + len(ids) for ids in own], device=self._loaded.device)
            self._lengths = torch.cat([self._lengths, lengths])
            self.count += len(own)

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Put a token behind every row; return the logits of the next, [rows, vocabulary] in the model's dtype."""
        if self._next == self._width:
            self._make_room(self.count, 0, 0)
        self._mask[: self.count, self._next] = True
        ids = torch.tensor(tokens, device=self._loaded.device)[:, None]
        rows, positions = slice(0, self.count), self._lengths[:, None]
        logits: Tensor = self._forward(self._loaded.model, rows, min(self._firsts), self._next, ids, positions).logits
        self._next += 1
        self._lengths += 1
        return logits[:, -1]

    @torch.inference_mode()
    def drop(self, places: Collection[int]) -> list[int]:
        """Let rows go; return the former places of the others in their new order."""
        kept = [place for place in range(self.count) if place not in places]
        left = len(kept)
        holes = [place for place in range(left) if place in places]
        movers = [place for place in kept if place >= left]
        order = list(range(left))
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
        self._firsts = [self._firsts[place] for place in order]
        self._columns = [self._columns[place] for place in order]
        self._lengths = self._lengths[order]
        if holes:
            live = slice(min(self._firsts), self._next)
            self._mask[holes] = self._mask[movers]
            for buffer in self._buffers():
                buffer[holes, :, live] = buffer[movers, :, live]
        self.count = left
        return order

    def _prefill(self, own: Sequence[Sequence[int]], padded: int, beginning: tuple[int, ...]) -> None:
        """Compute ``own`` ids behind the shared beginning, ending in the newest column; padding stands before them."""
        rows, first = slice(self.count, self.count + len(own)), self._next - padded - len(beginning)
        mask = [[True] * len(beginning) + [False] * (padded - len(ids)) + [True] * len(ids) for ids in own]
        self._mask[rows] = False
        self._mask[rows, first : self._next] = torch.tensor(mask, device=self._loaded.device)
        if beginning:
            if beginning not in self._beginnings:
                self._beginnings[beginning] = self._keys_and_values(beginning)
            for layer, (keys, values) in zip(self._layers, self._beginnings[beginning], strict=True):
                layer.keys[rows, :, first : self._next - padded] = keys
                layer.values[rows, :, first : self._next - padded] = values
        if padded:
            fill = self._loaded.tokenizer.pad_token_id
            ids = torch.tensor([[fill] * (padded - len(one)) + list(one) for one in own], device=self._loaded.device)
            positions = self._mask[rows, first : self._next].cumsum(-1).sub(1).clamp(min=0)[:, len(beginning) :]
            # Without the head, which on a CPU takes far longer for the last of many tokens than for one alone.
            self._forward(self._loaded.model.get_decoder(), rows, first, self._next - padded, ids, positions)

    def _forward(self, model: Any, rows: slice, first: int, start: int, ids: Tensor, positions: Tensor) -> Any:
        """Run ``ids`` [rows, tokens], whose keys and values go into the columns from ``start`` on."""
        window = self._window
        window.rows, window.first, window.start = rows, first, start
        mask = self._mask[rows, first : start + ids.shape[1]]
        return model(input_ids=ids, attention_mask=mask, position_ids=positions, cache=self._cache, use_cache=True)

    def _make_room(self, rows: int, before: int, columns: int) -> None:
        """Have buffers for ``rows`` rows of ``columns`` columns, ``before`` of them left of the newest one's end."""
        first = min(self._firsts, default=self._next)
        live = self._next - first
        width = max([columns, *self._columns]) + SPARE_COLUMNS
        grows = rows > len(self._mask) or width > self._width
        if not grows and before <= self._next < self._width:
            return
        start = max(before, live)
        if grows:
            self._width, rows = width, max(rows, self.count + self.room(columns))
        for layer in self._layers:
            layer.keys = self._moved(layer.keys, rows, first, start, grows)
            layer.values = self._moved(layer.values, rows, first, start, grows)
        self._mask = self._moved(self._mask[:, None, :, None], rows, first, start, grows)[:, 0, :, 0]
        self._mask[: self.count, : start - live] = False
        self._firsts = [own + start - self._next for own in self._firsts]
        self._next = start

    def _moved(self, buffer: Tensor, rows: int, first: int, start: int, grows: bool) -> Tensor:
        """Return the buffer, or a larger one, with the columns from ``first`` on moved to end at ``start``."""
        live = buffer[: self.count, :, first : self._next].clone()
        if grows:  # zeros, since what is masked is still multiplied
            buffer = buffer.new_zeros(rows, buffer.shape[1], self._width, buffer.shape[3])
        buffer[: self.count, :, start - live.shape[2] : start] = live
        return buffer

    def _buffers(self) -> Iterator[Tensor]:
        for layer in self._layers:
            yield layer.keys
            yield layer.values

    def _keys_and_values(self, ids: tuple[int, ...]) -> KeysAndValues:
        """Return what every layer keeps of a text, [1, heads, tokens, head size] each."""
        cache = DynamicCache(config=self._loaded.model.config)
        row = torch.tensor([ids], device=self._loaded.device)
        with torch.inference_mode():
            self._loaded.model.get_decoder()(input_ids=row, cache=cache, use_cache=True)
        if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
            raise AugmentationError(
                f"the augmenter self cannot batch {type(self._loaded.model).__name__}: it keeps something else of a "
                "text than keys and values",
                hint="use --augmenter openai, import:FILE or none",
            )
        return [(layer.keys, layer.values) for layer in cache.layers]


def _parts(lengths: Sequence[int]) -> Iterator[slice]:
    """Yield slices that have at most ``PREFILL_TOKENS`` together when each is padded to its longest."""
    start = 0
    for end in range(1, len(lengths) + 1):
        if end == len(lengths) or max(lengths[start : end + 1]) * (end + 1 - start) > PREFILL_TOKENS:
            yield slice(start, end)
            start = end


def _free_bytes(device: str) -> int:
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
