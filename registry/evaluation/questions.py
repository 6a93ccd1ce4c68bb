"""Question files: questions, their right answers and the documents that hold them, in any known format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from registry.errors import InputError
from registry.evaluation.formats import FORMATS_HINT, Question, format_of
from registry.evaluation.record_files import Record, read_records, told

QUERIES_FILE = "queries.jsonl"


def read_questions(path: Path) -> list[Question]:
    """Read a question file, whose format is told by its first record, not by its name; blank lines are passed over.

    A folder stands for the queries of a BEIR data set in it; those have no answers and are for retrieval alone.

    Raises:
        InputError: the file cannot be read, is of no known format or holds no question, or a record is wrong; the
            message names the file and the line or record.
    """
    with told("question file", path, path_hint="check the path", hint=FORMATS_HINT):
        file = path / QUERIES_FILE if path.is_dir() else path
        questions = list(_questions(read_records(file)))
    if not questions:
        raise InputError(f"question file {file} holds no question", hint=FORMATS_HINT)
    return questions


def _questions(records: Iterator[Record]) -> Iterator[Question]:
    known = None
    number = 0
    for record in records:
        known = known or format_of(record)
        for question in known.questions(record):
            number += 1
            _check_characters(question, record)
            yield question if question.id else replace(question, id=str(number))


def _check_characters(question: Question, record: Record) -> None:
    """Refuse half of a surrogate pair: a ``\\ud83d`` alone stands for no character and cannot be written."""
    texts = (question.question, question.id, question.type, *question.answers, *question.document_ids, *question.titles)
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise record.wrong("holds half of a surrogate pair, which is no character") from error


__all__ = ["QUERIES_FILE", "Question", "read_questions"]
