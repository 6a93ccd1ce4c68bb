"""Read tables: comma- or tab-separated values with a header."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import BinaryIO

from registry.documents.fields import FIELDS_HINT, MissingField, find_fields
from registry.documents.invalid import InvalidInput, Rejections
from registry.documents.opening import not_utf8, numbered_lines
from registry.documents.options import ReadOptions
from registry.documents.sections import Section, one_line, without_controls
from registry.documents.source_file import SourceFile

FIELD_LIMIT = 1 << 28
"""Characters of a field; csv's own limit is 131,072. Without any, one open quote would take a whole file."""

_LINE_END_HINT = "turn its line ends into those of Unix, such as with: tr '\\r' '\\n' < FILE"
_QUOTE_HINT = 'write a field that holds quotes as "..." with every quote in it doubled, or use JSON Lines'


def read_table(stream: BinaryIO, source: SourceFile, options: ReadOptions, rejections: Rejections) -> Iterator[Section]:
    """Yield the rows of a CSV or TSV file whose first line names the columns; blank lines are passed over.

    Fields may be quoted, quotes in them doubled, and quoted fields may hold line ends. A row's line is the one on
    which it starts.

    Raises:
        InvalidInput: reading failed, the header lacks a column, or a row cannot be used and is not to be skipped.
    """
    rows = _rows(stream, source, rejections)
    line, header = next(rows, (1, []))
    header = [name.strip() for name in header]
    try:
        fields = find_fields(options, header)
    except MissingField as error:
        raise InvalidInput(source.uri, line, f"the header {error}", hint=FIELDS_HINT) from error
    text_column = header.index(fields.text)
    title_column = None if fields.title is None else header.index(fields.title)
    id_column = None if fields.record_id is None else header.index(fields.record_id)
    for line, row in rows:
        if len(row) != len(header):
            reason = f"has {len(row)} columns, the header has {len(header)}"
        elif not (text := without_controls(row[text_column])).strip():
            reason = f"column {fields.text!r} is empty"
        else:
            title = "" if title_column is None else one_line(row[title_column])
            record_id = None if id_column is None else one_line(row[id_column]) or None
            yield Section(title, text, line, record_id)
            continue
        rejections.reject(InvalidInput(source.uri, line, reason))


def _rows(stream: BinaryIO, source: SourceFile, rejections: Rejections) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that can be read, each with the number of the line on which it starts."""
    csv.field_size_limit(FIELD_LIMIT)
    # Bytes that are not UTF-8 pass as lone surrogates and are refused by row: an error inside csv's reader ends it.
    lines = (line.decode(errors="surrogateescape") for _, line in numbered_lines(stream, source))
    reader = csv.reader(lines, delimiter="\t" if source.format == "tsv" else ",", strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
            for field in row:
                _check(field)
        except StopIteration:
            return
        except csv.Error as error:
            rejections.reject(_not_a_row(source, line, error))
        except UnicodeEncodeError as error:
            rejections.reject(not_utf8(source, line, error))
        else:
            if row:
                yield line, row


def _not_a_row(source: SourceFile, line: int, error: csv.Error) -> InvalidInput:
    if "new-line character" in str(error):  # csv's own words speak to programmers
        reason = "is not a row of a table: a carriage return stands alone, outside of quotes"
        return InvalidInput(source.uri, line, reason, hint=_LINE_END_HINT)
    return InvalidInput(source.uri, line, f"is not a row of a table: {error}", hint=_QUOTE_HINT)


def _check(field: str) -> None:
    field.encode()
    if "\0" in field:
        raise csv.Error("it holds a NUL byte")
