"""How long work tells what it is doing, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What the pipeline reports to: one step after the other, each with a bar of its own."""

    def start(self, step: str, total: int | None = None) -> None:
        """Begin a step, such as "encoding", of ``total`` units (None: not known); ends the one before."""

    def advance(self, count: int = 1, *, note: str = "") -> None:
        """Tell that ``count`` more units of the step are done; ``note`` says something, such as a loss."""

    def say(self, text: str) -> None:
        """Tell something in one line of its own."""

    def done(self) -> None:
        """End the last step."""


class Silent:
    """A progress that tells nobody."""

    def start(self, step: str, total: int | None = None) -> None:
        """Tell nothing."""

    def advance(self, count: int = 1, *, note: str = "") -> None:
        """Tell nothing."""

    def say(self, text: str) -> None:
        """Tell nothing."""

    def done(self) -> None:
        """Tell nothing."""
