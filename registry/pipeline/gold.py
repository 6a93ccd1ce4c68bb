"""Which documents a question is about, by its file, and which the index finds for it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.catalog.members import documents_by_title
from registry.errors import InputError, UsageError
from registry.evaluation.intervals import Estimate
from registry.evaluation.questions import Question
from registry.evaluation.ranking import ranking_estimates
from registry.pipeline.query import Asker
from registry.records import Hit, Match

DEPTH = 10
"""Of how many hits retrieval is judged."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with its number in the file, from 1, its gold documents, and what the index finds for it.

    ``gold`` are digests in the order in which the index has them; ``grades`` are by the names of records or titles, and
    ``ranked`` the hits' names among them, so that a record that was cut into passages counts once.
    """

    number: int
    question: Question
    hits: tuple[Hit, ...]
    gold: tuple[str, ...]
    grades: Mapping[str, int]
    ranked: tuple[str, ...]


def look_up(
    asker: Asker, questions: Mapping[int, Question], qrels: Mapping[str, Mapping[str, int]], depth: int
) -> list[Asked]:
    """Find every question's gold documents, and the first ``depth`` that the index has for it.

    ``qrels`` are judgements by the questions' identifiers, which go over what the questions say themselves.
    """
    grades = {number: _grades(question, qrels) for number, question in questions.items()}
    digests = _documents(asker, questions.values(), grades.values())
    names = {digest: name for name, own in digests.items() for digest in own}
    hits = asker.retrieve([question.question for question in questions.values()], depth)
    asked: list[Asked] = []
    for (number, question), found in zip(questions.items(), hits, strict=True):
        own = [digest for name, grade in grades[number].items() if grade > 0 for digest in digests.get(name, ())]
        order = {hit.document.digest: hit.rank for hit in found}
        own.sort(key=lambda digest: order.get(digest, len(order) + 1))
        ranked = tuple(names.get(hit.document.digest, hit.document.digest) for hit in found)
        asked.append(Asked(number, question, found, tuple(own), grades[number], ranked))
    return asked


def require_gold(asker: Asker, path: Path, asked: Iterable[Asked]) -> None:
    """Check that the version has a gold document for every question of the file.

    Raises:
        InputError: it has not; the message names the first question.
    """
    for one in asked:
        if not one.gold:
            raise InputError(
                f"{path}: {asker.version.reference} has no document {sorted(one.grades)} for the question "
                f"{one.question.question[:80]!r}",
                hint="leave out --gold, or build the corpus from the records that the questions name",
            )


def _grades(question: Question, qrels: Mapping[str, Mapping[str, int]]) -> Mapping[str, int]:
    """Return the names of a question's gold documents, records or titles, and how relevant they are."""
    if question.id in qrels:
        return qrels[question.id]
    return dict.fromkeys(question.document_ids or question.titles, 1)


def _documents(
    asker: Asker, questions: Iterable[Question], grades: Iterable[Mapping[str, int]]
) -> Mapping[str, Sequence[str]]:
    """Return document digests by the names of records and titles that questions give their gold documents."""
    names = {name for own in grades for name in own}
    titles = {name for question in questions for name in question.titles}
    found = asker.documents_by_record(names)
    with asker.registry.catalog.read() as session:
        # Some files write titles as they stand in addresses.
        spelt = {title.replace("_", " "): title for title in titles - found.keys()}
        by_title = documents_by_title(session, asker.version, {*spelt, *spelt.values()})
    return {**found, **{spelt.get(title, title): own for title, own in by_title.items()}}


def own_documents(asked: Asked, k: int) -> list[Match]:
    """Return the first ``k`` gold documents; one that the index does not find counts as its last hit does."""
    scores = {hit.document.digest: hit.score for hit in asked.hits}
    least = min(scores.values(), default=1.0)
    return [Match(digest, scores.get(digest, least)) for digest in asked.gold[:k]]


def wrong_documents(asked: Sequence[Asked], seed: int) -> dict[int, Match]:
    """Return for every question a document that is neither its own nor found for it: the best of another question.

    Raises:
        UsageError: there is none; the corpus or the question file is too small.
    """
    others = sorted({one.hits[0].document.digest for one in asked if one.hits})
    return {one.number: Match(_foreign(one, others, seed), 1.0) for one in asked}


def _foreign(asked: Asked, others: Sequence[str], seed: int) -> str:
    """Choose one of ``others`` by chance that is not among the question's hits, or at least neither gold nor first."""
    start = random.Random(f"{seed}:{asked.number}").randrange(max(1, len(others)))
    turned = [*others[start:], *others[:start]]
    for hits in (asked.hits, asked.hits[:1]):
        own = {*asked.gold, *(hit.document.digest for hit in hits)}
        chosen = next((digest for digest in turned if digest not in own), None)
        if chosen is not None:
            return chosen
    raise UsageError(
        f"there is no other document for the question {asked.question.question[:80]!r}",
        hint="leave out the modes wrong-document and task-only, or ask more questions of a larger corpus",
    )


def judge_retrieval(asked: Sequence[Asked], seed: int) -> Mapping[str, Estimate]:
    """Return recall@k, hit@k and ndcg@10 over the questions whose documents are known; empty if there are none."""
    judged = [one for one in asked if any(grade > 0 for grade in one.grades.values())]
    if not judged:
        return {}
    every = ranking_estimates(
        [one.ranked for one in judged], [one.grades for one in judged], cutoffs=(1, 3, 10), seed=seed
    )
    return {name: value for name, value in every.items() if not name.startswith("ndcg") or name == "ndcg@10"}
