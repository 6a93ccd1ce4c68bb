"""Short answers out of full ones: what a sentence says beyond its question.

Generators answer in whole sentences that repeat the question ("The Wren Society was founded in 1811."), while people,
and the measures of question answering, want "1811". No model is asked: the longest stretch of the answer without a
word of the question is what is new in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

MOST_WORDS = 12
"""A longer stretch is no short answer."""
FEW_WORDS = 4
"""An answer of so few words is short as it is."""

_SENTENCE_END = re.compile(r"(?<=[^\W_A-Z]|[)\]\"”])[.!?](?=\s+[A-Z\"“]|\s*$)|\n")
_AROUND = "\"'.,;:!?()[]‘’“”"
_ENDINGS = ("ing", "ies", "ied", "ed", "es", "ly", "s", "e", "y")
_ENGLISH = """
a an the this these that which it its they he she his her their there
is are was were be been did does do has have had known called name named given
of in on at by to for with from into as and or because due
"""
_FUNCTION_WORDS = frozenset(_ENGLISH.split())
_LEADING = _FUNCTION_WORDS | {"include", "includes", "included", "including", "since", "when"}
"""English words that a stretch does not begin with; in other languages it keeps what it begins with."""


def short_answer(question: str, answer: str) -> str | None:
    """Return the short answer that ``answer`` holds to ``question``, or None where there is none to be seen."""
    words = _first_sentence(answer).split()
    if len(words) <= FEW_WORDS:
        return " ".join(words).strip(" .") or None
    asked = {_stem(word) for word in question.split()} - _FUNCTION_WORDS
    stretches = [stretch for stretch in map(_trim, _stretches(words, asked)) if stretch]
    if not stretches:
        return None
    # The longest says most; of equals the last, because sentences tell what is new at their end.
    best = max(reversed(stretches), key=lambda stretch: sum(_stem(word) not in _FUNCTION_WORDS for word in stretch))
    return " ".join(best).strip(" ,;:.") if len(best) <= MOST_WORDS else None


def _first_sentence(text: str) -> str:
    return _SENTENCE_END.split(text.strip(), maxsplit=1)[0].strip()


def _stretches(words: Sequence[str], asked: set[str]) -> Iterator[list[str]]:
    """Yield what lies between the words that the question has too."""
    stretch: list[str] = []
    for word in words:
        if _stem(word) in asked:
            yield stretch
            stretch = []
        else:
            stretch.append(word)
    yield stretch


def _trim(stretch: list[str]) -> list[str]:
    """Take function words off both ends."""
    start, stop = 0, len(stretch)
    while start < stop and _stem(stretch[start]) in _LEADING | {""}:
        start += 1
    while start < stop and _stem(stretch[stop - 1]) in _FUNCTION_WORDS | {""}:
        stop -= 1
    return stretch[start:stop]


def _stem(word: str) -> str:
    bare = re.sub(r"['’]s$", "", word.lower().strip(_AROUND))
    ending = next((end for end in _ENDINGS if len(bare) > len(end) + 2 and bare.endswith(end)), "")
    return bare[: len(bare) - len(ending)]
