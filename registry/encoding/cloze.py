"""Questions made of a passage's own sentences: a name or a number is taken out, and asked for.

No model is asked, so they are right by construction, and they cover every sentence, which generated pairs do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from registry.records import QAPair

MOST_WORDS = 40
"""A longer sentence is passed over: little of it has to do with what is asked for."""
LEAST_WORDS = 5

_SENTENCE = re.compile(r"[^.!?]+(?:[.!?](?!\s+[A-Z\"“]|\s*$)[^.!?]*)*")
_NAME = re.compile(r"(?<!^)(?<![.!?\"“] )\b[A-Z][\w'’-]*(?:(?: of| the| and| de| von| la)*[ -][A-Z][\w'’-]*)*")
_NUMBER = re.compile(r"(?:[$€£]\s?)?\d(?:[\d,.]*\d)?%?(?:\s(?:percent|per cent|million|billion|thousand|hundred)\b)?")
_YEAR = re.compile(r"1\d{3}|20\d{2}")


def cloze_pairs(text: str) -> list[QAPair]:
    """Return a pair for every name and number of the sentences of ``text``, in order, each question once.

    The sentence is the full answer.
    """
    found: dict[str, QAPair] = {}
    for sentence in _sentences(text):
        for start, stop in _spans(sentence):
            answer = sentence[start:stop]
            asked = "when" if _YEAR.fullmatch(answer) else "how many" if answer[0].isdigit() else "what"
            question = f"{sentence[:start]}{asked}{sentence[stop:]}".strip()
            found.setdefault(question, QAPair(f"{question}?", answer, f"{sentence}."))
    return list(found.values())


def _sentences(text: str) -> Iterator[str]:
    for match in _SENTENCE.finditer(text):
        sentence = " ".join(match[0].split())
        if LEAST_WORDS <= len(sentence.split()) <= MOST_WORDS:
            yield sentence


def _spans(sentence: str) -> Iterator[tuple[int, int]]:
    taken: list[tuple[int, int]] = []
    for pattern in (_NAME, _NUMBER):
        for match in pattern.finditer(sentence):
            start, stop = match.span()
            if stop - start > 1 and all(stop <= begin or end <= start for begin, end in taken):
                taken.append((start, stop))
    return iter(sorted(taken))
