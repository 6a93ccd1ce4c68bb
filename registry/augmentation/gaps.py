"""Finding answers in an English sentence by their form, and the question words that would stand in their place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from registry.augmentation.words import NUMBER_WORDS, STOP_WORDS


@dataclass(frozen=True, slots=True)
class Gap:
    """Where an answer stands: the sentence from ``start`` to ``end`` is replaced by ``asks``.

    ``opening`` is how a question for it begins; ``is_firm`` tells names, numbers and dates from mere noun phrases.
    """

    start: int
    end: int
    answer: str
    asks: str
    opening: str
    is_firm: bool = True


_MONTH = "January|February|March|April|May|June|July|August|September|October|November|December"
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
_YEAR = r"(?:1[0-9]|20)\d\d\b"
_CARDINALS = [word for word in NUMBER_WORDS if word != "one" and not word.endswith(("first", "second", "third", "th"))]
_TENS = "|".join(word for word in _CARDINALS if word.endswith("ty"))
# "twenty-three" is one number, and its "three" alone is none.
_NUMBER = rf"(?!{_YEAR})\d[\d,]*(?:\.\d+)?|(?:{_TENS})-(?:one|{'|'.join(_CARDINALS)})|" + "|".join(_CARDINALS)
_CAPITAL = r"(?:[A-Z]\.(?= [A-Z])|[A-Z][^\W\d_]*(?:(?:[-.&]|['’](?!s\b))[^\W\d_]+)*)"
NAME = rf"{_CAPITAL}(?:(?: (?:of|of the|de|la|van|von|al|the))? (?:{_CAPITAL}|[IVX]+\b))*"
WORD = r"[a-z][a-z'’-]*"
_SMALL = r"(?:and|or|by|to|in|on|at|of|with|from|for|the|a|an|it|he|she|they|when|where|which|who|but|as|was|were|is)\b"
_KINDS = {
    "span": r"\b(?:between|from) \d{4} (?:and|to|until) \d{4}\b",
    "date": rf"\b(?:early |late |mid-)?(?:{_DAY} (?:of )?(?:{_MONTH})|(?:{_MONTH})(?: {_DAY}\b)?)(?:,? \d{{4}})?\b",
    "money": r"[$€£] ?\d(?:[\d,.]*\d)?(?: (?:million|billion|thousand))?",
    "percent": r"\d(?:[\d,.]*\d)? ?(?:%|percent\b|per cent\b)",
    "year": rf"\b{_YEAR}(?! (?!{_SMALL}){WORD}|[.,]\d)",
    "count": rf"(?<![\w-])(?:{_NUMBER}) (?P<unit>(?:million |billion |thousand )?{WORD}(?: {WORD})?)",
    "name": rf"\b{NAME}",
    "phrase": rf"\b(?:(?:a|an|the|his|her|its|their)|(?P<lead>from|with|into|in|by|on|as|of)) "
    rf"(?P<noun>{WORD}(?: {WORD}){{0,3}})",
}
_ANSWERS = re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in _KINDS.items()))

_ROUGHLY = re.compile(r"\b(?:about|around|nearly|almost|over|approximately|roughly|only|some|more than|up to)\s$", re.I)
_OF = re.compile(rf" of (?:the )?(?:{NAME}|(?!{_SMALL}){WORD}(?: (?!{_SMALL}){WORD})?(?=[.,;]|$))")
_WHERE = {"in": "where", "at": "where", "near": "near where"}
_TIME_LEADS = frozenset(("in", "on", "at", "since", "until", "by", "from", "after", "before", "to", "of"))
_PERSONAL = frozenset(("by", "to", "with", "under", "against"))
_FRONTED = _PERSONAL | frozenset(("from", "for", "on", "in", "at", "into", "around", "since", "until"))
PREPOSITIONS = _FRONTED | frozenset(("near", "of", "across", "through", "over", "as", "between", "after", "before"))
_PLACES = frozenset(("town", "city", "village", "island", "river", "region", "country", "province", "county", "port"))
_OWNED = re.compile(r"['’]s?\b|['’] |-| &")
_LANGUAGE_LIKE = ("ish", "ese", "ic", "ian", "man", "nch")
_NO_OBJECT = frozenset(("and", "but", "or", "that", "when", "where", "while", "because", "if", "than", "so", "between"))
_NO_NOUN = re.compile(r"(?:ed|ing|ly|early|late|same|first|last|other|own|made)$")
_NOT_PERSONS = re.compile(
    r"\b(?:the|of|street|avenue|road|square|park|river|ocean|sea|bay|mount|mountains?|valley|desert|port|cape|lake"
    r"|islands?|north|south|east|west|new|great|county|state|states|city|university|school|college|academy|church"
    r"|cathedral|museum|library|hospital|theatre|tower|palace|castle|house|hall|bridge|station|gardens?|company|league"
    r"|union|party|court|congress|parliament|council|committee|society|association|award|prize|medal|cup|bowl|act|law"
    r"|theory|charter|war|battle|peace|treaty|rebellion|empire|kingdom|dynasty|republic|program|project|network)\b",
    re.I,
)


def find_gaps(sentence: str) -> Iterator[Gap]:
    """Yield the answers in ``sentence`` in order."""
    position = 0
    while match := _ANSWERS.search(sentence, position):
        position = match.end()
        if match["phrase"]:  # its later words may begin another answer
            position = match.start("noun") + len(match["noun"].split()[0])
        gap = None if _OWNED.match(sentence, match.end()) else _gap(sentence, match)
        if gap:
            yield _with_quotes(sentence, gap)


def is_person(name: str) -> bool:
    """Whether a name may be a person's: of more than one word, and none that tells a place, body or event."""
    return " " in name and not _NOT_PERSONS.search(name)


def last_word(text: str) -> str:
    """Return the last word of ``text`` in lower case, "" if there is none."""
    return text.split()[-1].casefold() if text.split() else ""


def _gap(sentence: str, match: re.Match[str]) -> Gap | None:
    start, end = match.span()
    if match["span"]:
        return Gap(start, end, match.group(), "when", "when")
    if match["date"] or match["year"]:
        return _time_gap(sentence, match)
    if match["money"] or match["percent"]:
        asks = "how much" if match["money"] else "what percentage"
        return Gap(start, end, match.group(), asks, asks)
    if match["count"]:
        return _count_gap(sentence, match)
    return _name_gap(sentence, match) if match["name"] else _phrase_gap(sentence, match)


def _time_gap(sentence: str, match: re.Match[str]) -> Gap | None:
    before = sentence[: match.start()]
    lead = last_word(before)
    if lead in ("in", "on", "at"):
        return Gap(before.rstrip().rfind(" ") + 1, match.end(), match.group(), "when", "when")
    if lead not in _TIME_LEADS:
        return None
    return Gap(match.start(), match.end(), match.group(), *_led(lead, "which year" if match["year"] else "what date"))


def _led(lead: str, asks: str) -> tuple[str, str]:
    """Return what replaces an answer after ``lead``, and how the question begins."""
    return asks, f"{lead} {asks}" if lead in _FRONTED else asks


def _count_gap(sentence: str, match: re.Match[str]) -> Gap | None:
    unit = match["unit"].split()
    while unit and (unit[-1] in STOP_WORDS or (len(unit) > 1 and not unit[-1].endswith("s"))):
        unit.pop()
    if not unit or unit[0] in STOP_WORDS:
        return None
    said = " ".join(unit)
    end = match.start("unit") + len(said)
    start = match.start()
    while rough := _ROUGHLY.search(sentence[:start]):
        start = rough.start()
    return Gap(start, end, sentence[match.start() : end], f"how many {said}", f"how many {said}")


def _name_gap(sentence: str, match: re.Match[str]) -> Gap | None:
    name, end = match.group(), match.end()
    first = name.split()[0]
    if first.casefold() in STOP_WORDS - {"the"} or first in _MONTH.split("|"):
        return None
    before = re.sub(r"\b[Tt]he $", "", sentence[: match.start()])
    personal = is_person(name) and len(before) == match.start()
    if not before:
        name = name.removeprefix("The ")
        return Gap(0, end, name, "who" if personal else "what", "") if " " in name else None
    goes_on = re.match(rf" (?!{_SMALL}){WORD}", sentence[end:])  # "the Gaelic language": a part of something
    noun = re.search(rf"\b(?:the|a|an|his|her|its|their) ((?:{WORD} ){{0,2}}{WORD}) $", before)
    place = re.search(rf"\b(?:the )?({WORD}) of $", before)
    told = noun if noun and not goes_on and _is_noun(noun[1]) else place if place and place[1] in _PLACES else None
    if told:
        return Gap(told.start(), end, name, *_led(last_word(before[: told.start()]), f"which {told[1]}"))
    if goes_on:
        return None
    lead = last_word(before)
    if lead in _WHERE and not name.endswith(_LANGUAGE_LIKE):
        return Gap(before.rstrip().rfind(" ") + 1, end, name, _WHERE[lead], _WHERE[lead])
    return Gap(len(before), end, name, *_led(lead, "whom" if personal and lead in _PERSONAL else "what"))


def _phrase_gap(sentence: str, match: re.Match[str]) -> Gap | None:
    words: list[str] = []
    for word in match["noun"].split():
        if word in STOP_WORDS | PREPOSITIONS or (words and word.endswith(("ed", "ing", "ly"))):
            break
        words.append(word)
    answer = " ".join(words[:3])
    end = match.start("noun") + len(answer)
    belongs = _OF.match(sentence, end)
    if belongs:
        answer, end = sentence[match.start("noun") : belongs.end()], belongs.end()
    start = match.start("noun") if match["lead"] else match.start()
    lead = last_word(sentence[:start])
    if len(answer) < 4 or answer in NUMBER_WORDS or not lead.isalpha() or lead in _NO_OBJECT:
        return None
    if _NO_NOUN.search(answer) or re.match(r" (?:of\b|[A-Z\d$€£])", sentence[end:]):
        return None
    return Gap(start, end, answer, *_led(lead, "what"), is_firm=False)


def _is_noun(words: str) -> bool:
    return not (STOP_WORDS | PREPOSITIONS) & set(words.split()) and not words.endswith(("'s", "’s"))


def _with_quotes(sentence: str, gap: Gap) -> Gap:
    """Take quotation marks around the answer into the gap."""
    if sentence[gap.end : gap.end + 1] in ('"', "”") and sentence[gap.start - 1 : gap.start] in ('"', "“"):
        return Gap(gap.start - 1, gap.end + 1, gap.answer, gap.asks, gap.opening, gap.is_firm)
    return gap
