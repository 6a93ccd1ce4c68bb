"""An answer of a server that is being read: bounded, and fast where it is long."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from registry.hub.retrying import PassingError, timeout_seconds

READ_BYTES = 1024 * 1024
"""How much is read of a long body at a time."""

DIRECT_BYTES = 8 * 1024 * 1024
"""Where more of a body is to come, it is read past the HTTP library, at the price of a connection."""

_ERROR_LIMIT_BYTES = 64 * 1024


@dataclass(frozen=True)
class Answer:
    """An answer whose body is read as it comes. ``url`` is who gave it, or where a file's bytes lie."""

    response: Any
    url: str
    check: Callable[[], None]

    @property
    def status(self) -> int:
        """The status of HTTP."""
        return int(self.response.status_code)

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, whose names may be written in any case."""
        headers: Mapping[str, str] = self.response.headers
        return headers

    @property
    def length(self) -> int | None:
        """The length of the body in bytes, as the server says it."""
        text = self.headers.get("content-length", "")
        return int(text) if text.isdecimal() and "transfer-encoding" not in self.headers else None

    def chunks(self) -> Iterator[bytes]:
        """Yield the body as it comes.

        Raises:
            PassingError: it is cut.
        """
        left = self.length
        body = self.response.iter_raw()
        for chunk in body:
            self.check()
            yield chunk
            if left is not None:
                left -= len(chunk)
                if left > DIRECT_BYTES:
                    break
        if left is not None and left > DIRECT_BYTES:
            yield from self._rest(left)

    def _rest(self, left: int) -> Iterator[bytes]:
        """Yield the rest of a long body from the connection itself: the HTTP library would copy every byte three times.

        What it had of the body already is in the chunk that it gave first.
        """
        stream = self.response.extensions["network_stream"]
        while left > 0:
            self.check()
            try:
                chunk = stream.read(min(left, READ_BYTES), timeout=timeout_seconds())
            except Exception as error:  # the errors of the library below, which are not those of the library
                raise PassingError(f"the connection was cut ({type(error).__name__})") from None
            if not chunk:
                raise PassingError("the connection was cut")
            left -= len(chunk)
            yield chunk


def server_text(response: Any) -> str | None:
    """Return what the body of a refusal says, if it is of the Hub's form or plain text."""
    found = bytearray()
    for chunk in response.iter_raw():
        found += chunk
        if len(found) > _ERROR_LIMIT_BYTES:
            return None
    text = found.decode(errors="replace")
    try:
        answer = json.loads(text)
    except ValueError:
        return text if "html" not in response.headers.get("content-type", "").lower() else None
    error = answer.get("error") if isinstance(answer, dict) else None
    return error if isinstance(error, str) else None
