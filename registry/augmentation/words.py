"""What a text says, as far as words can show it: its content words, its numbers and its names.

Made for the grounding check, which compares generated text with a passage: forms of one word must meet
("discovered", "discovery"), and so must numbers however they are written ("20,000", "20000"; "eleven", "11").
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

_LETTERS = re.compile(r"[a-z]+")
STOP_WORDS = frozenset(
    _LETTERS.findall(
        """
        a about above after again all also am an and any are as at be because been before being below between both but
        by can could did do does doing down during each either else for from further had has have having he her here
        hers herself him himself his how however i if in into is it its itself just may me might more most much must my
        myself no nor not now of off on once only or other our ours out over own per rather same shall she should since
        so some such than that the their theirs them themselves then there these they this those though through thus to
        too under until up upon us very was we were what when where whether which while who whom whose why will with
        within without would yes yet you your yours"""
    )
)
"""Words that every English text has; in other languages every word counts."""

_TOKEN = re.compile(r"\d+(?:[.,]\d+)*(?:st|nd|rd|th|s)?\b|\d+(?:[.,]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)*")
_SPACELESS = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"
)
_SUFFIXES = tuple(
    _LETTERS.findall("ations ation ments ment ings ing ness edly ions ion ers ies ed er es ly or al ic s e y")
)
_SHORTEST_STEM = 3
_SHORTEST_BEGINNING = 5
_BEGINNING_SHARE = 0.6

_UNITS = _LETTERS.findall(
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen"""
)
_TENS = _LETTERS.findall("twenty thirty forty fifty sixty seventy eighty ninety")
_ORDINALS = _LETTERS.findall("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth")
NUMBER_WORDS: dict[str, str] = {word: str(number) for number, word in enumerate(_UNITS)}
NUMBER_WORDS |= {word: str(number * 10) for number, word in enumerate(_TENS, 2)}
NUMBER_WORDS |= {word: str(number) for number, word in enumerate(_ORDINALS, 1)}
"""English number words and their digits."""


def tokens(text: str) -> Iterator[str]:
    """Yield words (case kept) and numbers in order; scripts without spaces are split into pairs of characters."""
    for match in _TOKEN.finditer(unicodedata.normalize("NFKC", text)):
        token = match.group()
        if _SPACELESS.search(token) and len(token) > 2:
            yield from (token[start : start + 2] for start in range(len(token) - 1))
        else:
            yield token


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """Return ``word`` in lower case without possessive and with at most one common English ending taken off.

    Numbers and number words become plain digits.
    """
    if word[0].isdigit():
        return _plain_number(word)
    word = word.casefold().replace("’", "'").removesuffix("'s").replace("'", "")
    if word in NUMBER_WORDS:
        return NUMBER_WORDS[word]
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= _SHORTEST_STEM:
            return word.removesuffix(suffix)
    return word


def content_words(text: str) -> list[str]:
    """Return the stems of all words and numbers of ``text`` that carry meaning, in order."""
    return [stem(token) for token in tokens(text) if _carries_meaning(token)]


def _carries_meaning(token: str) -> bool:
    if len(token) == 1:
        return not token.isascii() or token.isdigit() or (token.isupper() and token not in "AI")
    return token.casefold().replace("’", "'").removesuffix("'s") not in STOP_WORDS


def numbers(text: str) -> set[str]:
    """Return the numbers written in digits in ``text``, without separators of thousands: ``20,000`` is ``20000``."""
    return {_plain_number(token) for token in tokens(text) if token[0].isdigit()}


def _plain_number(token: str) -> str:
    token = token.rstrip("stndrh")
    whole = re.sub(r"[.,](?=\d{3}(?:\D|$))", "", token)
    return whole.replace(",", ".").lstrip("0") or "0"


def names(text: str) -> list[str]:
    """Return the stems of capitalised words that do not begin a sentence: most are names."""
    found: list[str] = []
    for sentence in re.split(r"(?<=[.!?])\s+", text):
        words = list(tokens(sentence.lstrip(" \"'“‘(")))
        found += [stem(word) for word in words[1:] if word[0].isupper() and _carries_meaning(word)]
    return found


@dataclass(frozen=True)
class Vocabulary:
    """The words and numbers of some text, ready to be asked whether they hold another text's."""

    stems: frozenset[str]
    beginnings: frozenset[str]

    @classmethod
    def of(cls, *texts: str) -> Vocabulary:
        """Collect the stems of all words of ``texts``, and how the longer words begin."""
        words = {token for text in texts for token in tokens(text)}
        folded = {word.casefold() for word in words if len(word) >= _SHORTEST_BEGINNING}
        beginnings = {word[:length] for word in folded for length in range(_SHORTEST_BEGINNING, len(word) + 1)}
        return cls(stems=frozenset(map(stem, words)), beginnings=frozenset(beginnings))

    def holds(self, word: str) -> bool:
        """Whether the stem ``word`` occurs, itself or in another form (a long common beginning)."""
        if word in self.stems:
            return True
        shortest = max(_SHORTEST_BEGINNING, round(len(word) * _BEGINNING_SHARE))
        return not word[0].isdigit() and len(word) >= shortest and word[:shortest] in self.beginnings

    def missing(self, words: Iterable[str]) -> list[str]:
        """Return those of ``words`` (stems) that do not occur."""
        return [word for word in words if not self.holds(word)]
