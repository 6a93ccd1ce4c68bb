"""Reading what a model replied, however little it kept to the form that was asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_THINKING = re.compile(r"<think>.*?(?:</think>|$)", re.S)
_LISTED = re.compile(r"\**Question\s*\d*\s*:\**\s*(.+?)\s*\n\s*\**Answer\s*\d*\s*:\**\s*(.+)", re.I)
_DECODER = json.JSONDecoder()

WrittenPair = tuple[str, str, str | None]


@dataclass(slots=True)
class Reply:
    """Rewrites, and pairs of question, answer and full answer (if there is one), as they were written."""

    rewrites: list[str] = field(default_factory=list)
    pairs: list[WrittenPair] = field(default_factory=list)


def read_listed(text: str) -> list[WrittenPair]:
    """Return the pairs of a list of ``Question:`` and ``Answer:`` lines."""
    return [(match[1], match[2], None) for match in _LISTED.finditer(text)]


def read_reply(text: str) -> Reply:
    """Return what a reply holds, which should be a JSON object with ``rewrites`` and ``qa``.

    Prose and code fences around it are passed over, what is whole in a truncated object is taken, and where there is
    no JSON at all, ``Question:`` and ``Answer:`` lines are.
    """
    text = _THINKING.sub("", text)
    reply = Reply()
    for value in _values(text):
        _collect(value, reply)
    if not reply.pairs:
        reply.pairs = read_listed(text)
    return reply


def _values(text: str) -> Iterator[Any]:
    """Yield the JSON objects and lists in ``text``; of one that is cut off, those in it that are whole."""
    position = 0
    while match := re.compile(r"[{\[]").search(text, position):
        try:
            value, position = _DECODER.raw_decode(text, match.start())
        except ValueError:
            position = match.end()
        else:
            yield value


def _collect(value: Any, reply: Reply) -> None:
    if isinstance(value, list):
        for part in value:
            _collect(part, reply)
    elif isinstance(value, dict):
        question, answer, full_answer = (_text(value.get(name)) for name in ("question", "answer", "full_answer"))
        if question and answer:
            reply.pairs.append((question, answer, full_answer))
            return
        for name, part in value.items():
            if "rewrite" in name.casefold():
                said = part if isinstance(part, list) else [part]
                reply.rewrites += [one for one in said if isinstance(one, str)]
            else:
                _collect(part, reply)


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
