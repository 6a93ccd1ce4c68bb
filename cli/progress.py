"""Progress on the terminal: a bar a step, with rate and time left; without a terminal only what is said."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cli.output import clean, one_line, say
from registry.progress import SilentFile, Unit

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from registry.progress import FileProgress, Progress


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Yield what the pipeline reports to, and end the bars before anything else is shown."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    bars = _make_bars()
    try:
        yield TerminalBars(bars)
    finally:
        if bars.live.is_started:
            bars.stop()


class Lines:
    """Progress without a terminal: no bars; what is said goes to standard error line by line."""

    def start(self, step: str, total: int | None = None, *, unit: Unit = "") -> None:
        """Draw nothing."""

    def file(self, name: str, size_bytes: int) -> FileProgress:
        """Draw nothing."""
        return SilentFile()

    def advance(self, count: int = 1, *, note: str = "") -> None:
        """Draw nothing."""

    def say(self, text: str) -> None:
        """Print the line."""
        say(text)

    def done(self) -> None:
        """Draw nothing."""


class TerminalBars:
    """Progress on a terminal, drawn by rich on standard error."""

    def __init__(self, bars: Bars) -> None:
        """Take running bars (see ``progress_bars``)."""
        self._bars = bars
        self._task: TaskID | None = None

    def start(self, step: str, total: int | None = None, *, unit: Unit = "") -> None:
        """Add a bar for the step."""
        self.done()
        self._bars.start()
        self._task = self._bars.add_task(one_line(step), total=total, note="", unit=unit)

    def file(self, name: str, size_bytes: int) -> FileProgress:
        """Add a bar for the file, which is there until its end."""
        task = self._bars.add_task(f"  {one_line(name)}", total=size_bytes, note="", unit="bytes")
        return FileBar(self._bars, task, self._task)

    def advance(self, count: int = 1, *, note: str = "") -> None:
        """Move the step's bar."""
        if self._task is not None:
            self._bars.update(self._task, advance=count, note=one_line(note))

    def say(self, text: str) -> None:
        """Print the line above the bars."""
        from rich.text import Text

        self._bars.console.print(Text(clean(text)))

    def done(self) -> None:
        """Leave the step's bar as it is, full if its length was not known."""
        if self._task is not None:
            task = self._bars.tasks[self._bars.task_ids.index(self._task)]
            if task.total is None:
                end = max(1, task.completed)
                self._bars.update(self._task, completed=end, total=end)
            self._bars.update(self._task, note="")
            self._bars.stop_task(self._task)
            self._task = None


class FileBar:
    """The bar of a file; what moves it moves the step's."""

    def __init__(self, bars: Bars, task: TaskID, step: TaskID | None) -> None:
        """Take the file's own bar and that of its step."""
        self._bars, self._task, self._step = bars, task, step
        self._lock = threading.Lock()
        self._is_done = False

    def advance(self, size_bytes: int) -> None:
        """Move both bars."""
        with self._lock:
            if self._is_done:
                return
            self._bars.update(self._task, advance=size_bytes)
        if self._step is not None:
            self._bars.update(self._step, advance=size_bytes)

    def done(self) -> None:
        """Take the file's bar away."""
        with self._lock:
            if not self._is_done:
                self._is_done = True
                self._bars.remove_task(self._task)


def _make_bars() -> Bars:
    from rich.console import Console
    from rich.filesize import decimal
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Task as RichTask
    from rich.text import Text

    def counted(task: RichTask, number: Any) -> str:
        return decimal(int(number)) if task.fields.get("unit") == "bytes" else str(int(number))

    class DoneColumn(ProgressColumn):
        """How many of how many."""

        def render(self, task: RichTask) -> Text:
            total = "?" if task.total is None else counted(task, task.total)
            return Text(f"{counted(task, task.completed)}/{total}")

    class RateColumn(ProgressColumn):
        """Units a second, or seconds a unit where they are slow."""

        def render(self, task: RichTask) -> Text:
            speed = task.finished_speed or task.speed
            if not speed:
                return Text("")
            if task.fields.get("unit") == "bytes":
                return Text(f"{decimal(int(speed))}/s")
            return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each")

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DoneColumn(),
        RateColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True, highlight=False),
    )
