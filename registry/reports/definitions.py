"""Reports: SQL files in this folder, each with a head that says what it answers, takes and gives.

The head is the comment lines before the SQL, in this form; a line that is indented after its dashes goes on with the
line above::

    -- title: What is told
    -- about: Some sentences.
    -- param: NAME KIND [= DEFAULT | required]; what it is
    -- column: NAME KIND; what it is, with its unit
    -- chart: KIND x=COLUMN y=COLUMN[,COLUMN...] [series=COLUMN[,COLUMN...]] [log]
    -- empty: the error if there are no rows; a report without it may be empty

KIND of a parameter is text, integer or the values that it may have (``one|two``); of a column text, integer, number,
boolean or moment; of a chart bar, line or histogram (x=FROM,TO are the edges of its bars). A parameter ``limit`` is the
most rows, 0 for all; a parameter ``corpus`` must name one that is there.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal, get_args

from registry.catalog.views import Column, Kind
from registry.errors import NotFoundError

ChartKind = Literal["bar", "line", "histogram"]

_KEYS = ("title", "about", "param", "column", "chart", "empty")
_LINE = re.compile(r"-- ([a-z]+): (\S.*)")
_MORE = re.compile(r"--   (\S.*)")
_PARAMETER = re.compile(r"([a-z_]+) ([a-z|-]+)(?: (required)| = ([^;]+))?; (.+)")
_COLUMN = re.compile(r"([a-z_0-9]+) ([a-z]+); (.+)")
_CHART = re.compile(r"([a-z]+) x=([a-z_0-9,]+) y=([a-z_0-9,]+)(?: series=([a-z_0-9,]+))?( log)?")


class ReportError(ValueError):
    """The head of a report's file is wrong; the message names file and line."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """What a report takes; ``choices`` is empty where every text or number will do, ``default`` None for null."""

    name: str
    kind: Literal["text", "integer"]
    choices: tuple[str, ...]
    default: str | int | None
    required: bool
    meaning: str


@dataclass(frozen=True, slots=True)
class Chart:
    """How a report is drawn: the names of columns on the axes, and those that tell series apart."""

    kind: ChartKind
    x: tuple[str, ...]
    y: tuple[str, ...]
    series: tuple[str, ...]
    log: bool


@dataclass(frozen=True, slots=True)
class Report:
    """A report: its name, what its head says, and its SQL with the head."""

    name: str
    title: str
    about: str
    parameters: tuple[Parameter, ...]
    columns: tuple[Column, ...]
    chart: Chart | None
    empty: str | None
    sql: str


def report_names() -> list[str]:
    """Return the names of all reports, sorted."""
    return sorted(item.name.removesuffix(".sql") for item in files(__package__).iterdir() if item.name.endswith(".sql"))


def read_report(name: str) -> Report:
    """Return a report.

    Raises:
        NotFoundError: there is none of that name.
        ReportError: its head is wrong.
    """
    known = report_names()
    if name not in known:
        near = difflib.get_close_matches(name, known)
        meant = f"; did you mean {' or '.join(near)}?" if near else ""
        raise NotFoundError(f"there is no report {name!r}{meant}", hint="pragreg report")
    return parse_report(name, (files(__package__) / f"{name}.sql").read_text(encoding="utf-8"))


def parse_report(name: str, text: str) -> Report:
    """Return the report that the file ``name``.sql with ``text`` describes.

    Raises:
        ReportError: its head is wrong, or the SQL does not fit it.
    """
    entries, sql = _head(name, text)
    single = {key: [entry for entry in entries if entry.key == key] for key in _KEYS}
    for key in ("title", "about", "chart", "empty"):
        if len(single[key]) > 1:
            raise single[key][1].wrong(f"a second {key}")
    for key in ("title", "about", "column"):
        if not single[key]:
            raise ReportError(f"{name}.sql has no {key}")
    parameters = tuple(map(_parameter, single["param"]))
    columns = tuple(map(_column, single["column"]))
    for found, every in (("param", parameters), ("column", columns)):
        names = [one.name for one in every]
        if len(set(names)) < len(names):
            raise ReportError(f"{name}.sql has a {found} twice")
    used = set(re.findall(r"(?<!:):([a-z_]+)", sql))
    if used != {one.name for one in parameters}:
        raise ReportError(f"{name}.sql takes {sorted(used)}, but its head says {[one.name for one in parameters]}")
    chart = _chart(single["chart"][0], {column.name for column in columns}) if single["chart"] else None
    empty = single["empty"][0].text if single["empty"] else None
    title, about = single["title"][0].text, single["about"][0].text
    return Report(name, title, about, parameters, columns, chart, empty, text)


@dataclass(frozen=True, slots=True)
class _Entry:
    file: str
    line: int
    key: str
    text: str

    def wrong(self, what: str) -> ReportError:
        return ReportError(f"{self.file}.sql, line {self.line}: {what}: {self.text}")


def _head(name: str, text: str) -> tuple[list[_Entry], str]:
    entries: list[_Entry] = []
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.startswith("--"):
            return entries, "\n".join(lines[number - 1 :])
        if (match := _LINE.fullmatch(line)) and match[1] in _KEYS:
            entries.append(_Entry(name, number, match[1], match[2]))
        elif entries and (match := _MORE.fullmatch(line)):
            last = entries.pop()
            entries.append(_Entry(name, last.line, last.key, f"{last.text} {match[1]}"))
        else:
            raise ReportError(f"{name}.sql, line {number}: not a line of a head: {line}")
    raise ReportError(f"{name}.sql has no SQL")


def _parameter(entry: _Entry) -> Parameter:
    match = _PARAMETER.fullmatch(entry.text)
    if match is None:
        raise entry.wrong("not NAME KIND [= DEFAULT | required]; MEANING")
    name, kind, required, default, meaning = match.groups()
    choices = tuple(kind.split("|")) if "|" in kind else ()
    if not choices and kind not in ("text", "integer"):
        raise entry.wrong("the kind is none of text, integer, or values with | between")
    if choices and default is not None and default not in choices:
        raise entry.wrong("the default is none of the values")
    if kind == "integer":
        if default is not None and not default.isdecimal():
            raise entry.wrong("the default is no number")
        return Parameter(name, "integer", (), None if default is None else int(default), bool(required), meaning)
    return Parameter(name, "text", choices, default, bool(required), meaning)


def _column(entry: _Entry) -> Column:
    match = _COLUMN.fullmatch(entry.text)
    if match is None:
        raise entry.wrong("not NAME KIND; MEANING")
    name, kind, meaning = match.groups()
    for known in get_args(Kind):
        if kind == known:
            return Column(name, known, meaning)
    raise entry.wrong(f"the kind is none of {', '.join(get_args(Kind))}")


def _chart(entry: _Entry, columns: set[str]) -> Chart:
    match = _CHART.fullmatch(entry.text)
    if match is None:
        raise entry.wrong("not KIND x=COLUMN y=COLUMN [series=COLUMN] [log]")
    kind, x, y, series, log = match.groups()
    names = [tuple((part or "").split(",")) if part else () for part in (x, y, series)]
    unknown = sorted({name for part in names for name in part} - columns)
    if unknown:
        raise entry.wrong(f"there is no column {unknown[0]}")
    if len(names[0]) != (2 if kind == "histogram" else 1):
        raise entry.wrong("a histogram has two columns on x, any other chart one")
    for known in get_args(ChartKind):
        if kind == known:
            return Chart(known, names[0], names[1], names[2], bool(log))
    raise entry.wrong(f"the kind is none of {', '.join(get_args(ChartKind))}")
