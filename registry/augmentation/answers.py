"""Finding what a passage can be asked: short answers in its sentences, each with its sentence turned into a question.

A small model asks poor questions about a passage, but it can turn a question whose words are there already. So the
answer comes first: a name, number, date or noun phrase is looked up in a sentence by its form and replaced by question
words ("The Duke lost how many men?"), and the model only has to turn that ("How many men did the Duke lose?"). Where
the verb has an auxiliary, turning needs no model ("By which ferryman were the rebels led?"). The grammar is English;
for texts in other languages nothing is found here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

from registry.augmentation.gaps import NAME, PREPOSITIONS, WORD, Gap, find_gaps, is_person, last_word
from registry.augmentation.words import STOP_WORDS, Vocabulary, content_words, tokens
from registry.records import Document

MIN_ENGLISH = 0.25
MAX_BEFORE_WORDS = 22
MAX_AFTER_WORDS = 14
MIN_CONTENT_WORDS = 3
MAX_LOST = 0.25
MAX_ADDED = 0.15


@dataclass(frozen=True, slots=True)
class Candidate:
    """An answer in a ``sentence``, and what asks for it.

    ``plain_question`` has the order of the sentence. ``question`` is as people ask; where it is None, it would begin
    with ``opening``, and a model has to turn the plain one.
    """

    answer: str
    plain_question: str
    question: str | None
    opening: str
    sentence: str


_ASIDE = re.compile(r"\s*[(\[].*?[)\]]")
_LINKING = re.compile(
    r"^(?:however|moreover|furthermore|additionally|in addition|therefore|consequently|thus|also|for example"
    r"|for instance|similarly|instead|today|meanwhile|in fact|as a result),?\s+",
    re.I,
)
_UNRESOLVED = re.compile(
    r"^(?:In \d{4},? )?(?:they|their|this|these|those|that|such|there|it|its|he|his|she|her|and|but|so)\b", re.I
)
_PRONOUN = re.compile(r"^(?P<when>In \d{4},? )?(?P<word>it|he|she|its|his|her)\s(?=[a-z])", re.I)
_CLAUSE = re.compile(r"(?:;|, (?:and|but)) (?=(?:the|a|an|its|his|her|in|on|at|by|after|since) (?!it|he|she)|[A-Z])")
_RELATIVE = re.compile(rf"(?P<head>{NAME}|\b(?:the|a|an) (?:{WORD} ){{0,2}}{WORD}),? (?:who|which) (?=[a-z])")
_BOUNDARY = re.compile(
    r"[,;:()–—]|\s-\s|\band\b(?! \d)"
    r"|\b(?:but|which|who|whose|that|because|when|where|while|although|so|as|if|until|after|before)\b"
)
_APPOSED = re.compile(r"(?:The|Its|His|Her) (?:[\w'’-]+ ){0,5}[\w'’-]+,")
_UNFINISHED = re.compile(
    r"(?:(?:if|when|while|although|because|since|after|before|despite|during)\b[^,]*"
    r"|(?:under|on|in|at|to|with|for|by)\b(?: [^\s,]+){0,4})",
    re.I,
)
_BE = "is|are|was|were|can|could|may|might|must|will|would|should"
_AUXILIARY = re.compile(
    r"(?P<when>In \d{4},? )?(?P<subject>(?:[^\s,]+ ){0,7}?[^\s,]+) "
    rf"(?P<verb>(?:{_BE})\b|(?:has|have|had)(?= (?:\w+ed|\w+en|been|made|found|led|won|sold|held|built|kept)\b))"
    r" ?(?P<rest>.*)"
)
_VERB = re.compile(
    rf"\b(?:{_BE}|has|have|had|does|do|\w+ed|\w{{3,}}s|went|gave|took|made|held|led|won|wrote|became|began|found|left"
    r"|kept|built|sold|told|met|set|put|ran|saw|said|sent|spent|stood|taught|thought|brought|bought|came|drew|drove|ate"
    r"|fell|flew|fought|got|grew|heard|hid|knew|lay|lost|paid|rose|sang|shot|spoke|threw|wore|cost|cut|hit|let|beat)\b"
)
_SUBCLAUSE = re.compile(r"\b(?:that|which|who|whom|whose|where|when|if|because|while|and(?! \d)|but|not)\b", re.I)
_MEASURE = re.compile(r"(?:high|long|tall|wide|deep|old|heavy|away|later)\b")
_ARTICLE = re.compile(r"(?:The|A|An|Its|His|Her|Their|Each|Every|Some|Many|Most|All|Other|Others|About|Roughly)\b")


def is_english(text: str) -> bool:
    """Whether as many of the words are English function words as in an English text."""
    words = [token.casefold() for token in tokens(text)]
    return sum(word in STOP_WORDS for word in words) >= MIN_ENGLISH * max(1, len(words))


def find_candidates(document: Document) -> list[Candidate]:
    """Return what ``document`` can be asked, the surest answers first and spread over its sentences."""
    if not is_english(document.text):
        return []
    asked = [[(gap, _ask(sentence, gap)) for gap in find_gaps(sentence)] for sentence in _statements(document)]
    unique: dict[str, Candidate] = {}
    for is_firm in (True, False):
        columns = [[one for gap, one in of_sentence if one and gap.is_firm == is_firm] for of_sentence in asked]
        for row in zip_longest(*columns):
            unique.update({one.plain_question: one for one in row if one and one.plain_question not in unique})
    return list(unique.values())


def is_turned_well(candidate: Candidate, question: str) -> bool:
    """Whether a model's ``question`` asks what the candidate's does: nearly all its words, and hardly any others.

    One word may be lost and another added in any case, since verbs change their form ("lost", "lose").
    """
    auxiliaries = set(re.findall(rf"\b(?:{_BE})\b", candidate.plain_question))
    if not auxiliaries <= set(question.split()):
        return False  # "was given" must not become "did give"
    wanted, given = set(content_words(candidate.plain_question)), set(content_words(question))
    lost, added = Vocabulary.of(question).missing(wanted), Vocabulary.of(candidate.plain_question).missing(given)
    return len(lost) <= max(1, MAX_LOST * len(wanted)) and len(added) <= max(1, MAX_ADDED * len(given))


def _statements(document: Document) -> Iterator[str]:
    """Yield the sentences that can stand alone, a pronoun at the start replaced by the title if that is the subject."""
    from sentencex import segment

    title = _ASIDE.sub("", document.title).strip()
    sentences = [" ".join(_ASIDE.sub("", one).split()) for one in segment("en", document.text)]
    subject = re.match(rf"(?:the )?{re.escape(title)}\b", sentences[0], re.I) if title and sentences else None
    personal = is_person(title) and bool(re.search(r"\b(?:he|she|his|her)\b", document.text, re.I))
    for number, sentence in enumerate(sentences):
        sentence = _LINKING.sub("", sentence)
        pronoun = _PRONOUN.match(sentence)
        if pronoun and subject and number and personal == (pronoun["word"].casefold() not in ("it", "its")):
            owner = "'s" if pronoun["word"].casefold() in ("its", "his", "her") else ""
            sentence = f"{pronoun['when'] or ''}{subject.group()}{owner} {sentence[pronoun.end() :]}"
        if not _UNRESOLVED.match(sentence) and len(sentence.split()) > 3:
            yield _capital(sentence)


def _ask(sentence: str, gap: Gap) -> Candidate | None:
    """Return the questions for a gap, or None if what stands around it is no clause."""
    before, after, rest = _before(sentence[: gap.start]), _after(sentence[gap.end :]), sentence[gap.end :]
    if before is None or after is None:
        return None
    if rest.startswith(",") and _APPOSED.fullmatch(before):
        asks = "who" if is_person(gap.answer) else "what"
        plain = turned = f"{asks} was {before.rstrip(',').lower()}"
    elif not before:
        plain = turned = f"{gap.asks} {after}"
        if gap.asks == "when":
            plain, turned = f"{after} when", _turn(after, gap, "")
    elif before.endswith(",") or not _is_clause(before, after, goes_on=rest.strip()[len(after) :].startswith(",")):
        return None
    else:
        plain, turned = f"{before} {gap.asks} {after}", _turn(before, gap, after)
    if plain.count('"') % 2 or len(content_words(plain)) < (MIN_CONTENT_WORDS - bool(turned)):
        return None
    question = _as_question(turned) if turned else None
    return Candidate(gap.answer, _as_question(plain), question, _capital(gap.opening), sentence)


def _is_clause(before: str, after: str, *, goes_on: bool) -> bool:
    """Whether the words around a gap have a verb, and the sentence does not only begin there."""
    if goes_on and _UNFINISHED.fullmatch(before):
        return False
    part = before.rpartition(", ")[2] if goes_on else before
    return bool(_VERB.search(part)) or (not goes_on and bool(_VERB.search(after)))


def _turn(before: str, gap: Gap, after: str) -> str:
    """Return the question turned by putting its auxiliary before its subject, or "" if that cannot be told."""
    verb = _AUXILIARY.fullmatch(before)
    if verb is None or _SUBCLAUSE.search(f"{verb['subject']} {verb['rest']}") or ", " in verb["rest"] + after:
        return ""
    rest, last = verb["rest"], last_word(verb["rest"])
    if last in ("of", "between") or (re.match(r"(?:a|an|the)\b", rest) and len(rest.split()) > 4):
        return ""
    lead = gap.opening.removesuffix(gap.asks).strip()
    if lead and last == lead:
        rest = " ".join(rest.split()[:-1])
    elif lead or (last in PREPOSITIONS and after):
        return ""
    measure = _MEASURE.match(after)
    asks = f"{gap.opening} {measure.group()}" if measure else gap.opening
    after = after[measure.end() :] if measure else after
    subject = verb["subject"]
    subject = subject[0].lower() + subject[1:] if _ARTICLE.match(subject) else subject
    when = (verb["when"] or "").strip(" ,").replace("In ", "in ")
    return f"{asks} {verb['verb']} {subject} {rest} {after} {when}"


def _before(text: str) -> str | None:
    """Return the beginning of the clause that ends where the answer stands; None if it is too long to ask about."""
    text = _CLAUSE.split(text)[-1]
    relative = list(_RELATIVE.finditer(text))
    if relative:
        text = f"{relative[-1]['head']} {text[relative[-1].end() :]}"
    return None if len(text.split()) > MAX_BEFORE_WORDS else text.strip()


def _after(text: str) -> str | None:
    """Return the rest of the clause behind the answer; None if it is too long to ask about."""
    boundary = _BOUNDARY.search(text)
    words = (text[: boundary.start()] if boundary else text).rstrip(' .!?"”').split()
    return None if len(words) > MAX_AFTER_WORDS else " ".join(words)


def _as_question(text: str) -> str:
    return f"{_capital(' '.join(text.split()))}?"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
