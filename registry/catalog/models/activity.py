"""What was done: builds with their staging rows, and queries with their hits."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from registry.catalog.models.base import Base, Id

_RUNNING = text("status = 'running'")


class BuildRow(Base):
    """One run of ``build`` on a corpus."""

    __tablename__ = "builds"
    __table_args__ = (
        CheckConstraint("status IN ('running', 'finished', 'failed', 'interrupted')", name="status_known"),
        CheckConstraint("(status = 'running') = (finished_at IS NULL)", name="finished_at_when_over"),
        CheckConstraint("sources >= 0 AND documents >= 0 AND places >= 0 AND skipped >= 0", name="inputs_not_negative"),
        CheckConstraint("reused >= 0 AND trained >= 0 AND size_bytes >= 0", name="adapters_not_negative"),
        CheckConstraint("without_augmentation >= 0", name="without_augmentation_not_negative"),
        # A corpus is built by one process at a time, whatever the processes believe.
        Index("uq_builds_running", "corpus_id", unique=True, sqlite_where=_RUNNING, postgresql_where=_RUNNING),
        Index(None, "corpus_id"),
        Index(None, "recipe_id"),
        {"comment": "Runs of `pragreg build`, with who ran them and what came of it."},
    )

    id: Mapped[Id]
    corpus_id: Mapped[int] = mapped_column(ForeignKey("corpora.id"))
    recipe_id: Mapped[int] = mapped_column(ForeignKey("recipes.id"))
    message: Mapped[str]
    who: Mapped[str] = mapped_column(comment="user name")
    host: Mapped[str]
    pid: Mapped[int] = mapped_column(comment="process id on that host")
    status: Mapped[str] = mapped_column(comment="running, finished, failed or interrupted")
    error: Mapped[str | None] = mapped_column(comment="why it failed")
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    sources: Mapped[int] = mapped_column(default=0)
    documents: Mapped[int] = mapped_column(default=0, comment="distinct documents in the sources")
    places: Mapped[int] = mapped_column(default=0)
    reused: Mapped[int] = mapped_column(default=0, comment="adapters that were already there")
    trained: Mapped[int] = mapped_column(default=0, comment="adapters made by this build")
    skipped: Mapped[int] = mapped_column(default=0, comment="invalid inputs left out")
    without_augmentation: Mapped[int] = mapped_column(default=0, comment="documents encoded from their own text only")
    size_bytes: Mapped[int] = mapped_column(default=0, comment="bytes of adapters written")


class BuildItemRow(Base):
    """A place read by a running build."""

    __tablename__ = "build_items"
    __table_args__ = (
        CheckConstraint("ordinal >= 0", name="ordinal_not_negative"),
        Index(None, "build_id", "document_id"),
        {"comment": "Staging: the places that a running build has read. Emptied when the build ends."},
    )

    build_id: Mapped[int] = mapped_column(ForeignKey("builds.id"), primary_key=True)
    source_id: Mapped[int] = mapped_column(ForeignKey("sources.id"), primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    record_id: Mapped[str | None]
    document_id: Mapped[int] = mapped_column(ForeignKey("documents.id"))


class BuildAdapterRow(Base):
    """The adapter that a running build gives a document."""

    __tablename__ = "build_adapters"
    __table_args__ = (
        {"comment": "Staging: the adapters that a running build gives its documents. Emptied when the build ends."},
    )

    build_id: Mapped[int] = mapped_column(ForeignKey("builds.id"), primary_key=True)
    document_id: Mapped[int] = mapped_column(ForeignKey("documents.id"), primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"))


class QueryRow(Base):
    """An answered question."""

    __tablename__ = "queries"
    __table_args__ = (
        ForeignKeyConstraint(["corpus_id", "version"], ["versions.corpus_id", "versions.number"]),
        CheckConstraint("mode IN ('prag', 'combined', 'rag', 'closed-book')", name="mode_known"),
        CheckConstraint("prompt_tokens >= 0 AND answer_tokens >= 0", name="tokens_not_negative"),
        Index(None, "corpus_id", "version"),
        {"comment": "Answered questions, with all that explains the answer. `--no-log` leaves them out."},
    )

    id: Mapped[Id]
    corpus_id: Mapped[int | None] = mapped_column(ForeignKey("corpora.id"), comment="null: no corpus was asked")
    version: Mapped[int | None]
    recipe_id: Mapped[int | None] = mapped_column(ForeignKey("recipes.id"))
    base_model_id: Mapped[int | None] = mapped_column(ForeignKey("base_models.id"))
    mode: Mapped[str] = mapped_column(comment="prag, combined, rag or closed-book")
    question: Mapped[str]
    answer: Mapped[str]
    prompt_tokens: Mapped[int]
    answer_tokens: Mapped[int]
    search_ms: Mapped[float | None] = mapped_column(comment="milliseconds; null where the mode has no such step")
    load_ms: Mapped[float | None]
    merge_ms: Mapped[float | None]
    inject_ms: Mapped[float | None]
    prefill_ms: Mapped[float | None]
    decode_ms: Mapped[float | None]
    created_at: Mapped[datetime]


class QueryHitRow(Base):
    """A document that was retrieved for a question."""

    __tablename__ = "query_hits"
    __table_args__ = (
        UniqueConstraint("query_id", "document_id"),
        CheckConstraint("rank > 0", name="rank_positive"),
        Index(None, "document_id"),
        Index(None, "adapter_id"),
        {"comment": "The documents that were retrieved for a question."},
    )

    query_id: Mapped[int] = mapped_column(ForeignKey("queries.id"), primary_key=True)
    rank: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, comment="from 1, best first")
    score: Mapped[float] = mapped_column(comment="BM25")
    weight: Mapped[float | None] = mapped_column(comment="of its adapter in the merge; null where none was merged")
    document_id: Mapped[int] = mapped_column(ForeignKey("documents.id"))
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"))
