"""The known formats of question files: which records give a format away, and the questions in them.

To add a format, write a function from a record to its questions and give it a line in ``FORMATS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from registry.evaluation.record_files import Record


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the ``answers`` of which any is right, and its gold documents.

    ``document_ids`` are the record identifiers of the gold documents and ``titles`` their titles; a format gives the
    one or the other. ``id`` is the file's own identifier, else the number among its questions, from 1. ``type`` is
    what the format calls its kinds of questions. There are no ``answers`` where a file is for retrieval alone.
    """

    question: str
    answers: tuple[str, ...]
    document_ids: tuple[str, ...] = ()
    id: str = ""
    type: str = ""
    titles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of file: its name for messages, whether a file's first record is of it, and a record's questions.

    ``questions`` leaves ``Question.id`` empty where the record has none, and raises ``Malformed`` for a wrong record.
    """

    name: str
    recognises: Callable[[Mapping[str, Any]], bool]
    questions: Callable[[Record], Iterator[Question]]


def format_of(record: Record) -> Format:
    """Return the format of a file whose first record is this.

    Raises:
        Malformed: its fields are of no known format.
    """
    for known in FORMATS:
        if known.recognises(record.fields):
            return known
    shown = ", ".join(repr(name) for name in record.fields) or "none"
    raise record.wrong(f"its fields ({shown}) are of no known format of questions")


def _own(record: Record) -> Iterator[Question]:
    question, answers = record.text("question"), record.texts("answers")
    if not answers:
        raise record.wrong("'answers' is missing or empty")
    yield Question(question, answers, record.texts("document_ids"), id=record.label("id"), type=record.label("type"))


def _squad(file: Record) -> Iterator[Question]:
    """Yield the questions of a whole SQuAD file; the unanswerable ones of v2 are left out."""
    for article in file.records("data"):
        title = article.label("title")
        for paragraph in article.records("paragraphs"):
            for record in paragraph.records("qas"):
                if record.fields.get("is_impossible") is True:
                    continue
                question = record.text("question")
                answers = _distinct(answer.text("text") for answer in record.records("answers"))
                if not answers:
                    raise record.wrong("'answers' is empty, and 'is_impossible' is not true")
                yield Question(question, answers, id=record.label("id"), titles=_distinct([title]))


def _multihop(record: Record) -> Iterator[Question]:
    """Yield a question of HotpotQA or 2WikiMultihopQA; its gold documents are those of its supporting facts."""
    yield Question(
        record.text("question"),
        (record.text("answer"),),
        id=record.label("_id") or record.label("id"),
        type=record.label("type"),
        titles=_distinct(_supporting_titles(record)),
    )


def _supporting_titles(record: Record) -> list[str]:
    facts = record.decoded("supporting_facts")
    if isinstance(facts, dict):  # as Hugging Face's copies have it: a list of titles beside one of sentence numbers
        return _strings(facts.get("title"), record, "supporting_facts")
    if facts is None:
        return []
    if not isinstance(facts, list) or not all(isinstance(fact, list) and fact for fact in facts):
        raise record.wrong("'supporting_facts' is not a list of [title, sentence number]")
    return _strings([fact[0] for fact in facts], record, "supporting_facts")


def _popqa(record: Record) -> Iterator[Question]:
    """Yield a question of PopQA; its gold document is the page of its subject, where the file names that."""
    answers = _distinct(_strings(record.decoded("possible_answers"), record, "possible_answers"))
    if not answers:
        raise record.wrong("'possible_answers' is empty")
    yield Question(
        record.text("question"),
        answers,
        id=record.label("id"),
        type=record.label("prop"),
        titles=_distinct([record.label("s_wiki_title")]),
    )


def _complex_web(record: Record) -> Iterator[Question]:
    """Yield a question of ComplexWebQuestions, unless none of its answers has a name (they are null in the file)."""
    question = record.text("question")
    answers = _distinct(_complex_web_answers(record))
    if answers:
        yield Question(question, answers, id=record.label("ID"), type=record.label("compositionality_type"))


def _complex_web_answers(record: Record) -> Iterator[str]:
    name = "answers" if "answers" in record.fields else "answer"
    values = record.fields.get(name)
    if isinstance(values, str) and values.strip():
        yield values
    elif not isinstance(values, list):
        raise record.wrong(f"{name!r} is missing or empty")
    elif all(isinstance(value, str) for value in values):
        yield from values
    else:
        for answer in record.records(name):
            yield answer.label("answer")
            yield from _strings(answer.fields.get("aliases") or [], answer, "aliases")


def _beir(record: Record) -> Iterator[Question]:
    identifier = record.label("_id")
    if not identifier:
        raise record.wrong("'_id' is missing or empty")
    yield Question(record.text("text"), (), id=identifier)


def _strings(values: object, record: Record, name: str) -> list[str]:
    """Return ``values`` if they are a list of texts, blank ones among them or not.

    Raises:
        Malformed: they are something else.
    """
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise record.wrong(f"{name!r} is not a list of texts")
    return values


def _distinct(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the texts without outer white space, each once, the blank ones left out."""
    return tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))


def _is_squad(fields: Mapping[str, Any]) -> bool:
    return "data" in fields and "question" not in fields


def _is_beir(fields: Mapping[str, Any]) -> bool:
    return {"_id", "text"} <= set(fields) and "title" not in fields  # documents of BEIR have titles


def _is_popqa(fields: Mapping[str, Any]) -> bool:
    return "possible_answers" in fields or {"question", "prop", "subj", "obj"} <= set(fields)


def _is_complex_web(fields: Mapping[str, Any]) -> bool:
    return "compositionality_type" in fields or "ID" in fields


def _is_multihop(fields: Mapping[str, Any]) -> bool:
    return "supporting_facts" in fields or ("_id" in fields and "question" in fields and "answers" not in fields)


def _is_own(fields: Mapping[str, Any]) -> bool:
    return "question" in fields or "answers" in fields


FORMATS = (
    Format("SQuAD v1.1 and v2 JSON", _is_squad, _squad),
    Format("BEIR queries (a folder or queries.jsonl)", _is_beir, _beir),
    Format("PopQA (TSV or JSON Lines)", _is_popqa, _popqa),
    Format("ComplexWebQuestions JSON", _is_complex_web, _complex_web),
    Format("HotpotQA and 2WikiMultihopQA (JSON or JSON Lines)", _is_multihop, _multihop),
    Format(
        'JSON Lines of {"question": "...", "answers": ["..."], "document_ids": ["..."]}',
        _is_own,
        _own,
    ),
)
"""The first that recognises a file's first record reads the file, so the least particular comes last."""

FORMATS_HINT = "known formats: " + "; ".join(known.name for known in reversed(FORMATS))
