"""How long work tells what it is doing, without knowing who listens."""

from __future__ import annotations

from typing import Literal, Protocol

Unit = Literal["", "bytes"]


class FileProgress(Protocol):
    """A file on its way, with a bar of its own below that of the step. Safe to tell from any thread."""

    def advance(self, size_bytes: int) -> None:
        """Tell that so many more bytes are there, of the step too; fewer than none where they have to come again."""

    def done(self) -> None:
        """Take the file's bar away."""


class Progress(Protocol):
    """What the pipeline reports to: one step after the other, each with a bar of its own."""

    def start(self, step: str, total: int | None = None, *, unit: Unit = "") -> None:
        """Begin a step, such as "encoding", of ``total`` units (None: not known); ends the one before."""

    def file(self, name: str, size_bytes: int) -> FileProgress:
        """Begin a file of the step, whose unit is bytes."""

    def advance(self, count: int = 1, *, note: str = "") -> None:
        """Tell that ``count`` more units of the step are done; ``note`` says something, such as a loss."""

    def say(self, text: str) -> None:
        """Tell something in one line of its own."""

    def done(self) -> None:
        """End the last step."""


class SilentFile:
    """A file of a progress that tells nobody."""

    def advance(self, size_bytes: int) -> None:
        """Tell nothing."""

    def done(self) -> None:
        """Tell nothing."""


class Silent:
    """A progress that tells nobody."""

    def start(self, step: str, total: int | None = None, *, unit: Unit = "") -> None:
        """Tell nothing."""

    def file(self, name: str, size_bytes: int) -> FileProgress:
        """Tell nothing."""
        return SilentFile()

    def advance(self, count: int = 1, *, note: str = "") -> None:
        """Tell nothing."""

    def say(self, text: str) -> None:
        """Tell nothing."""

    def done(self) -> None:
        """Tell nothing."""
