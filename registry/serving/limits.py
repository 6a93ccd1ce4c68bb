"""How many requests are taken: those that run and those that may wait."""

from __future__ import annotations

import math

from registry.serving.failures import ApiError

MOST_SECONDS = 60
"""The longest time that a client is asked to wait; clients take longer ones for a mistake."""
_UNMEASURED_SECONDS = 1.0
_WEIGHT = 0.1


class Places:
    """Room for requests; used by the event loop's thread alone.

    ``seconds`` is how long an answer has taken lately, from its place among the rows on.
    """

    def __init__(self, rows: int, queue: int) -> None:
        """Let ``rows`` run and ``queue`` wait."""
        self._rows, self._limit = rows, rows + queue
        self.taken = 0
        self.seconds = _UNMEASURED_SECONDS

    def take(self, count: int) -> None:
        """Take places for a request's answers; to be given back by ``give``.

        Raises:
            ApiError: there are not so many left, or never are.
        """
        if count > self._limit:
            raise ApiError(400, f"this server takes at most {self._limit} answers at once, not {count}", param="n")
        if self.taken + count > self._limit:
            seconds = self.retry_seconds()
            full = f"{self.taken} requests are being answered or wait, and {self._limit} are the most"
            raise ApiError(
                429,
                f"{full}; try again in {seconds} s",
                code="queue_full",
                headers={"retry-after": str(seconds)},
            )
        self.taken += count

    def give(self, count: int) -> None:
        """Give places back."""
        self.taken -= count

    def measured(self, seconds: float) -> None:
        """Note how long an answer took once it had its row."""
        self.seconds += _WEIGHT * (seconds - self.seconds)

    def retry_seconds(self) -> int:
        """Return in how many seconds those who wait now will have got their rows, at the speed measured."""
        waiting = max(self.taken - self._rows, 1)
        return min(max(math.ceil(waiting * self.seconds / self._rows), 1), MOST_SECONDS)
