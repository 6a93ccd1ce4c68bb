"""When to try again, and how long to wait before: what may pass by itself, up to a number of attempts."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from types import ModuleType

from registry.errors import HubError
from registry.hub.refusals import Asked, gave_up

ATTEMPTS = 6
UNREACHED_ATTEMPTS = 3
"""Where not even a connection comes about."""
RETRY_VARIABLE = "PRAGREG_HUB_RETRY_SECONDS"
RETRY_SECONDS = 1.0
"""The first wait; each is twice the one before."""
LONGEST_RETRY_SECONDS = 30.0
LONGEST_ASKED_SECONDS = 300.0
"""The Hub counts requests in windows of five minutes; no server needs a longer wait."""
TIMEOUT_VARIABLE = "PRAGREG_HUB_TIMEOUT_SECONDS"
TIMEOUT_SECONDS = 30.0
COMMIT_TIMEOUTS = 4
"""A commit may take the Hub a minute."""

_PASSING = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}
_WINDOW = re.compile(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d+)")  # RateLimit: "api";r=0;t=55


class PassingError(Exception):
    """What may pass by itself. ``wait_seconds`` is what the server asks for; ``is_sent`` False: it got nothing."""

    def __init__(
        self, reason: str, *, wait_seconds: float | None = None, is_sent: bool = True, status: int | None = None
    ) -> None:
        """Keep what is known."""
        super().__init__(reason)
        self.reason = reason
        self.wait_seconds = wait_seconds
        self.is_sent = is_sent
        self.status = status


class Patience:
    """Counts the failures of one thing that is asked, and waits after each, longer and longer."""

    def __init__(self, asked: Asked, pause: Callable[[float], None], notify: Callable[[str], None]) -> None:
        """Wait by ``pause`` (in seconds), and tell ``notify`` of long waits."""
        self._asked = asked
        self._pause = pause
        self._notify = notify
        self._failures = 0

    def renew(self) -> None:
        """Forget the failures, since there was progress."""
        self._failures = 0

    def failed(self, error: PassingError) -> None:
        """Wait before the next attempt.

        Raises:
            HubError: it failed too often, or the server asks for too long a wait.
        """
        self._failures += 1
        if self._failures >= (ATTEMPTS if error.is_sent else UNREACHED_ATTEMPTS):
            raise gave_up(self._asked, error.reason, is_reached=error.is_sent, status=error.status) from None
        asked = error.wait_seconds
        if asked is not None and asked > LONGEST_ASKED_SECONDS:
            raise HubError(
                f"{self._asked.failed}: {error.reason}, and the server asks for a wait of {asked / 60:.0f} minutes",
                hint="run the same command again then; what has arrived is kept",
            ) from None
        growing = min(_seconds(RETRY_VARIABLE, RETRY_SECONDS) * 2 ** (self._failures - 1), LONGEST_RETRY_SECONDS)
        wait_seconds = growing * random.uniform(0.75, 1.25) if asked is None else asked
        if wait_seconds >= 1:
            self._notify(f"{self._asked.endpoint}: {error.reason}; trying again in {wait_seconds:.0f} s")
        self._pause(wait_seconds)


def raise_if_passing(status: int, headers: Mapping[str, str]) -> None:
    """Raise PassingError for a status that may pass by itself."""
    if status in _PASSING:
        phrase = HTTPStatus(status).phrase if status in HTTPStatus.__members__.values() else ""
        raise PassingError(
            f"the server answers {status} {phrase}".rstrip(), wait_seconds=_asked_wait(headers), status=status
        )


def passing(error: Exception, library: ModuleType) -> PassingError | None:
    """Return what the HTTP library raised as what may pass by itself; None for what will not."""
    if not isinstance(error, library.TransportError) or isinstance(error, library.UnsupportedProtocol):
        return None
    is_sent = not isinstance(error, (library.ConnectError, library.ConnectTimeout, library.PoolTimeout))
    reason = "the server does not answer" if isinstance(error, library.TimeoutException) else str(error)
    return PassingError(reason or type(error).__name__, is_sent=is_sent)


def timeout_seconds() -> float:
    """Return how long to wait for the next sign of life of a server."""
    return _seconds(TIMEOUT_VARIABLE, TIMEOUT_SECONDS)


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    found = _WINDOW.search(headers.get("ratelimit", ""))
    if found:
        return float(found[1])
    text = headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _seconds(variable: str, default: float) -> float:
    try:
        return max(0.0, float(os.environ.get(variable, default)))
    except ValueError:
        return default
