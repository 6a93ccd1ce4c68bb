"""Input that cannot be used: where it is, why, and whether reading goes on without it."""

from __future__ import annotations

from collections.abc import Callable

from registry.errors import InputError
from registry.records import Skipped

SKIP_HINT = "mend it, or leave it out with --skip-invalid"


class InvalidInput(InputError):
    """One file or record that cannot be used; ``skipped`` says where it is and why."""

    def __init__(self, source_uri: str, line: int | None, reason: str, *, hint: str = SKIP_HINT) -> None:
        """Keep the place (``line`` from 1, None for the whole file) and the reason."""
        place = source_uri if line is None else f"{source_uri}:{line}"
        super().__init__(f"{place}: {reason}", hint=hint)
        self.skipped = Skipped(source_uri, line, reason)


class Rejections:
    """What happens to invalid input: it is raised, or counted and passed to ``on_skip`` where it is to be skipped."""

    def __init__(self, *, skip: bool, on_skip: Callable[[Skipped], None] | None = None) -> None:
        """Start with nothing rejected."""
        self.count = 0
        self._skip = skip
        self._on_skip = on_skip

    def reject(self, error: InvalidInput) -> None:
        """Raise ``error``, or note it and go on.

        Raises:
            InvalidInput: invalid input is not skipped.
        """
        if not self._skip:
            raise error
        self.count += 1
        if self._on_skip is not None:
            self._on_skip(error.skipped)
