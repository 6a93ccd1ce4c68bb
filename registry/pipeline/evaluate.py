"""Evaluate: how right the answers to a question file are, mode by mode."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from registry.errors import InputError
from registry.evaluation.questions import Question, read_questions
from registry.evaluation.scores import Estimate, estimates, score
from registry.pipeline.progress import Progress
from registry.pipeline.query import Asker, Asking, open_asker
from registry.records import Answer, Match, Mode, Version
from registry.settings import Home


@dataclass(frozen=True)
class ModeResult:
    """One mode's scores (by measure, see ``registry.evaluation.scores.Scores``) and its cost a question.

    ``milliseconds`` is the mean of all steps together, ``prompt_tokens`` the mean length of the prompt.
    """

    mode: Mode
    scores: dict[str, Estimate]
    milliseconds: float
    prompt_tokens: float


@dataclass(frozen=True)
class EvaluationRequest:
    """What `pragreg evaluate` was asked for; ``gold`` takes each question's own documents instead of the index."""

    questions: Path
    modes: tuple[Mode, ...]
    asking: Asking
    gold: bool = False
    sample: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Evaluation:
    """The results of one run over ``questions`` questions; ``found_gold`` is recall of a gold document at k."""

    version: Version
    questions: int
    k: int
    weights: str
    gold: bool
    found_gold: float | None
    results: tuple[ModeResult, ...]


def evaluate(
    home: Home,
    reference: str,
    request: EvaluationRequest,
    *,
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress,
) -> Evaluation:
    """Answer every question in every mode and score the answers.

    Raises:
        InputError: the question file is wrong, or ``gold`` is asked for documents that the version does not have.
        NotFoundError: there is no such version.
    """
    questions = read_questions(request.questions)
    if request.sample is not None and request.sample < len(questions):
        questions = random.Random(request.seed).sample(questions, request.sample)
    with open_asker(home, reference, device=device, dtype=dtype, progress=progress) as asker:
        gold = _gold(asker, questions, request)
        progress.start("answering", len(questions) * len(request.modes))
        results = [_run(asker, questions, request, mode, gold, progress) for mode in request.modes]
        progress.done()
        found = None if request.gold else _found_gold(results, gold)
    return Evaluation(
        version=asker.version,
        questions=len(questions),
        k=request.asking.k,
        weights=request.asking.weights,
        gold=request.gold,
        found_gold=found,
        results=tuple(result for result, _ in results),
    )


def _run(
    asker: Asker,
    questions: Sequence[Question],
    request: EvaluationRequest,
    mode: Mode,
    gold: Sequence[Sequence[str]],
    progress: Progress,
) -> tuple[ModeResult, list[Answer]]:
    # Questions of one length share a batch, which pads little; the order of the answers does not matter here.
    order = sorted(range(len(questions)), key=lambda number: len(questions[number].question))
    matches = [[Match(digest, 1.0) for digest in gold[number][: request.asking.k]] for number in order]
    answers: list[Answer] = []
    scores = []
    given = asker.ask(
        [questions[number].question for number in order],
        replace(request.asking, mode=mode, log=False),
        gold=matches if request.gold else None,
    )
    for number, answer in zip(order, given, strict=True):
        answers.append(answer)
        scores.append(score(answer.answer, questions[number].answers))
        progress.advance(note=mode)
    count = len(answers)
    result = ModeResult(
        mode=mode,
        scores=estimates(scores, seed=request.seed),
        milliseconds=sum(sum(answer.milliseconds.values()) for answer in answers) / count,
        prompt_tokens=sum(answer.prompt_tokens for answer in answers) / count,
    )
    by_number = dict(zip(order, answers, strict=True))
    return result, [by_number[number] for number in range(count)]


def _gold(asker: Asker, questions: Sequence[Question], request: EvaluationRequest) -> list[list[str]]:
    """Return the digests of every question's own documents, as far as the version has them."""
    wanted = {name for question in questions for name in question.document_ids}
    found = asker.documents_by_record(wanted)
    gold = [[digest for name in question.document_ids for digest in found.get(name, ())] for question in questions]
    for question, digests in zip(questions, gold, strict=True):
        if request.gold and not digests:
            raise InputError(
                f"{request.questions}: {asker.version.reference} has no document {list(question.document_ids)} "
                f"for the question {question.question[:80]!r}",
                hint="leave out --gold, or build the corpus from the records that the questions name",
            )
    return gold


def _found_gold(results: Sequence[tuple[ModeResult, list[Answer]]], gold: Sequence[Sequence[str]]) -> float | None:
    for result, answers in results:
        if result.mode != "closed-book" and any(gold):
            judged = [(answer, own) for answer, own in zip(answers, gold, strict=True) if own]
            return sum(any(hit.document.digest in own for hit in answer.hits) for answer, own in judged) / len(judged)
    return None
