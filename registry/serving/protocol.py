"""HTTP on a connection, as uvicorn and httptools speak it, with an end to what is sent before a request's body."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD_BYTES = 64 * 1024
"""A request's line and headers; clients and proxies send a tenth of it at most."""


class BoundedProtocol(HttpToolsProtocol):
    """Refuses a head that does not end, and knows whether it waits for one."""

    _head_bytes: int | None = None
    """What came of a head that is not whole; None between a whole one and the next."""

    @property
    def is_silent(self) -> bool:
        """Whether a request is waited for that did not begin, or whose head is not whole.

        Connections that are kept alive after an answer have a timer of their own until something comes.
        """
        cycle = self.cycle
        return cycle is None or (cycle.response_complete and self.timeout_keep_alive_task is None)

    def data_received(self, data: bytes) -> None:
        """Take bytes that came."""
        super().data_received(data)
        if self._head_bytes is not None and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                self.send_400_response("The request's head is too long.")

    def on_message_begin(self) -> None:
        """Take note that a head begins."""
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Take note that it ended."""
        self._head_bytes = None
        super().on_headers_complete()
