"""Rows of reports and of SQL, written to standard output or to a file as they come."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import Decorator, option_group, path_option
from cli.output import clean, describe, heading, one_line, write_table, write_text
from registry.errors import UsageError

if TYPE_CHECKING:
    from registry.catalog.views import Column

FORMATS = ("table", "csv", "json", "markdown", "parquet")
_AT_ONCE = 100
"""Lines that are written one by one, so that the first is seen when it is there; later ones go in blocks."""
_BLOCK = 500
_SCREEN = 200
"""Rows of a table on a terminal that are aligned together."""

format_options: Decorator[Any] = option_group(
    click.option(
        "--format",
        "style",
        type=click.Choice(FORMATS),
        default=None,
        help="How to write the rows; a table if nothing is said.",
    ),
    click.option("--json", "as_json", is_flag=True, help="As --format json: one object a line."),
    path_option("--out", "Write the rows to this file; Parquet needs one."),
)


def chosen_style(style: str | None, as_json: bool, out: Path | None) -> str:
    """Return the format that the options name.

    Raises:
        UsageError: they name two, or Parquet without a file.
    """
    if as_json and style not in (None, "json"):
        raise UsageError(f"--json and --format {style} are two formats", hint="leave one of them out")
    chosen = "json" if as_json else style or "table"
    if chosen == "parquet" and out is None:
        raise UsageError("Parquet is written to a file", hint="--format parquet --out FILE.parquet")
    return chosen


def write_rows(
    names: Sequence[str],
    rows: Iterable[Sequence[Any]],
    style: str,
    out: Path | None,
    columns: Sequence[Column] | None = None,
) -> None:
    """Write rows in a format to ``out``, or to standard output; a file is there whole or not at all.

    Raises:
        UsageError: the file cannot be written, or Parquet does not take the values.
    """
    from registry.reports.formats import text_lines, write_parquet

    if style == "table" and out is None and sys.stdout.isatty():
        _draw(names, rows)
        return
    lines = _table_lines(names, rows) if style == "table" else text_lines(names, rows, style)
    if out is None:
        _print(lines)
        return
    with partial_file(out) as partial:
        if style == "parquet":
            write_parquet(partial, names, rows, columns)
        else:
            with partial.open("w", encoding="utf-8", newline="") as file:
                file.writelines(lines)


@contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """Yield the path of a file beside ``path`` that takes its place when it is whole.

    Raises:
        UsageError: it cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}", hint="name another file") from error
    finally:
        partial.unlink(missing_ok=True)


def _table_lines(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    yield "\t".join(map(heading, names)) + "\n"
    for row in rows:
        yield "\t".join(one_line(describe(name, value)) for name, value in zip(names, row, strict=True)) + "\n"


def _draw(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    remaining = iter(rows)
    first = True
    while (screen := list(islice(remaining, _SCREEN))) or first:
        write_table(screen, names)
        first = False


def _print(lines: Iterable[str]) -> None:
    is_terminal = sys.stdout.isatty()
    pending: list[str] = []
    try:
        for number, line in enumerate(lines):
            pending.append(clean(line) if is_terminal else line)
            if number < _AT_ONCE or len(pending) == _BLOCK:
                write_text("".join(pending))
                pending.clear()
    finally:
        if pending:
            write_text("".join(pending))
