"""Read JSON Lines: one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from registry.documents.fields import FIELDS_HINT, Fields, MissingField, find_fields
from registry.documents.invalid import SKIP_HINT, InvalidInput, Rejections
from registry.documents.opening import decode_line, numbered_lines
from registry.documents.options import ReadOptions
from registry.documents.sections import Section, one_line, without_controls
from registry.documents.source_file import SourceFile


class _InvalidRecord(ValueError):
    """A line is not a usable record; the message says why."""


def read_jsonl(stream: BinaryIO, source: SourceFile, options: ReadOptions, rejections: Rejections) -> Iterator[Section]:
    """Yield the records of a JSON Lines file; blank lines are passed over.

    Raises:
        InvalidInput: reading failed, or a line is not a usable record and invalid input is not skipped.
    """
    names: tuple[str, ...] = ()
    fields: Fields | None = None
    for number, line in numbered_lines(stream, source):
        try:
            text = decode_line(source, number, line)
            if text.isspace():
                continue
            record = _parse(text)
            # Most files have the same fields on every line, so they are looked for once.
            if fields is None or tuple(record) != names:
                fields, names = find_fields(options, tuple(record)), tuple(record)
            section = _section(record, fields, number)
            if "\\u" in text:
                _check_escapes(section)
        except (MissingField, _InvalidRecord) as error:
            hint = FIELDS_HINT if isinstance(error, MissingField) else SKIP_HINT
            rejections.reject(InvalidInput(source.uri, number, str(error), hint=hint))
        except InvalidInput as error:
            rejections.reject(error)
        else:
            yield section


def _refuse_constant(name: str) -> None:
    raise _InvalidRecord(f"is not JSON: {name} is no value of it; write null")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _parse(line: str) -> dict[str, Any]:
    try:
        record = _DECODER.decode(line)
    except json.JSONDecodeError as error:
        raise _InvalidRecord(f"is not JSON: {error.msg} at character {error.pos + 1}") from error
    except _InvalidRecord:
        raise
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise _InvalidRecord(f"is not JSON that can be read: {error}") from error
    if not isinstance(record, dict):
        raise _InvalidRecord("is not a JSON object")
    return record


def _section(record: dict[str, Any], fields: Fields, number: int) -> Section:
    text = record[fields.text]
    if not isinstance(text, str):
        raise _InvalidRecord(f"field {fields.text!r} is {_type_name(text)}, not text")
    text = without_controls(text)
    if not text or text.isspace():
        raise _InvalidRecord(f"field {fields.text!r} is empty")
    title = _label(record, fields.title) or ""
    record_id = _label(record, fields.record_id)
    return Section(title, text, number, record_id)


def _check_escapes(section: Section) -> None:
    """Refuse half of a surrogate pair: a ``\\ud83d`` alone stands for no character and cannot be stored."""
    try:
        f"{section.title}{section.text}{section.record_id}".encode()
    except UnicodeEncodeError as error:
        raise _InvalidRecord("holds half of a surrogate pair, which is no character") from error


def _label(record: dict[str, Any], name: str | None) -> str | None:
    """Return a title or identifier: a text or a number; null is none."""
    value = None if name is None else record[name]
    if value is None:
        return None
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise _InvalidRecord(f"field {name!r} is {_type_name(value)}, not text")


def _type_name(value: object) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
