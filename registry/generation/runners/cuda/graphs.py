"""CUDA graphs: a pass of a size is recorded once and then started as one, instead of kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch


class Graphs:
    """Recorded passes by their size."""

    def __init__(self, device: torch.device) -> None:
        """Make none yet."""
        self._graphs: dict[Hashable, Any] = {}
        self._seen: set[Hashable] = set()
        new_stream: Any = torch.cuda.Stream  # untyped
        self._stream = new_stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def is_recorded(self, key: Hashable) -> bool:
        """Whether a pass of this size starts as one."""
        return key in self._graphs

    def is_worth_recording(self, key: Hashable) -> bool:
        """Whether a pass of this size came before; remembers it."""
        if key in self._seen:
            return True
        self._seen.add(key)
        return False

    def run(self, key: Hashable, work: Callable[[], None]) -> None:
        """Start what was recorded for a size, or do the work and record it.

        The work must do the same to the same addresses each time; it must not allocate.
        """
        graph = self._graphs.get(key)
        if graph is not None:
            graph.replay()
            return
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            work()  # also compiles kernels and makes libraries allocate, which must not happen while recording
            graph = torch.cuda.CUDAGraph()
            self._stream.synchronize()
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                work()
            finally:
                graph.capture_end()
        current.wait_stream(self._stream)
        self._graphs[key] = graph
