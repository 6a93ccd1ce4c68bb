"""The only module that prints: data to standard output, talk to standard error.

How a value is shown follows from its name, since names carry units: ``size_bytes``, ``elapsed_seconds``, ``search_ms``,
``created_at``, ``document_digest``. JSON has every value as it is, tables have it for people.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from registry.digests import short
from registry.errors import Interrupted, PragregError
from registry.masking import masked_urls
from registry.records import Skipped

FULL_LIST = 20
"""Things of one kind that are told one by one; JSON has more."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_BLANK = re.compile(r"\s+")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_UNITS = ("_bytes", "_seconds", "_ms", "_at", "_digest", "_gflops")
_NOTHING = "-"
_GAP = 2
_LEAST_TEXT = 8
"""Characters of a column of free text, however narrow the terminal is."""


def write_json(value: Any) -> None:
    """Write one value as one line of JSON."""
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    _write(json.dumps(plain(value), ensure_ascii=not encoding.startswith("utf")) + "\n", sys.stdout)


def write_line(text: str = "") -> None:
    """Write a line of text; control characters in it are replaced, so that no document can drive the terminal."""
    _write(clean(text) + "\n", sys.stdout)


def write_part(text: str) -> None:
    """Write the next part of a line that is still growing."""
    _write(clean(text), sys.stdout)


def write_text(text: str) -> None:
    """Write lines as they are: the values in them are data, for other programs."""
    _write(text, sys.stdout)


def ask_line(prompt: str) -> str:
    """Ask the person at the terminal for a line; the prompt keeps out of what is piped elsewhere.

    Raises:
        EOFError: there are no more lines.
    """
    if sys.stdout.isatty():
        return input(prompt)
    _write(prompt, sys.stderr)
    return input()


def write_records(records: Iterable[Any], columns: Sequence[str], *, as_json: bool) -> None:
    """Write records (dataclasses or mappings): one JSON object a line, or a table of some ``columns``."""
    if as_json:
        for record in records:
            write_json(record)
    else:
        write_table([[value_of(record, name) for name in columns] for record in records], columns)


def write_table(rows: Sequence[Sequence[object]], columns: Sequence[str]) -> None:
    """Write a table: aligned and cut to the width of a terminal, otherwise whole and separated by tabs."""
    cells = [[one_line(describe(name, value)) for name, value in zip(columns, row, strict=True)] for row in rows]
    if not sys.stdout.isatty():
        for line in [[heading(name) for name in columns], *cells]:
            _write("\t".join(line) + "\n", sys.stdout)
        return
    _draw([heading(name) for name in columns], cells, rows)


def _draw(headings: Sequence[str], cells: Sequence[Sequence[str]], values: Sequence[Sequence[object]]) -> None:
    """Draw a table on the terminal; what does not fit is taken from columns of free text."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    natural = [max(map(cell_len, column)) for column in zip(headings, *cells, strict=True)]
    is_text = [any(map(_is_free_text, column)) for column in zip(*values, strict=True)] or [True] * len(headings)
    screen = Console(file=sys.stdout).width
    widths = _fit(natural, is_text, screen - _GAP * len(headings))
    for index, width in enumerate(widths):
        is_number = any(isinstance(row[index], (int, float)) for row in values)
        table.add_column(
            headings[index], width=width, justify="right" if is_number else "left", no_wrap=True, overflow="ellipsis"
        )
    for line in cells:
        table.add_row(*map(Text, line))
    # Rather a long line than a number that is not shown.
    width = max(screen, sum(widths) + _GAP * len(widths))
    Console(file=sys.stdout, highlight=False, width=width).print(table, crop=False, soft_wrap=False)


def _is_free_text(value: object) -> bool:
    return isinstance(value, str) and not _DIGEST.fullmatch(value)


def _fit(natural: Sequence[int], is_text: Sequence[bool], room: int) -> list[int]:
    """Return widths of columns: their ``natural`` ones, cut where there is free text so that all have ``room``."""
    widths = list(natural)
    left = room - sum(width for width, free in zip(natural, is_text, strict=True) if not free)
    free = sorted((width, index) for index, width in enumerate(natural) if is_text[index])
    for position, (width, index) in enumerate(free):
        widths[index] = min(width, max(_LEAST_TEXT, left // (len(free) - position)))
        left -= widths[index]
    return widths


def write_fields(record: Any, names: Sequence[str] | None = None) -> None:
    """Write the fields of a record (a dataclass or mapping) one a line, aligned; digests are whole."""
    values = {name: value_of(record, name) for name in names or _names(record)}
    width = max(map(len, map(heading, values)), default=0)
    for name, value in values.items():
        shown = value if isinstance(value, str) and _DIGEST.fullmatch(value) else describe(name, value)
        first, *others = shown.splitlines() or [""]
        write_line(f"{heading(name):<{width}}  {first}")
        for line in others:
            write_line(f"{'':<{width}}  {line}")


def write_record(record: Any) -> None:
    """Write all of a record: its plain fields first, then whatever it holds, as tables where that is flat."""
    values = {name: value_of(record, name) for name in _names(record)}
    inner = {name: value for name, value in values.items() if _is_nested(value)}
    write_fields({name: value for name, value in values.items() if name not in inner})
    for name, value in inner.items():
        write_line()
        write_line(f"{heading(name)}:")
        if not isinstance(value, (list, tuple)):
            write_record(value)
        elif not _is_record(value[0]):
            for text in value:
                write_line(f"- {one_line(describe('', text))}")
        elif any(_is_nested(value_of(value[0], column)) for column in _names(value[0])):
            for part in value:
                write_record(part)
        else:
            columns = _names(value[0])
            write_table([[value_of(part, column) for column in columns] for part in value], columns)


def say(text: str) -> None:
    """Tell something to the person at the terminal, on standard error."""
    _write(clean(text) + "\n", sys.stderr)


def say_skipped(skipped: Sequence[Skipped]) -> None:
    """Tell which inputs were left out; of very many the first."""
    for each in skipped[:FULL_LIST]:
        place = each.source_uri if each.line is None else f"{each.source_uri}:{each.line}"
        say(f"skipped {place}: {each.reason}")
    if len(skipped) > FULL_LIST:
        say(f"skipped {len(skipped) - FULL_LIST} more; --json lists all")


def show_error(error: PragregError) -> None:
    """Show an error of this project: what is wrong, and what to do next."""
    say(masked_urls(error.message if isinstance(error, Interrupted) else f"error: {error.message}"))
    if error.hint:
        say(masked_urls(f"try: {error.hint}"))


def plain(value: Any) -> Any:
    """Return ``value`` as JSON knows it: records as objects, moments in ISO 8601, paths as text, no number as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def value_of(record: Any, name: str) -> Any:
    """Return a field of a dataclass or an entry of a mapping."""
    return record[name] if isinstance(record, Mapping) else getattr(record, name)


def heading(name: str) -> str:
    """Return the name of a column as people read it, without its unit, which stands with the values."""
    for unit in _UNITS:
        if name.endswith(unit):
            name = name.removesuffix(unit)
    return name.replace("_", " ")


def describe(name: str, value: object) -> str:
    """Return ``value`` for people, with the unit that its ``name`` says."""
    if value is None:
        return _NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, (int, float)):
        return _describe_number(name, value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {describe('', part)}" for key, part in value.items()) or _NOTHING
    if isinstance(value, (list, tuple)):
        return ", ".join(describe(name, part) for part in value) or _NOTHING
    text = str(value)
    return short(text) if _DIGEST.fullmatch(text) else text


def _describe_number(name: str, value: float) -> str:
    if name.endswith("_bytes"):
        return size_text(value)
    if name.endswith("_seconds"):
        return duration_text(value)
    if name.endswith("_ms"):
        return f"{value:.1f} ms"
    if name.startswith("operations"):
        return operations_text(value)
    if name.endswith("_gflops"):
        return f"{operations_text(value * 1e9)}/s"
    if name == "version" and isinstance(value, int):
        return f"v{value}"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def size_text(size_bytes: float) -> str:
    """Return a number of bytes with three digits and a decimal unit."""
    value, unit = float(size_bytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    decimals = 0 if unit == "B" or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{decimals}f} {unit}"


def operations_text(operations: float) -> str:
    """Return a number of floating-point operations with three digits and a decimal unit."""
    value, unit = float(operations), "FLOP"
    for unit in ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP"):
        if value < 999.5 or unit == "ZFLOP":
            break
        value /= 1000
    decimals = 0 if unit == "FLOP" or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{decimals}f} {unit}"


def counted(count: int, noun: str) -> str:
    """Return a number with what it counts, in the singular or with an s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def duration_text(seconds: float) -> str:
    """Return a time span in the units that fit it."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def clean(text: str) -> str:
    """Replace the characters that control a terminal or turn the direction of writing; line ends and tabs stay."""
    return _CONTROL.sub("\ufffd", text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """Return ``text`` in one line without control characters."""
    return clean(_BLANK.sub(" ", text)).strip()


def excerpt(text: str, characters: int) -> str:
    """Return the start of ``text`` in one line."""
    line = one_line(text)
    return line if len(line) <= characters else line[: characters - 1].rstrip() + "…"


def _is_record(value: object) -> bool:
    return isinstance(value, Mapping) or (dataclasses.is_dataclass(value) and not isinstance(value, type))


def _is_nested(value: object) -> bool:
    return bool(value) and (_is_record(value) or isinstance(value, (list, tuple)))


def _names(record: Any) -> list[str]:
    return list(record) if isinstance(record, Mapping) else [field.name for field in dataclasses.fields(record)]


def _write(text: str, stream: IO[str]) -> None:
    stream.write(text)
    stream.flush()
