"""What readers yield: titled stretches of text, one per heading or record."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

TITLE_SEPARATOR = " > "
PARAGRAPH_SEPARATOR = "\n\n"
CELL_SEPARATOR = " | "

# C0 and C1 controls without tab and line ends: they act on terminals, and PostgreSQL takes no NUL.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch of text under one title.

    A record has the ``line`` (from 1) on which it starts and the ``record_id`` that the source gives it; a part of a
    text has neither.
    """

    title: str
    text: str
    line: int | None = None
    record_id: str | None = None


def without_controls(text: str) -> str:
    """Return ``text`` with a space for every control character."""
    return _CONTROLS.sub(" ", text)


def one_line(text: str) -> str:
    """Return ``text`` without control characters and with single spaces for all white space: how titles are kept."""
    return " ".join(without_controls(text).split())


@dataclass(slots=True)
class Outline:
    """Gathers paragraphs under their headings, and names each section by the path of headings that leads to it.

    ``root`` names the text before the first heading, and leads the path where there is no heading of level 1.
    Between `open_group` and `close_group` (lists and tables, which may hold each other) paragraphs are the lines of
    one paragraph.
    """

    root: str
    _path: list[tuple[int, str]] = field(default_factory=list)
    _paragraphs: list[str] = field(default_factory=list)
    _group: list[str] = field(default_factory=list)
    _depth: int = 0
    _bare_heading: bool = False

    def add(self, paragraph: str) -> None:
        """Add a paragraph, or a line of the open group; white space alone is nothing."""
        if paragraph.strip():
            (self._group if self._depth else self._paragraphs).append(paragraph)
            self._bare_heading = False

    def open_group(self) -> None:
        """Begin a list or table."""
        self._depth += 1

    def close_group(self) -> None:
        """End a list or table; the outermost one becomes a paragraph."""
        self._depth -= 1
        if self._depth == 0:
            self._end_group()

    def enter(self, level: int, heading: str) -> Section | None:
        """Begin the section of a heading (``level`` from 1) and return the section that it ends, if that has text."""
        is_deeper = bool(self._path) and level > self._path[-1][0]
        ended = self._take(keep_bare_heading=not is_deeper)
        self._path = [(above, name) for above, name in self._path if above < level]
        self._path.append((level, one_line(heading)))
        self._bare_heading = True
        return ended

    def finish(self) -> Section | None:
        """Return the last section, if it has text."""
        return self._take(keep_bare_heading=True)

    def _end_group(self) -> None:
        if self._group:
            self._paragraphs.append("\n".join(self._group))
            self._group.clear()

    def _take(self, *, keep_bare_heading: bool) -> Section | None:
        self._end_group()
        # A heading without text and without headings below it would be lost: it is its own text.
        if self._bare_heading and keep_bare_heading:
            self._paragraphs.append(self._path[-1][1])
        title, text = self._title(), PARAGRAPH_SEPARATOR.join(self._paragraphs)
        self._paragraphs.clear()
        return Section(title, text) if text else None

    def _title(self) -> str:
        names = [name for _, name in self._path]
        if self.root and (not self._path or self._path[0][0] > 1):
            names.insert(0, self.root)
        return TITLE_SEPARATOR.join(names)
