"""A runner for CUDA: blocks of Llama, Mistral and Qwen 2 and 3, with the adapters of every row inside the kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from registry.base_model import LoadedModel
from registry.base_model.blocks import blocks_of, rotation
from registry.errors import UsageError
from registry.generation.requests import Bytes
from registry.generation.runners.cuda.graphs import Graphs
from registry.generation.runners.cuda.inputs import Inputs, Slots, Staging, chunks_of
from registry.generation.runners.cuda.layers import Layers, Room
from registry.generation.runners.cuda.operations import CHUNK, Operations, Pass
from registry.generation.runners.cuda.plain import PlainOperations
from registry.generation.runners.cuda.pool import Adapters, Arrangement, BlockSites
from registry.generation.runners.passes import passes
from registry.store.layout import AdapterLayout

MOST_PROMPTS = 16
"""Prompts of one pass."""
PACKED_TOKENS = 128
"""Short prompts go together through passes of exactly so many tokens, longer ones alone.

A library's product of another number of tokens may add in another order, so what comes out for a prompt does not depend
on those that come with it.
"""
RECORDED_TOKENS = 1024
"""Passes of more tokens take the device longer than it takes to start their kernels one by one."""
COPIED_BYTES = 1 << 21
"""So much of an adapter is copied to the device while the next part is copied to pinned memory."""


class CudaRunner:
    """See ``Runner``. Everything is allocated when it is made, and a merge is injected without touching the device.

    On a device without Triton, PyTorch's operations do the same, slowly: for tests.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        layout: AdapterLayout | None,
        scale: float,
        *,
        rows: int,
        context: int,
        entries: int,
        most_terms: int,
        operations: str = "auto",
    ) -> None:
        """Take the model's weights, laid together in place, and allocate the rest on its device.

        ``operations`` are "compiled" or "plain"; "auto" is what suits the device. For benchmarks "library" is compiled
        without products of our own.

        Raises:
            BaseModelError: the model lacks a module of the layout, or it has another shape.
        """
        self._loaded, self._layout, self._scale = loaded, layout, scale
        self._rows, self._context = rows, context
        self._device = torch.device(loaded.device)
        is_cuda = self._device.type == "cuda"
        model = blocks_of(loaded.model)
        like = model.embedding
        self._adapters: Adapters | None = None
        sites = [BlockSites()] * len(model.blocks)
        if layout is not None:
            arrangement = Arrangement(model.blocks, layout)
            sites = arrangement.sites
            self._adapters = Adapters(like.new_zeros(entries, arrangement.elements), layout.rank, most_terms)
            self._index = torch.from_numpy(arrangement.index).to(self._device)
            self._bodies = Staging(layout.elements, getattr(torch, layout.dtype), self._device)
        tokens = _filled(context)
        self._tokens = tokens
        self._slots = Slots(rows, most_terms if layout is not None else 1)
        self._lengths = np.zeros(rows, dtype=np.int64)
        self._inputs = Inputs(self._slots, rows, tokens, MOST_PROMPTS, self._device)
        room = Room(rows=rows, context=context, tokens=max(tokens, rows), logits=max(rows, MOST_PROMPTS))
        own = _operations(operations, self._adapters, like)
        turns = rotation(loaded.model, context, loaded.device)
        with torch.no_grad():
            self._layers = Layers(model, sites, self._adapters, own, turns, room)
        chunks = chunks_of(context)
        heads = rows * model.queries * chunks * (model.width + 2) if context > CHUNK else 0
        self._partial = torch.empty(heads, dtype=torch.float32, device=self._device) if heads else None
        self._logits = torch.zeros(rows, len(model.head), dtype=torch.float32, device=self._device)
        is_recordable = is_cuda and not isinstance(own, PlainOperations)
        self._graphs = Graphs(self._device) if is_recordable else None

    @property
    def rows(self) -> int:
        """How many texts can be in progress."""
        return self._rows

    @property
    def context(self) -> int:
        """How many tokens a row may have."""
        return self._context

    @property
    def entries(self) -> int:
        """How many adapters there is room for."""
        return len(self._adapters.pool) if self._adapters is not None else 0

    @property
    def most_terms(self) -> int:
        """How many adapters a row's sum may have."""
        return self._adapters.terms if self._adapters is not None else 0

    @torch.inference_mode()
    def put(self, entry: int, body: Bytes) -> None:
        """See ``Runner.put``: one copy, which the host does not wait for, and one kernel.

        Raises:
            IntegrityError: it is not of the layout's length.
            UsageError: there is no such entry.
        """
        if self._adapters is None or self._layout is None or not 0 <= entry < self.entries:
            raise UsageError(f"there is no adapter entry {entry}, only {self.entries} of them")
        view = self._layout.checked(body)
        with self._on_device():
            host = self._bodies.host()
            source, step = _tensor(view, host.dtype), COPIED_BYTES // host.element_size()
            for start in range(0, len(host), step):
                host[start : start + step].copy_(source[start : start + step])  # by several threads
                self._bodies.send_part(start, min(start + step, len(host)))
            self._bodies.end()
            self._layers.operations.gather(self._bodies.on_device, self._index, self._adapters.pool[entry])

    def inject(self, row: int, entries: Sequence[int], factors: Sequence[float]) -> None:
        """See ``Runner.inject``: a few numbers in main memory, which the row's next pass takes to the device.

        Raises:
            UsageError: there are more than ``most_terms``, or not a factor for each.
        """
        if len(entries) > self.most_terms or len(entries) != len(factors):
            raise UsageError(
                f"{len(entries)} adapters with {len(factors)} factors do not fit a slot for {self.most_terms}"
            )
        self._slots.set(row, entries, [factor * self._scale for factor in factors])

    @torch.inference_mode()
    def prefill(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> Tensor:
        """See ``Runner.prefill``: short prompts together in passes, without padding between them, long ones alone.

        Raises:
            UsageError: a prompt is empty or longer than ``context``.
        """
        lengths = [len(prompt) for prompt in prompts]
        if not all(0 < length <= self._context for length in lengths):
            raise UsageError(f"a prompt has 1 to {self._context} tokens, not {lengths}")
        done = 0
        with self._on_device():
            for part in passes(lengths, PACKED_TOKENS, MOST_PROMPTS):
                count = part.stop - part.start
                self._prefill(rows[part], prompts[part])
                if count == len(rows):
                    return self._layers.logits[:count]
                self._logits[done : done + count].copy_(self._layers.logits[:count])
                done += count
        return self._logits[:done]

    @torch.inference_mode()
    def decode(self, rows: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """See ``Runner.decode``.

        Raises:
            UsageError: a row has ``context`` tokens already.
        """
        positions = self._lengths[list(rows)]
        if positions.max() >= self._context:
            raise UsageError(f"a row has {self._context} tokens already, the most it may have")
        lanes = min(1 << (len(rows) - 1).bit_length(), self._rows) if self._graphs is not None else len(rows)
        with self._on_device():
            given = self._inputs.tokens(rows, tokens, positions.tolist(), lanes, self._partial)
            self._run(("decode", lanes, given.chunks), given)
        self._lengths[list(rows)] += 1
        return self._layers.logits[: len(rows)]

    def weight(self, path: str) -> Tensor:
        """Return the weight of a linear module, ``[out, in]``."""
        weight: Tensor = self._loaded.model.get_submodule(path).weight.detach()
        return weight

    @torch.no_grad()
    def set_weight(self, path: str, weight: Tensor) -> None:
        """Replace the numbers of a linear module's weight."""
        self._loaded.model.get_submodule(path).weight.copy_(weight)

    def _prefill(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> None:
        total = sum(len(prompt) for prompt in prompts)
        size, lanes = _filled(total), 1 if len(rows) == 1 else MOST_PROMPTS
        key = ("prefill", size, lanes)
        if self._graphs is None:
            self._layers.run(self._inputs.prompts(rows, prompts, total, len(rows)))
        # A size that comes once is not worth it: recording takes as long as several passes.
        elif size <= RECORDED_TOKENS and self._graphs.is_worth_recording(key):
            self._run(key, self._inputs.prompts(rows, prompts, size, lanes))
        else:
            self._layers.run(self._inputs.prompts(rows, prompts, size, lanes))
        self._lengths[list(rows)] = [len(prompt) for prompt in prompts]

    def _run(self, key: tuple[str, int, int], given: Pass) -> None:
        if self._graphs is None:
            self._layers.run(given)
        else:
            self._graphs.run(key, lambda: self._layers.run(given))

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        if self._device.type == "cuda":
            with torch.cuda.device(self._device):
                yield
        else:
            yield


def _operations(name: str, adapters: Adapters | None, like: Tensor) -> Operations:
    if name == "plain" or (name == "auto" and like.device.type != "cuda"):
        return PlainOperations(adapters)
    from registry.generation.runners.cuda.compiled import CompiledOperations

    return CompiledOperations(adapters, like, has_own_products=name != "library")


def _filled(tokens: int) -> int:
    """Return the size of a pass that so many tokens are filled up to."""
    step = PACKED_TOKENS if tokens <= PACKED_TOKENS else 32 if tokens <= 512 else 64
    return -(-tokens // step) * step


def _tensor(view: memoryview, dtype: torch.dtype) -> Tensor:
    """Return bytes as a tensor, which must only be read: PyTorch has none that say so, and warns of those."""
    array = np.frombuffer(view, dtype=np.uint8)
    own = np.ctypeslib.as_array((ctypes.c_uint8 * len(array)).from_address(array.ctypes.data))
    return torch.from_numpy(own).view(dtype)
