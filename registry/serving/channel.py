"""The bridge from the engine's thread to a request of the event loop.

The engine never waits for a reader: it adds text to what the reader has not taken yet, which comes in one piece then.
So what is kept for a slow reader is at most the answer itself.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from dataclasses import dataclass

from registry.generation.requests import Generated, OnText
from registry.serving.engine import OnEnd


@dataclass(frozen=True, slots=True)
class Change:
    """What is new of one answer: the text that it grew by, and how it ended if it did."""

    index: int
    text: str
    outcome: Generated | Exception | None


class Channel:
    """What the engine says of a request's answers, numbered from 0. Made in the event loop that reads it."""

    def __init__(self, count: int) -> None:
        """Expect so many answers."""
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._lock = threading.Lock()
        self._texts: list[list[str]] = [[] for _ in range(count)]
        self._outcomes: list[Generated | Exception | None] = [None] * count
        self._is_told = False

    def on_text(self, index: int) -> OnText:
        """Return what the engine calls with the text of an answer."""

        def told(text: str) -> None:
            with self._lock:
                self._texts[index].append(text)
            self._tell()

        return told

    def on_end(self, index: int) -> OnEnd:
        """Return what the engine calls at the end of an answer."""

        def told(outcome: Generated | Exception) -> None:
            with self._lock:
                self._outcomes[index] = outcome
            self._tell()

        return told

    async def changes(self) -> list[Change]:
        """Wait for news, and return all that came since the last call; an outcome is told once."""
        await self._news.wait()
        with self._lock:
            self._news.clear()
            self._is_told = False
            changes = [
                Change(index, "".join(texts), outcome)
                for index, (texts, outcome) in enumerate(zip(self._texts, self._outcomes, strict=True))
                if texts or outcome is not None
            ]
            for change in changes:
                self._texts[change.index] = []
                self._outcomes[change.index] = None
        return changes

    def _tell(self) -> None:
        with self._lock:
            if self._is_told:
                return
            self._is_told = True
        with suppress(RuntimeError):  # the loop is closed: the server has ended
            self._loop.call_soon_threadsafe(self._news.set)
