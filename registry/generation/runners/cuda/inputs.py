"""What a pass reads: its tokens, where they are, and the slots of their rows, as one copy to the device.

A pass's numbers lie one after the other in one buffer, so a graph that was recorded for a size of pass finds them at
the same addresses every time. Slots are among them: injecting a merge changes a few numbers in main memory, which the
next pass takes along.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from registry.generation.runners.cuda.operations import CHUNK, TOGETHER, Pass

Numbers = npt.NDArray[np.int32]
RING = 4
ALIGNED = 4
"""Numbers of 4 bytes that make 16: kernels are compiled for pointers that are multiples of so many bytes."""
NOTHING = -1
"""The entry of no adapter."""


class Staging:
    """Copies from main memory to the device that the host does not wait for.

    There are ``RING`` buffers of pinned memory, so that one is written while another is under way.
    """

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        """Allocate room for ``size`` elements."""
        self._is_cuda = device.type == "cuda"
        count = RING if self._is_cuda else 1
        self._hosts = [torch.zeros(size, dtype=dtype, pin_memory=self._is_cuda) for _ in range(count)]
        new_event: Any = torch.cuda.Event  # untyped
        self._events = [new_event() if self._is_cuda else None for _ in range(count)]
        self._next = 0
        self.on_device = torch.zeros(size, dtype=dtype, device=device)

    def host(self) -> Tensor:
        """Return the memory to write to next."""
        event = self._events[self._next]
        if event is not None:
            event.synchronize()  # long done, except where many copies are made without a pass between them
        return self._hosts[self._next]

    def send(self, size: int) -> None:
        """Copy the first ``size`` elements of what ``host`` returned."""
        self.send_part(0, size)
        self.end()

    def send_part(self, start: int, end: int) -> None:
        """Begin to copy a part of what ``host`` returned, while more of it is being written."""
        self.on_device[start:end].copy_(self._hosts[self._next][start:end], non_blocking=True)

    def end(self) -> None:
        """Go on to the next buffer: all parts of this one are sent."""
        event = self._events[self._next]
        if event is not None:
            event.record()
        self._next = (self._next + 1) % len(self._hosts)


class Slots:
    """The slot of every row, in main memory; the row after the last never has adapters."""

    def __init__(self, rows: int, terms: int) -> None:
        """Make slots without adapters."""
        self.terms = terms
        self.numbers: Numbers = np.zeros((rows + 1, 2 * terms), dtype=np.int32)
        self.numbers[:, :terms] = NOTHING

    def set(self, row: int, entries: Sequence[int], factors: Sequence[float]) -> None:
        """Replace a row's slot."""
        own = self.numbers[row]
        own[: self.terms] = NOTHING
        own[: len(entries)] = entries
        own[self.terms : self.terms + len(factors)].view(np.float32)[:] = factors


class Inputs:
    """Makes passes; ``rows`` is the number of rows, the row after the last takes what fills a pass up."""

    def __init__(self, slots: Slots, rows: int, most_tokens: int, most_prompts: int, device: torch.device) -> None:
        """Allocate room for passes of so many tokens and prompts."""
        self._slots, self._spare, self._most_prompts = slots, rows, most_prompts
        largest = max(most_tokens, rows)
        width = 2 * slots.terms
        size = 5 * largest + 3 * (largest // TOGETHER + most_prompts + 1) + (max(rows, most_prompts) + 1) * width
        self._staging = Staging(size + most_prompts + 16 * ALIGNED, torch.int32, device)
        lanes = torch.arange(rows, dtype=torch.int32, device=device)
        self._lanes = lanes
        self._single = torch.stack([lanes, lanes, torch.ones_like(lanes)], dim=1)

    def tokens(
        self, rows: Sequence[int], ids: Sequence[int], positions: Sequence[int], lanes: int, partial: Tensor | None
    ) -> Pass:
        """Return a pass of a token for each row, filled up to ``lanes``."""
        count, width = len(rows), self._slots.numbers.shape[1]
        host = self._staging.host().numpy()
        places, size = _places({"ids": lanes, "positions": lanes, "rows": lanes, "slots": lanes * width})
        host[places["ids"]][:count], host[places["ids"]][count:] = ids, 0
        host[places["positions"]][:count], host[places["positions"]][count:] = positions, 0
        host[places["rows"]][:count], host[places["rows"]][count:] = rows, self._spare
        slots = host[places["slots"]].reshape(lanes, width)
        slots[:count], slots[count:] = self._slots.numbers[list(rows)], self._slots.numbers[self._spare]
        self._staging.send(size)
        found = self._found(places)
        return Pass(
            ids=found["ids"],
            positions=found["positions"],
            rows=found["rows"],
            lanes=self._lanes[:lanes],
            slots=found["slots"].view(lanes, width),
            blocks=self._single[:lanes],
            chunks=chunks_of(max(positions) + 1),
            partial=partial,
        )

    def prompts(self, rows: Sequence[int], prompts: Sequence[Sequence[int]], tokens: int, lanes: int) -> Pass:
        """Return a pass of whole prompts, filled up to so many tokens and prompts."""
        width = self._slots.numbers.shape[1]
        most_blocks = tokens // TOGETHER + lanes
        sizes = dict.fromkeys(("ids", "positions", "rows", "lanes", "starts"), tokens)
        places, size = _places(sizes | {"slots": (lanes + 1) * width, "blocks": 3 * most_blocks, "last": lanes})
        host = self._staging.host().numpy()
        views = {name: host[place] for name, place in places.items()}
        lengths = [len(prompt) for prompt in prompts]
        starts = [0, *accumulate(lengths)]
        total = starts[-1]
        for name, filling in (("ids", 0), ("positions", 0), ("rows", self._spare), ("lanes", lanes)):
            views[name][total:] = filling
        views["starts"][total:] = np.arange(total, tokens)  # what fills a pass up sees itself alone
        slots = views["slots"].reshape(lanes + 1, width)
        slots[len(rows) :] = self._slots.numbers[self._spare]
        slots[: len(rows)] = self._slots.numbers[list(rows)]
        views["last"][:] = 0
        views["blocks"][:] = 0
        blocks: list[tuple[int, int, int]] = []
        for lane, (row, prompt, start) in enumerate(zip(rows, prompts, starts, strict=False)):
            end = start + len(prompt)
            views["ids"][start:end] = prompt
            views["positions"][start:end] = np.arange(len(prompt))
            views["rows"][start:end], views["lanes"][start:end], views["starts"][start:end] = row, lane, start
            views["last"][lane] = end - 1
            blocks += [(lane, first, min(TOGETHER, end - first)) for first in range(start, end, TOGETHER)]
        # What fills a pass up is of no block: its activations stay as they were, and no one reads them.
        views["blocks"].reshape(-1, 3)[: len(blocks)] = blocks
        self._staging.send(size)
        found = self._found(places)
        return Pass(
            ids=found["ids"],
            positions=found["positions"],
            rows=found["rows"],
            lanes=found["lanes"],
            starts=found["starts"],
            last=found["last"],
            slots=found["slots"].view(lanes + 1, width),
            blocks=found["blocks"].view(most_blocks, 3),
        )

    def _found(self, places: Mapping[str, slice]) -> dict[str, Tensor]:
        return {name: self._staging.on_device[place] for name, place in places.items()}


def chunks_of(length: int) -> int:
    """Return in how many chunks, a power of 2, attention to so many tokens comes."""
    return int(1 << max(0, -(-length // CHUNK) - 1).bit_length())


def _places(sizes: Mapping[str, int]) -> tuple[dict[str, slice], int]:
    places, end = {}, 0
    for name, size in sizes.items():
        places[name] = slice(end, end + size)
        end += -(-size // ALIGNED) * ALIGNED
    return places, end
