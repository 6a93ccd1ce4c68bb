"""The records of a question file, whatever holds them: JSON Lines, a JSON list, one JSON object, or a TSV table."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.errors import InputError


class Malformed(ValueError):
    """A file or a record in it is wrong; the message names the place, then the reason."""


@dataclass(frozen=True, slots=True)
class Record:
    """One object of a file; ``place`` is the file with the record's line or number, for messages."""

    place: str
    fields: dict[str, Any]

    def text(self, name: str) -> str:
        """Return a text that must be there, without outer white space.

        Raises:
            Malformed: it is missing, empty or not a text.
        """
        value = self.fields.get(name)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(f"{name!r} is missing or empty")
        return value.strip()

    def label(self, name: str) -> str:
        """Return a text or a number as text; empty where it is missing or null.

        Raises:
            Malformed: it is neither.
        """
        value = self.fields.get(name)
        if value is None:
            return ""
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise self.wrong(f"{name!r} is neither a text nor a number")
        return str(value).strip()

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts, none of them blank; empty where it is missing.

        Raises:
            Malformed: it is something else.
        """
        values = self.fields.get(name, [])
        if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
            raise self.wrong(f"{name!r} is not a list of texts")
        return tuple(values)

    def records(self, name: str) -> Iterator[Record]:
        """Yield the objects of a list that must be there.

        Raises:
            Malformed: it is missing or not a list of objects.
        """
        values = self.fields.get(name)
        if not isinstance(values, list):
            raise self.wrong(f"{name!r} is missing or not a list")
        join = "." if self.place.endswith("]") else ": "
        for number, value in enumerate(values):
            yield _record(f"{self.place}{join}{name}[{number}]", value)

    def decoded(self, name: str) -> Any:
        """Return a value that may stand as JSON in a text, as it does in tables; None where it is missing.

        Raises:
            Malformed: it is a text that is not JSON.
        """
        value = self.fields.get(name)
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            raise self.wrong(f"{name!r} is not JSON: {error}") from error

    def wrong(self, reason: str) -> Malformed:
        """Return the error that says what is wrong with this record."""
        return Malformed(f"{self.place}: {reason}")


@contextmanager
def told(what: str, path: Path, *, path_hint: str, hint: str) -> Iterator[None]:
    """Turn what goes wrong while ``what`` is read, and its records are looked at, into errors for people.

    Raises:
        InputError: the file cannot be read, or it or a record in it is wrong.
    """
    try:
        yield
    except OSError as error:
        reason = f"{what} {error.filename or path} cannot be read: {error.strerror or error}"
        raise InputError(reason, hint=path_hint) from error
    except Malformed as error:
        raise InputError(str(error), hint=hint) from error


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a file in their order; blank lines are passed over, an empty file has none.

    Raises:
        Malformed: the file is not UTF-8, or not what it seems to be by its first character.
        OSError: the file cannot be read.
    """
    text = _decode(path, path.read_bytes())
    head = next((line for line in io.StringIO(text, newline="\n") if line.strip()), "")
    if head.lstrip().startswith("["):
        for number, value in enumerate(_load(text, path), 1):
            yield _record(f"{path}: record {number}", value)
    elif head.lstrip().startswith("{"):
        yield from _objects(text, head, path)
    elif "\t" in head:
        yield from _rows(text, path)
    elif head:
        raise Malformed(f"{path}: not JSON, and its first line does not name the columns of a TSV table")


def _decode(path: Path, raw: bytes) -> str:
    raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - (raw.rfind(b"\n", 0, error.start) + 1)
        raise Malformed(f"{path}:{line}: not UTF-8 at byte {column}") from error


def _objects(text: str, head: str, path: Path) -> Iterator[Record]:
    """Yield an object a line; or, where the first line is not a whole object, the one that takes the whole file."""
    try:
        json.loads(head)
    except (ValueError, RecursionError):
        yield _record(str(path), _load(text, path))
        return
    for number, line in enumerate(io.StringIO(text, newline="\n"), 1):
        if line.strip():
            # Without its end, so that an object that is not closed is wrong on this line, not on the next.
            yield _record(f"{path}:{number}", _load(line.rstrip(), path, number))


def _load(text: str, path: Path, line: int = 1) -> Any:
    """Parse JSON that begins on ``line`` of the file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{path}:{line + error.lineno - 1}"
        raise Malformed(f"{place}: not JSON: {error.msg} at character {error.colno}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise Malformed(f"{path}:{line}: not JSON that can be read: {error}") from error


def _rows(text: str, path: Path) -> Iterator[Record]:
    """Yield the rows of a TSV table, whose first line names the columns; fields may be quoted, quotes doubled."""
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    reader = csv.reader(io.StringIO(text, newline="\n"), delimiter="\t", strict=True)
    header: list[str] = []
    while True:
        place = f"{path}:{reader.line_num + 1}"
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise Malformed(f"{place}: not a row of a TSV table: {error}") from error
        if not any(field.strip() for field in row):
            continue
        if not header:
            header = [name.strip() for name in row]
        elif len(row) != len(header):
            raise Malformed(f"{place}: has {len(row)} columns, the header has {len(header)}")
        else:
            yield Record(place, dict(zip(header, row, strict=True)))


def _record(place: str, value: Any) -> Record:
    if not isinstance(value, dict):
        raise Malformed(f"{place}: not a JSON object")
    return Record(place, value)
