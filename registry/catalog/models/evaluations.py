"""How right the answers were: evaluations of versions, their results, and the scores of those."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from registry.catalog.models.base import Base, Digest, Id


class EvaluationRow(Base):
    """One run of ``evaluate`` on a version of a corpus.

    Quality over the versions of a corpus is read by one query along the keys: evaluations of a corpus_id, their
    evaluation_results of a mode, the evaluation_scores of a measure.
    """

    __tablename__ = "evaluations"
    __table_args__ = (
        ForeignKeyConstraint(["corpus_id", "version"], ["versions.corpus_id", "versions.number"]),
        CheckConstraint("length(questions_digest) = 64", name="questions_digest_length"),
        CheckConstraint("questions > 0 AND sample > 0", name="questions_positive"),
        Index(None, "corpus_id", "version"),
        Index(None, "recipe_id"),
        {"comment": "Runs of `pragreg evaluate`: which questions were put to which version, and by what."},
    )

    id: Mapped[Id]
    corpus_id: Mapped[int] = mapped_column(ForeignKey("corpora.id"))
    version: Mapped[int]
    recipe_id: Mapped[int] = mapped_column(ForeignKey("recipes.id"))
    questions_name: Mapped[str] = mapped_column(comment="what people call the questions: their file's name")
    questions_digest: Mapped[Digest] = mapped_column(comment="sha256 of the question file")
    questions: Mapped[int] = mapped_column(comment="number of questions asked")
    sample: Mapped[int | None] = mapped_column(comment="so many questions were to be drawn; null: all were asked")
    seed: Mapped[int] = mapped_column(comment="of the sample and of the intervals' bootstrap")
    gold: Mapped[bool] = mapped_column(comment="whether each question got its own documents instead of the index's")
    dtype: Mapped[str] = mapped_column(comment="of the base model's computation")
    device: Mapped[str]
    program_version: Mapped[str] = mapped_column(comment="of pragreg")
    folder: Mapped[str] = mapped_column(comment="where the answers and the report lie; empty: nowhere")
    created_at: Mapped[datetime]


class EvaluationResultRow(Base):
    """What one way of answering came to, over all questions of an evaluation or those of one type."""

    __tablename__ = "evaluation_results"
    __table_args__ = (
        UniqueConstraint("evaluation_id", "mode", "k", "merge", "question_type"),
        CheckConstraint(
            "mode IN ('closed-book', 'rag', 'prag', 'combined', 'wrong-document', 'task-only', 'retrieval')",
            name="mode_known",
        ),
        CheckConstraint("k >= 0 AND questions >= 0", name="counts_not_negative"),
        CheckConstraint(
            "prompt_tokens >= 0 AND mean_ms >= 0 AND p95_ms >= 0",
            name="measurements_not_negative",
        ),
        {"comment": "Ways of answering in an evaluation, with what they cost a question."},
    )

    id: Mapped[Id]
    evaluation_id: Mapped[int] = mapped_column(ForeignKey("evaluations.id"))
    mode: Mapped[str] = mapped_column(
        comment="closed-book, rag, prag, combined, wrong-document, task-only, or retrieval without an answer"
    )
    k: Mapped[int] = mapped_column(comment="documents a question; 0 where the mode takes none")
    merge: Mapped[str] = mapped_column(comment="how adapters were weighted; empty where none was merged")
    question_type: Mapped[str] = mapped_column(comment="as the question file calls it; empty: all questions")
    questions: Mapped[int] = mapped_column(comment="number of questions of that type")
    prompt_tokens: Mapped[float] = mapped_column(comment="mean length of a prompt")
    mean_ms: Mapped[float] = mapped_column(comment="milliseconds a question, mean")
    p95_ms: Mapped[float] = mapped_column(comment="milliseconds a question, 95th percentile")


class EvaluationScoreRow(Base):
    """The mean of one measure over the questions of a result, with its interval."""

    __tablename__ = "evaluation_scores"
    __table_args__ = (
        CheckConstraint("low <= high", name="interval_ordered"),
        {"comment": "Measures of results: exact_match, f1, recall_at_10 and the like, each from 0 to 1."},
    )

    result_id: Mapped[int] = mapped_column(ForeignKey("evaluation_results.id"), primary_key=True)
    measure: Mapped[str] = mapped_column(primary_key=True)
    mean: Mapped[float]
    low: Mapped[float] = mapped_column(comment="lower bound of the bootstrap interval of 95 %")
    high: Mapped[float] = mapped_column(comment="upper bound of it")
