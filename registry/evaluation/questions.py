"""Question files: JSON Lines of a question, its right answers and the documents that hold them."""

from __future__ import annotations

import codecs
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.errors import InputError

LAYOUT_HINT = 'a line looks like {"question": "...", "answers": ["..."], "document_ids": ["..."]}'


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the ``answers`` of which any is right, and the record identifiers of its gold documents."""

    question: str
    answers: tuple[str, ...]
    document_ids: tuple[str, ...] = ()


def read_questions(path: Path) -> list[Question]:
    """Read a question file; blank lines are passed over, ``document_ids`` may be missing.

    Raises:
        InputError: the file cannot be read, holds no question, or a line is wrong; the message names file and line.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"question file {path} cannot be read: {error.strerror or error}") from error
    lines = raw.removeprefix(codecs.BOM_UTF8).split(b"\n")
    questions = [_parse(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not questions:
        raise InputError(f"question file {path} holds no question", hint=LAYOUT_HINT)
    return questions


def _parse(line: bytes, place: str) -> Question:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: not UTF-8 at byte {error.start}") from error
    except ValueError as error:
        raise InputError(f"{place}: not JSON: {error}", hint=LAYOUT_HINT) from error
    if not isinstance(record, dict):
        raise InputError(f"{place}: not a JSON object", hint=LAYOUT_HINT)
    question = record.get("question")
    if not isinstance(question, str) or not question.strip():
        raise InputError(f"{place}: 'question' is missing or empty", hint=LAYOUT_HINT)
    answers = _texts(record, "answers", place)
    if not answers:
        raise InputError(f"{place}: 'answers' is missing or empty", hint=LAYOUT_HINT)
    return Question(question=question.strip(), answers=answers, document_ids=_texts(record, "document_ids", place))


def _texts(record: dict[str, Any], name: str, place: str) -> tuple[str, ...]:
    values = record.get(name, [])
    if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
        raise InputError(f"{place}: {name!r} is not a list of texts", hint=LAYOUT_HINT)
    return tuple(values)
