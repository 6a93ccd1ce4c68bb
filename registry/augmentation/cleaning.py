"""Cleaning of generated text: models add numbering, labels and quotation marks, and run on into other chats."""

from __future__ import annotations

import re

from registry.digests import normalise_text
from registry.records import QAPair

_LABEL = re.compile(
    r"^(?:(?:final |short |full )?(?:question|answer|q|a|passage|rewrite|version)\s*\d*\s*[:.)]\s*)+", re.I
)
_NUMBERING = re.compile(r"^(?:[-*•#>]+\s+|\(?\d{1,2}[a-z]?[.)]\s+|\d{1,2}[a-z]?\s*[:)]\s*)+")
_ASKS = re.compile(
    r"(?:what|who|whom|whose|which|when|where|why|how|is|are|was|were|did|does|do|can|has|had)\b"
    r"|(?:in|at|on|by|to|from|for|of|with|under|since) (?:what|which|whom)\b",
    re.I,
)
_BARE_NUMBER = re.compile(rf"^\d{{1,2}}\s+(?={_ASKS.pattern})", re.I)
_SOURCE = r"(?:the|this) (?:given |above |following )?(?:passage|text|article|paragraph|excerpt)"
_ACCORDING = re.compile(
    rf"^(?:according to {_SOURCE},?\s+|{_SOURCE} (?:(?:states|says|mentions|explains|notes) that|mentions|lists)\s+)",
    re.I,
)
_AS_SAID = re.compile(
    rf",? (?:according to|as (?:\w+ )?(?:in|by)) {_SOURCE}(?=[?.,]|$)"
    # "the bridge mentioned in the passage", but not "the bridge is mentioned in the passage"
    rf"|(?<!\bis)(?<!\bare)(?<!\bwas)(?<!\bwere)(?<!\bbeen)(?<!\bbeing)(?<!\bnot)(?<!\balso)"
    rf" (?:mentioned|discussed|described|listed|named|given) in {_SOURCE}(?! of\b)",
    re.I,
)
_RUNS_ON = re.compile(
    r"<\|.*?\|>|</?s>|\[/?INST\]"
    r"|(?:^|\n)\s*(?:you are an? (?:ai|helpful)\b|(?:user|assistant|system|human)\s*:|###|---\s*\n|note:)",
    re.I,
)
_EMPHASIS = re.compile(r"\*\*|__|`")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»"}


def clean_line(text: str) -> str:
    """Return the first line of ``text`` that says something, without numbering, label, emphasis or outer quotes."""
    text = _RUNS_ON.split(normalise_text(text), maxsplit=1)[0]
    for line in text.split("\n"):
        cleaned = _AS_SAID.sub("", _strip_marks(line))
        if cleaned:
            return cleaned
    return ""


def _strip_marks(line: str) -> str:
    line = " ".join(_EMPHASIS.sub("", line).split())
    previous = None
    while line != previous:
        previous = line
        for mark in (_NUMBERING, _BARE_NUMBER, _LABEL):
            line = mark.sub("", line).strip()
        if said := _ACCORDING.match(line):
            line = line[said.end() :]
            line = line[:1].upper() + line[1:]
        if len(line) > 1 and _QUOTES.get(line[0]) == line[-1] and line[0] not in line[1:-1]:
            line = line[1:-1].strip()
    return line


def clean_pair(question: str, answer: str, full_answer: str | None = None) -> QAPair:
    """Return a pair of cleaned lines; an empty ``full_answer`` becomes None."""
    question = clean_line(question)
    if question and question[-1].isalnum() and _ASKS.match(question):
        question += "?"
    return QAPair(question, clean_line(answer), clean_line(full_answer or "") or None)


def clean_rewrite(text: str, longest_words: int) -> str:
    """Return ``text`` as one paragraph, without headings and labels, ended before chat that is not the rewrite.

    Lines are taken while they stay within ``longest_words`` together; the first is taken in any case.
    """
    text = _RUNS_ON.split(normalise_text(text).lstrip("-# \n"), maxsplit=1)[0]
    kept: list[str] = []
    words = 0
    for line in map(_strip_marks, text.split("\n")):
        if not line or (not kept and _is_heading(line)):
            continue
        words += len(line.split())
        if kept and words > longest_words:
            break
        kept.append(line)
    return " ".join(kept)


def _is_heading(line: str) -> bool:
    return line[-1] == ":" or (len(line.split()) <= 8 and line[-1] not in '.!?。！？"”')
