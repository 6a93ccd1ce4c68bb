"""Work that may wait for the catalog, the disk or the Hub, done in threads and awaited by the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

Result = TypeVar("Result")


class Threads:
    """A few threads; what is given up before a thread takes it is not done at all."""

    def __init__(self, count: int, name: str) -> None:
        """Start none yet."""
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(self, work: Callable[[], Result], undo: Callable[[Result], object] | None = None) -> Result:
        """Return what ``work`` does in a thread; ``undo`` it where nobody waits for the result any more."""
        future: Future[Result] = self._pool.submit(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if undo is not None:
                future.add_done_callback(lambda ended: _undo(ended, undo))
            raise

    def close(self) -> None:
        """Let the threads end; work that none has begun is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _undo(future: Future[Result], undo: Callable[[Result], object]) -> None:
    if future.cancelled() or future.exception() is not None:
        return
    with suppress(Exception):
        undo(future.result())
