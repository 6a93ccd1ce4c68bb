"""What a text of SQL says before any database reads it: its first word, its parameters, whether it is one statement.

Strings, comments and quoted names are told apart from the rest, as far as SQLite and PostgreSQL agree on them. Where
they do not, more is taken for SQL than is, so that nothing hides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from registry.errors import UsageError

_TOKEN = re.compile(
    r"""
    (?P<comment> --[^\n]* | /\*.*?\*/ )
  | (?P<string> [eE]'(?:[^'\\]|''|\\.)*' | '(?:[^']|'')*' | \$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$ )
  | (?P<quoted> "(?:[^"]|"")*" )
  | (?P<cast> :: )
  | :(?P<parameter> [^\W\d]\w* )
  | (?P<word> [^\W\d][\w$]* )
  | (?P<end> ; )
  | (?P<other> \S )
    """,
    re.VERBOSE | re.DOTALL,
)

_EXPLAINING = (
    *("explain", "query", "plan", "analyze", "verbose", "costs", "settings", "generic_plan", "buffers", "serialize"),
    *("wal", "timing", "summary", "memory", "format", "text", "xml", "json", "yaml", "none", "binary"),
    *("on", "off", "true", "false"),
)
"""Words that may stand before the statement that EXPLAIN explains."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of SQL.

    ``first_word`` is in lower case, and so is ``what``: the same, or the first word of what EXPLAIN explains. ``names``
    are the words that may name a function, unquoted ones in lower case; ``parameters`` are the names after a colon,
    each once, in order.
    """

    text: str
    first_word: str
    what: str
    names: frozenset[str]
    parameters: tuple[str, ...]

    def numbered(self) -> str:
        """Return the text with ``$1`` and so on in place of the parameters, in the order of ``parameters``."""
        parts, done = [], 0
        for match in _TOKEN.finditer(self.text):
            if (name := match["parameter"]) is not None:
                parts += [self.text[done : match.start()], f"${self.parameters.index(name) + 1}"]
                done = match.end()
        return "".join([*parts, self.text[done:]])

    def original_offset(self, offset: int) -> int:
        """Return where in the text an ``offset`` (from 0) into ``numbered()`` is."""
        grown = 0
        for match in _TOKEN.finditer(self.text):
            if (name := match["parameter"]) is None:
                continue
            number = f"${self.parameters.index(name) + 1}"
            if match.start() - grown + len(number) > offset:
                return min(offset + grown, match.start()) if match.start() - grown <= offset else offset + grown
            grown += len(match[0]) - len(number)
        return offset + grown


def parse_statement(text: str) -> Statement:
    """Return what ``text`` says; a semicolon at its end is left out.

    Raises:
        UsageError: it is empty, or holds several statements.
    """
    words: list[str] = []
    names: set[str] = set()
    parameters: dict[str, None] = {}
    end: int | None = None
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup
        if kind == "comment":
            continue
        if end is not None and kind != "end":
            raise UsageError("there are several statements in this query", hint="run them one by one")
        if kind == "end":
            end = match.start() if end is None else end
        elif kind == "parameter":
            parameters.setdefault(match["parameter"])
        elif kind == "word":
            words.append(match[0].lower())
        elif kind == "quoted":
            names.add(match[0][1:-1].replace('""', '"'))
    body = text if end is None else text[:end]
    if not words:
        raise UsageError("the query is empty", hint='pragreg sql "SELECT * FROM v_corpora"')
    what = words[0]
    if what == "explain":
        what = next((word for word in words if word not in _EXPLAINING), "explain")
    return Statement(body, words[0], what, frozenset(names | set(words)), tuple(parameters))


def line_and_column(text: str, offset: int) -> tuple[int, int]:
    """Return the line and the column, both from 1, of an ``offset`` from 0."""
    before = text[:offset]
    return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1


def pointed_at(text: str, offset: int) -> str:
    """Return the line of ``text`` that an ``offset`` from 0 falls in, with a caret under the place."""
    number, column = line_and_column(text, offset)
    lines: Sequence[str] = text.split("\n")
    start = max(0, column - 60)
    shown = lines[number - 1][start : start + 100].replace("\t", " ")
    return f"{shown}\n{' ' * (column - 1 - start)}^"
