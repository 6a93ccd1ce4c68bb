"""How text becomes terms, by the language of the corpus.

Every language: compatibility forms are unified (NFKC), words are runs of letters and digits, in lower case. English
also drops the possessive 's, folds accents, drops Lucene's 33 stop words and stems; other languages are stemmed where
tantivy has a stemmer. Text in scripts without spaces between words (Chinese, Japanese, Thai and their like; Korean is
treated the same), in a corpus of any language, is cut into overlapping pairs of characters.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from tantivy import Filter, TextAnalyzer, TextAnalyzerBuilder, Tokenizer

ANALYSER_VERSION = 1
"""Raised whenever the same text would give other terms; an index of another version has to be built anew."""

LONGEST_TERM_BYTES = 100
"""Longer runs of letters (base64, long addresses) are not indexed."""

STOP_WORDS = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they this "
    "to was will with"
)

# Leaving these out of questions found the passage first for 471 of 496 SQuAD questions instead of 465. They stay in
# documents, where they may be names.
_ASKING = re.compile(r"\b(?:what|which|who|whom|whose|when|where|why|how|do|does|did|has|have|had)\b", re.IGNORECASE)

_STEMMERS = {
    "ar": "arabic",
    "da": "danish",
    "de": "german",
    "el": "greek",
    "en": "english",
    "es": "spanish",
    "fi": "finnish",
    "fr": "french",
    "hu": "hungarian",
    "it": "italian",
    "nb": "norwegian",
    "nl": "dutch",
    "nn": "norwegian",
    "no": "norwegian",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "sv": "swedish",
    "ta": "tamil",
    "tr": "turkish",
}
# Where words are often typed without their accents. German umlauts are folded by its stemmer.
_FOLDED = {"es", "fr", "it", "nl", "pt"}
# Tantivy's own tokenizer is three times as fast as a pattern, but cuts at vowel signs and other combining marks.
_CUT_AT_MARKS = _STEMMERS.keys() - {"ar", "ta"}
_WORD = r"[\p{Alphabetic}\p{M}\p{N}]+"

_POSSESSIVE = re.compile(r"['’][sS]\b")
_SURROGATE = re.compile("[\ud800-\udfff]")
_WITHOUT_SPACES = re.compile(
    "["
    "\u0e01-\u0e3a\u0e40-\u0e4e"  # Thai
    "\u0e81-\u0ece"  # Lao
    "\u1000-\u109f"  # Burmese
    "\u1100-\u11ff\uac00-\ud7a3"  # Hangul
    "\u1780-\u17d3"  # Khmer
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\u3041-\u3096\u3099-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"  # Hiragana, Katakana
    "\u3105-\u312f\u31a0-\u31bf"  # Bopomofo
    "]+"
)


@dataclass(frozen=True, slots=True)
class Analyser:
    """The analysis of one language; get one from ``analyser_of``.

    ``tantivy`` is what the index runs over prepared text: it tokenizes, filters and stems.
    """

    language: str
    tantivy: TextAnalyzer

    def prepare(self, text: str) -> str:
        """Return a document's text as it is put into the index: text without spaces as pairs and single characters."""
        text = self._unify(text)
        return text if text.isascii() else _WITHOUT_SPACES.sub(_pairs_and_characters, text)

    def question_terms(self, question: str) -> list[str]:
        """Return the distinct terms of any text, in order: pairs, or a character that stands alone.

        Words that only make an English question a question are left out, unless there are no others.
        """
        text = _WITHOUT_SPACES.sub(_pairs, self._unify(question))
        terms = self.tantivy.analyze(_ASKING.sub(" ", text)) if self.language == "en" else []
        return list(dict.fromkeys(terms or self.tantivy.analyze(text)))

    def _unify(self, text: str) -> str:
        if not text.isascii():
            # Half of a surrogate pair is no text: it comes from arguments that are not UTF-8.
            text = unicodedata.normalize("NFKC", _SURROGATE.sub(" ", text))
        return _POSSESSIVE.sub("", text) if self.language == "en" else text


@lru_cache
def analyser_of(language: str) -> Analyser:
    """Return the analyser for a language code (``en``, ``pt-BR``); an unknown one gets what every language gets."""
    code = language.strip().lower().replace("_", "-").split("-")[0]
    builder = TextAnalyzerBuilder(Tokenizer.simple() if code in _CUT_AT_MARKS else Tokenizer.regex(_WORD))
    filters = [Filter.remove_long(LONGEST_TERM_BYTES), Filter.lowercase()]
    if code == "en":
        filters += [Filter.ascii_fold(), Filter.custom_stopword(STOP_WORDS.split())]
    if code in _STEMMERS:
        filters.append(Filter.stemmer(_STEMMERS[code]))
    if code in _FOLDED:  # after stemming: endings are known by their accents
        filters.append(Filter.ascii_fold())
    for each in filters:
        builder = builder.filter(each)
    return Analyser(language=code, tantivy=builder.build())


def _pairs(run: re.Match[str]) -> str:
    text = run.group()
    pairs = [text[at : at + 2] for at in range(len(text) - 1)]
    return f" {' '.join(pairs or [text])} "


def _pairs_and_characters(run: re.Match[str]) -> str:
    # A question of one character must find the character inside words too.
    text = run.group()
    return f"{_pairs(run)}{' '.join(text)} " if len(text) > 1 else f" {text} "
