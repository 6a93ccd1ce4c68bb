"""Answers as server-sent events, and noticing that a client is gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from registry.serving.failures import ClientGoneError

Result = TypeVar("Result")

DONE = b"data: [DONE]\n\n"


def event(value: Any) -> bytes:
    """Return a value as one event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def unless_gone(request: Request, work: Awaitable[Result]) -> Result:
    """Return the result of ``work``, which is cancelled when the client closes the connection.

    Raises:
        ClientGoneError: it did.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGoneError
    finally:
        await _cancelled(working, gone)


class EventStream(Response):
    """Sends events as they come, until they end, the client is gone, or the time is over.

    ``on_close`` is called in any case, with whether the client had left.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], on_close: Callable[[bool], None], deadline: float) -> None:
        """Take the events; ``deadline`` is in the event loop's time."""
        self.status_code = 200
        self.background = None
        self._events, self._on_close, self._deadline = events, on_close, deadline
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; see ASGI."""
        sending = asyncio.ensure_future(self._send(send))
        gone = asyncio.ensure_future(_gone(receive))
        is_gone = True
        try:
            left = self._deadline - asyncio.get_running_loop().time()
            await asyncio.wait({sending, gone}, timeout=max(left, 0), return_when=asyncio.FIRST_COMPLETED)
            is_gone = not sending.done()
            if not is_gone:
                sending.result()
        finally:
            self._on_close(is_gone)
            await _cancelled(sending, gone)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for body in self._events:
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancelled(*tasks: asyncio.Future[Any]) -> None:
    """End tasks, and wait until they have let go of what they held."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
