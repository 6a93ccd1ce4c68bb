"""Evaluations: how right the answers of a version were, way by way, with what they cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, insert, select
from sqlalchemy.orm import Session

from registry.catalog.chunks import chunked
from registry.catalog.models import CorpusRow, EvaluationResultRow, EvaluationRow, EvaluationScoreRow, RecipeRow
from registry.catalog.recipes import recipe_id
from registry.catalog.references import corpus_id, resolve
from registry.errors import NotFoundError

EVALUATED_MODES = ("closed-book", "rag", "prag", "combined", "wrong-document", "task-only", "retrieval")
"""The ways of answering whose results are kept; ``retrieval`` measures the index alone."""

# The columns are called like the fields.
_OF_EVALUATION = (
    "questions_name",
    "questions_digest",
    "questions",
    "sample",
    "seed",
    "gold",
    "dtype",
    "device",
    "program_version",
    "created_at",
    "folder",
)
_OF_RESULT = ("mode", "k", "merge", "question_type", "questions", "prompt_tokens", "mean_ms", "p95_ms")

Interval = tuple[float, float, float]
"""A mean with the lower and the upper bound of its interval."""


@dataclass(frozen=True, slots=True)
class ResultRecord:
    """What one way of answering came to, over ``questions`` questions of a type (``question_type`` "": all).

    ``k`` is 0 and ``merge`` empty where the mode has no such thing. ``prompt_tokens`` is a mean; ``mean_ms`` and
    ``p95_ms`` are milliseconds a question. ``scores`` are by measure: exact_match, f1, precision, recall, contains; of
    the mode ``retrieval`` recall_at_1, ndcg_at_10 and the like.
    """

    mode: str
    k: int
    merge: str
    question_type: str
    questions: int
    prompt_tokens: float
    mean_ms: float
    p95_ms: float
    scores: Mapping[str, Interval]


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """One run over the questions of a file; ``version`` is a reference such as ``handbook@v3``.

    ``sample`` questions were drawn by ``seed`` (None: all were asked); ``gold`` says whether each question got its own
    documents instead of the index's. The report lies in ``folder``. ``number`` is None until it is recorded.
    """

    version: str
    recipe_digest: str
    questions_name: str
    questions_digest: str
    questions: int
    sample: int | None
    seed: int
    gold: bool
    dtype: str
    device: str
    program_version: str
    created_at: datetime
    folder: str
    results: tuple[ResultRecord, ...]
    number: int | None = None

    @property
    def f1(self) -> str:
        """The F1 of every way of answering over all questions, in one line for lists."""
        every = [result for result in self.results if "f1" in result.scores and not result.question_type]
        return ", ".join(
            f"{result.mode}{f' k={result.k}' if result.k else ''} {result.scores['f1'][0]:.3f}" for result in every
        )


def add_evaluation(session: Session, record: EvaluationRecord) -> int:
    """Record an evaluation with its results, and return its number (whatever ``record.number`` says).

    Raises:
        NotFoundError: the version or the recipe is not in the catalog.
        ValueError: a result has an unknown mode, a number in it is not finite, or there are two of the same kind.
    """
    for result in record.results:
        _check(result)
    if len({(item.mode, item.k, item.merge, item.question_type) for item in record.results}) < len(record.results):
        raise ValueError("an evaluation has one result of a mode, k, merge and question type")
    version = resolve(session, record.version)
    row = {
        **{name: getattr(record, name) for name in _OF_EVALUATION},
        "corpus_id": corpus_id(session, version.corpus),
        "version": version.number,
        "recipe_id": recipe_id(session, record.recipe_digest),
    }
    number = session.execute(insert(EvaluationRow).values(row).returning(EvaluationRow.id)).scalar_one()
    for result in record.results:
        values = {"evaluation_id": number, **{name: getattr(result, name) for name in _OF_RESULT}}
        added = insert(EvaluationResultRow).values(values).returning(EvaluationResultRow.id)
        result_id = session.execute(added).scalar_one()
        scores = [
            {"result_id": result_id, "measure": measure, "mean": mean, "low": low, "high": high}
            for measure, (mean, low, high) in result.scores.items()
        ]
        if scores:
            session.execute(insert(EvaluationScoreRow), scores)
    return number


def get_evaluation(session: Session, number: int | str) -> EvaluationRecord:
    """Return an evaluation by its number.

    Raises:
        NotFoundError: there is no such evaluation.
    """
    text = str(number)
    is_number = text.isascii() and text.isdigit() and len(text) < 19
    found = _evaluations(session, _rows().where(EvaluationRow.id == int(text))) if is_number else []
    if not found:
        raise NotFoundError(f"there is no evaluation {text}", hint="pragreg evaluations list")
    return found[0]


def list_evaluations(
    session: Session, corpus: str | None = None, *, limit: int | None = None, offset: int = 0
) -> list[EvaluationRecord]:
    """Return evaluations (of a corpus), newest first; all of them unless there is a ``limit``.

    Raises:
        NotFoundError: there is no such corpus.
    """
    query = _rows().order_by(EvaluationRow.id.desc())
    if corpus is not None:
        query = query.where(EvaluationRow.corpus_id == corpus_id(session, corpus))
    return _evaluations(session, query.limit(limit).offset(offset))


def _check(result: ResultRecord) -> None:
    # PostgreSQL would keep a NaN, and every mean over versions would be one.
    if result.mode not in EVALUATED_MODES:
        raise ValueError(f"the catalog keeps results of {', '.join(EVALUATED_MODES)}, not of {result.mode!r}")
    measured = {"prompt_tokens": (result.prompt_tokens,), "mean_ms": (result.mean_ms,), "p95_ms": (result.p95_ms,)}
    for name, values in {**measured, **result.scores}.items():
        if not all(math.isfinite(value) for value in values):
            raise ValueError(f"{name} of {result.mode} is not finite: {values}")


def _rows() -> Select[EvaluationRow, str, str]:
    return (
        select(EvaluationRow, CorpusRow.name, RecipeRow.digest)
        .join(CorpusRow, CorpusRow.id == EvaluationRow.corpus_id)
        .join(RecipeRow, RecipeRow.id == EvaluationRow.recipe_id)
    )


def _evaluations(session: Session, query: Select[EvaluationRow, str, str]) -> list[EvaluationRecord]:
    found = session.execute(query).all()
    results = _results(session, [row.id for row, _, _ in found])
    return [
        EvaluationRecord(
            number=row.id,
            version=f"{corpus}@v{row.version}",
            recipe_digest=recipe,
            results=tuple(results.get(row.id, ())),
            **{name: getattr(row, name) for name in _OF_EVALUATION},
        )
        for row, corpus, recipe in found
    ]


def _results(session: Session, evaluations: Sequence[int]) -> dict[int, list[ResultRecord]]:
    """Return the results of evaluations by their numbers, each in the order in which they were given."""
    found: dict[int, list[ResultRecord]] = {}
    for chunk in chunked(evaluations):
        of_these = EvaluationResultRow.evaluation_id.in_(chunk)
        scores: dict[int, dict[str, Interval]] = {}
        measured = session.execute(
            select(
                EvaluationScoreRow.result_id,
                EvaluationScoreRow.measure,
                EvaluationScoreRow.mean,
                EvaluationScoreRow.low,
                EvaluationScoreRow.high,
            )
            .join(EvaluationResultRow, EvaluationResultRow.id == EvaluationScoreRow.result_id)
            .where(of_these)
            .order_by(EvaluationScoreRow.measure)
        )
        for result_id, measure, mean, low, high in measured:
            scores.setdefault(result_id, {})[measure] = (mean, low, high)
        for row in session.scalars(select(EvaluationResultRow).where(of_these).order_by(EvaluationResultRow.id)):
            values = {name: getattr(row, name) for name in _OF_RESULT}
            found.setdefault(row.evaluation_id, []).append(ResultRecord(scores=scores.get(row.id, {}), **values))
    return found
