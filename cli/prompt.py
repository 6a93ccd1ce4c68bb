"""The prompt of ``pragreg query``: one question after the other, with the model in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cli.answers import answer_record, write_explanation
from cli.options import MAX_HITS
from cli.output import ask_line, say, show_error, write_json, write_line, write_part
from registry.errors import Interrupted, PragregError, UsageError
from registry.merging.methods import GRAMMAR, parse_merge
from registry.records import MODES

if TYPE_CHECKING:
    from registry.pipeline.query import Asker, Asking

PROMPT = "? "
HISTORY_LINES = 1000
HELP = f"""\
/mode NAME     one of {", ".join(MODES)}
/k N           how many documents to retrieve, 1 to {MAX_HITS}
/merge HOW     {GRAMMAR}
/explain       show what gave each answer, or stop doing so
/help          this
/quit          leave, as does Ctrl-D"""


class Prompt:
    """Questions typed at a terminal, and the settings that can be changed between them."""

    def __init__(
        self, asker: Asker, asking: Asking, *, history: Path, explain: bool = False, as_json: bool = False
    ) -> None:
        """Take an opened version; lines typed before are read from ``history`` and new ones added to it."""
        self.asking = replace(asking, batch_size=1)
        self.explain = explain
        self._as_json = as_json
        self._asker = asker
        self._history = history

    def run(self) -> None:
        """Answer until the end of the input or /quit; an error ends its question only."""
        say(f"{self._asker.version.reference}, {self._asker.version.documents} documents; /help lists commands")
        with self._line_editing():
            while (line := _read_line()) is not None:
                try:
                    if not self.handle(line.strip()):
                        return
                except KeyboardInterrupt:
                    write_line()
                except Interrupted:
                    raise
                except PragregError as error:
                    show_error(error)

    def handle(self, line: str) -> bool:
        """Answer a question or carry out a command; False leaves.

        Raises:
            PragregError: the command is unknown or its value wrong, or the question cannot be answered.
        """
        if line.startswith("/"):
            name, _, value = line[1:].partition(" ")
            return self._command(name, value.strip())
        if line:
            self._ask(line)
        return True

    def _ask(self, question: str) -> None:
        if self._as_json:
            for answer in self._asker.ask([question], self.asking):
                write_json(answer_record(answer))
            return
        pieces: list[str] = []

        def show(_row: int, text: str) -> None:
            write_part(text if pieces else text.lstrip())
            pieces.append(text)

        for answer in self._asker.ask([question], self.asking, on_text=show):
            write_line()
            if self.explain:
                write_explanation(answer)

    def _command(self, name: str, value: str) -> bool:
        if name in ("quit", "exit", "q"):
            return False
        if name == "help":
            say(HELP)
        elif name == "explain":
            self.explain = not self.explain
            say("answers are explained" if self.explain else "answers are not explained")
        elif name == "mode":
            self._set(mode=value)
        elif name == "k":
            if not (value.isascii() and value.isdigit() and 1 <= int(value) <= MAX_HITS):
                raise UsageError(f"{value!r} is not a number of documents", hint=f"/k 1 to /k {MAX_HITS}")
            self._set(k=int(value))
        elif name == "merge":
            self._set(merge=value)
        else:
            raise UsageError(f"there is no command /{name}", hint="/help")
        return True

    def _set(self, **changes: object) -> None:
        asking = replace(self.asking, **changes)  # type: ignore[arg-type]
        self.asking = replace(asking, merge=str(parse_merge(asking.merge, asking.k)))
        say(f"mode {self.asking.mode}, k {self.asking.k}, merge {self.asking.merge}")

    @contextlib.contextmanager
    def _line_editing(self) -> Iterator[None]:
        """Let lines be edited and recalled, where Python was built with readline."""
        try:
            import readline
        except ImportError:
            yield
            return
        # A history that cannot be read or written is not worth an error.
        with contextlib.suppress(OSError):
            readline.read_history_file(self._history)
        readline.set_history_length(HISTORY_LINES)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                readline.write_history_file(self._history)


def _read_line() -> str | None:
    """Return the next line, empty after Ctrl-C, None at the end of the input."""
    try:
        return ask_line(PROMPT)
    except KeyboardInterrupt:
        write_line()
        return ""
    except EOFError:
        write_line()
        return None
