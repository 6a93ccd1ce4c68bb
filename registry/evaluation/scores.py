"""How right an answer is: the measures of SQuAD (arXiv 1606.05250) and whether the answer is contained."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields

from registry.evaluation.intervals import DEFAULT_LEVEL, DEFAULT_RESAMPLES, Estimate, bootstrap

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ANSWER_END = re.compile(r"[.,\n]")
# Han, Hiragana and Katakana are written without spaces, so every character is a word.
_UNSPACED = re.compile("([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])")


@dataclass(frozen=True, slots=True)
class Scores:
    """One answer against its question's right answers, or the mean of many; every measure is from 0 to 1.

    ``exact_match`` (EM), ``f1``, ``precision`` and ``recall`` judge the answer cut at the first full stop, comma or
    line end; ``contains`` says whether a right answer stands anywhere in the whole text. Each is the best over the
    right answers, by itself.
    """

    exact_match: float
    f1: float
    precision: float
    recall: float
    contains: float


def normalise_answer(text: str) -> str:
    """Return ``text`` as SQuAD compares it: lower case, no punctuation, no a/an/the, single spaces.

    Beyond SQuAD's, punctuation outside ASCII is dropped too, and characters of scripts without spaces stand alone.
    """
    lowered = text.lower()
    bare = "".join(
        character
        for character in lowered
        if character not in string.punctuation and not unicodedata.category(character).startswith("P")
    )
    spaced = _UNSPACED.sub(r" \1 ", _ARTICLES.sub(" ", bare))
    return " ".join(spaced.split())


def cut_answer(text: str) -> str:
    """Return the answer proper: ``text`` up to the first full stop, comma or line end after it begins."""
    return _ANSWER_END.split(text.strip(), maxsplit=1)[0].strip()


def score(text: str, answers: Sequence[str]) -> Scores:
    """Compare a generated ``text`` with the right ``answers``, of which any will do.

    Raises:
        ValueError: there is no right answer.
    """
    if not answers:
        raise ValueError("a question needs at least one right answer")
    given = normalise_answer(cut_answer(text))
    whole = normalise_answer(text)
    each = [_score_one(given, whole, normalise_answer(answer)) for answer in answers]
    return Scores(*(max(getattr(scores, field.name) for scores in each) for field in fields(Scores)))


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """Return the mean of every measure; all 0 for no scores."""
    count = max(1, len(scores))
    return Scores(*(sum(getattr(one, field.name) for one in scores) / count for field in fields(Scores)))


def score_columns(scores: Sequence[Scores]) -> dict[str, list[float]]:
    """Return for every measure its values, one a question."""
    return {field.name: [getattr(one, field.name) for one in scores] for field in fields(Scores)}


def estimates(
    scores: Sequence[Scores], *, seed: int = 0, resamples: int = DEFAULT_RESAMPLES, level: float = DEFAULT_LEVEL
) -> dict[str, Estimate]:
    """Return for every measure its mean and percentile bootstrap interval, see ``intervals.bootstrap``.

    Raises:
        ValueError: there are no scores.
    """
    return bootstrap(score_columns(scores), seed=seed, resamples=resamples, level=level)


def _score_one(given: str, whole: str, right: str) -> Scores:
    contains = float(f" {right} " in f" {whole} ") if right else float(not whole)
    exact_match = float(given == right)
    given_words, right_words = given.split(), right.split()
    if not given_words or not right_words:
        return Scores(exact_match, exact_match, exact_match, exact_match, contains)
    shared = (Counter(given_words) & Counter(right_words)).total()
    precision, recall = shared / len(given_words), shared / len(right_words)
    f1 = 2 * precision * recall / (precision + recall) if shared else 0.0
    return Scores(exact_match, f1, precision, recall, contains)


__all__ = [
    "DEFAULT_LEVEL",
    "DEFAULT_RESAMPLES",
    "Estimate",
    "Scores",
    "cut_answer",
    "estimates",
    "mean_scores",
    "normalise_answer",
    "score",
    "score_columns",
]
