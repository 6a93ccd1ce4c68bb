"""Cut texts into passages of about the same length, at the ends of sentences.

Lengths are counted in words. Scripts written without spaces are counted in characters: 2 of Chinese or Japanese, or
5 of Thai, Lao, Khmer, Burmese or Tibetan, stand for a word. The script decides, not the language, so that a Chinese
quotation in an English text, or a whole Chinese text read as English, is never taken for a single word.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate

import sentencex

from registry.errors import UsageError

# Lengths are integers, so that every machine cuts at the same places: tenths of a word.
_WORD = 10
_IDEOGRAPH = 5
_LETTER = 2
_IDEOGRAPHS = (
    "\u3001-\u30ff\u3100-\u312f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
)
_LETTERS = "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\ua9e0-\ua9ff\uaa60-\uaa7f"
_IDEOGRAPH_PATTERN = re.compile(f"[{_IDEOGRAPHS}]")
_LETTER_PATTERN = re.compile(f"[{_LETTERS}]")
_SPACELESS_PATTERN = re.compile(f"[{_IDEOGRAPHS}{_LETTERS}]")
_TOKEN_PATTERN = re.compile(r"\s*\S+\s*")
_WIDE_SPACE = re.compile(r"[^\S\x00-\x7f]")
_PARAGRAPH_END = re.compile(r"\n[^\S\n]*\n\Z")

_SLACK = 1.25
"""A text of up to this many times the length asked for stays whole, and no passage is longer."""

_LEADING_VOWELS = frozenset("เแโใไເແໂໃໄ")


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a text that is not cut: where it ends, its length in tenths of a word, whether a paragraph ends too."""

    end: int
    length: int
    ends_paragraph: bool


def cut_passages(text: str, words: int, language: str) -> list[str]:
    """Cut ``text`` into passages of about ``words`` words, stripped; a text without words gives none.

    A text of at most 1.25 * ``words`` stays whole. A longer one is cut at ends of sentences (``language`` is an
    ISO 639-1 code) into passages whose lengths differ least from ``words``, ends of paragraphs preferred; none is
    longer than 1.25 * ``words`` unless it is a single word. A sentence longer than ``words`` is cut at line ends or
    white space, or between characters where a script has no spaces. Put together, the passages hold all of the text.

    Raises:
        UsageError: ``words`` is below 1.
    """
    if words < 1:
        raise UsageError(f"passages must have at least 1 word, not {words}")
    # A word and its space take two characters at least; so short a text need not be counted.
    if (len(text) <= 2 * words and text.isascii()) or _length(text) <= _longest(words):
        whole = text.strip()
        return [whole] if whole else []
    return [text[start:end].strip() for start, end in passage_spans(text, words, language)]


def passage_spans(text: str, words: int, language: str) -> list[tuple[int, int]]:
    """Return where the passages of ``text`` start and end, white space between them included; see `cut_passages`."""
    pieces = _pieces(text, words * _WORD, language)
    spans: list[tuple[int, int]] = []
    start = 0
    for last in _partition(pieces, words * _WORD, _longest(words)):
        spans.append((start, pieces[last].end))
        start = pieces[last].end
    return spans


def _longest(words: int) -> int:
    return int(_SLACK * words * _WORD)


def _length(text: str) -> int:
    if text.isascii() or not _SPACELESS_PATTERN.search(text):
        return _WORD * len(text.split())
    spaced, letters = _LETTER_PATTERN.subn(" ", text)
    spaced, ideographs = _IDEOGRAPH_PATTERN.subn(" ", spaced)
    return _WORD * len(spaced.split()) + _LETTER * letters + _IDEOGRAPH * ideographs


def _pieces(text: str, limit: int, language: str) -> list[_Piece]:
    """Return the sentences of ``text``, those longer than ``limit`` in parts; every piece holds a word."""
    pieces: list[_Piece] = []
    end = 0
    for sentence in _sentences(text, language):
        whole = _length(sentence)
        parts = [sentence] if whole <= limit else _break_sentence(sentence, limit)
        for part in parts:
            end += len(part)
            length = whole if len(parts) == 1 else _length(part)
            ends_paragraph = part.endswith("\n") and _PARAGRAPH_END.search(part) is not None
            if pieces and (length == 0 or pieces[-1].length == 0):
                previous = pieces.pop()
                length, ends_paragraph = length + previous.length, ends_paragraph or previous.ends_paragraph
            pieces.append(_Piece(end, length, ends_paragraph))
    return pieces


def _sentences(text: str, language: str) -> list[str]:
    """Return the sentences with the white space after them; one never begins inside a word ("example.org")."""
    sentences: list[str] = []
    end = 0
    # sentencex 1.0 panics at white space of several bytes before a full stop ("plan B\u00a0."), so it sees none.
    for found in sentencex.segment(language, _WIDE_SPACE.sub(" ", text)):
        sentence = text[end : end + len(found)]
        end += len(found)
        if sentences and not _may_part(sentences[-1][-1], sentence[0]):
            sentences[-1] += sentence
        else:
            sentences.append(sentence)
    return sentences


def _may_part(before: str, after: str) -> bool:
    return before.isspace() or after.isspace() or _SPACELESS_PATTERN.search(before + after) is not None


def _break_sentence(sentence: str, limit: int) -> list[str]:
    lines = sentence.splitlines(keepends=True)
    return [part for line in lines for part in (_break_line(line, limit) if _length(line) > limit else [line])]


def _break_line(line: str, limit: int) -> list[str]:
    """Cut a line into the fewest parts of at most about ``limit``, all nearly as long, between words or characters."""
    atoms: list[str] = _TOKEN_PATTERN.findall(line)
    if _SPACELESS_PATTERN.search(line):
        atoms = [part for token in atoms for part in _token_parts(token, limit)]
        ends = list(accumulate(_length(atom) for atom in atoms))
    else:
        ends = [_WORD * number for number in range(1, len(atoms) + 1)]
    parts = -(-ends[-1] // limit)
    cuts = [0]
    for number in range(1, parts):
        target = ends[-1] * number // parts
        cut = bisect_left(ends, target) + 1
        if cut > 1 and target - ends[cut - 2] < ends[cut - 1] - target:
            cut -= 1
        if cuts[-1] < cut < len(atoms):
            cuts.append(cut)
    return ["".join(atoms[start:end]) for start, end in zip(cuts, [*cuts[1:], len(atoms)], strict=True)]


def _token_parts(token: str, limit: int) -> list[str]:
    """Return the parts of a text between spaces; marks, closing punctuation and foreign words stay together."""
    if _length(token) <= limit // 5 or not _SPACELESS_PATTERN.search(token):
        return [token]
    starts = [0] + [at for at in range(1, len(token)) if not _holds_together(token[at - 1], token[at])]
    return [token[start:end] for start, end in zip(starts, [*starts[1:], len(token)], strict=True)]


def _holds_together(before: str, after: str) -> bool:
    if before in _LEADING_VOWELS or after.isspace():
        return True
    if unicodedata.category(after) in {"Mn", "Mc", "Me", "Pe", "Pf", "Po", "Cf", "Lm"}:
        return True
    if unicodedata.category(before) in {"Ps", "Pi", "Cf"}:
        return True
    return _SPACELESS_PATTERN.search(before + after) is None


def _partition(pieces: list[_Piece], limit: int, longest: int) -> list[int]:
    """Return the last piece of every passage, so that the sum of squared differences from ``limit`` is least.

    A passage that ends inside a paragraph costs as much as one that is a quarter too short.
    """
    inside_paragraph = (limit // 4) ** 2
    costs = [0] + [-1] * len(pieces)
    starts = [0] * (len(pieces) + 1)
    for end in range(1, len(pieces) + 1):
        penalty = 0 if pieces[end - 1].ends_paragraph or end == len(pieces) else inside_paragraph
        length = 0
        for start in range(end - 1, -1, -1):
            length += pieces[start].length
            if length > longest and start < end - 1:
                break
            cost = costs[start] + (length - limit) ** 2 + penalty
            if costs[end] < 0 or cost < costs[end]:
                costs[end], starts[end] = cost, start
    lasts: list[int] = []
    end = len(pieces)
    while end > 0:
        lasts.append(end - 1)
        end = starts[end]
    return lasts[::-1]
