"""What is made once and never changes: base models, recipes, documents, augmentations, all adapters, packs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, ForeignKey, Index, UniqueConstraint, false, text
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.orm import Mapped, mapped_column

from registry.catalog.models.base import Base, Digest, Id
from registry.digests import text_key

# As SQLAlchemy writes the condition for SQLite and for PostgreSQL.
_IS_WITHHELD = (text("withheld = 1"), text("withheld"))


def _text_key_of_row(context: DefaultExecutionContext) -> int:
    return text_key(context.get_current_parameters()["text"])  # type: ignore[no-untyped-call]


class BaseModelRow(Base):
    """A frozen causal LM, pinned."""

    __tablename__ = "base_models"
    __table_args__ = (
        UniqueConstraint("fingerprint"),
        CheckConstraint("length(fingerprint) = 64", name="fingerprint_length"),
        CheckConstraint("parameters >= 0", name="parameters_not_negative"),
        {"comment": "Frozen causal language models, each pinned by a fingerprint over all that decides its outputs."},
    )

    id: Mapped[Id]
    fingerprint: Mapped[Digest] = mapped_column(comment="sha256 over config, tokenizer, chat template and weights")
    reference: Mapped[str] = mapped_column(comment="what the user named: Hub id, path or alias")
    revision: Mapped[str | None] = mapped_column(comment="commit that a Hub id was resolved to; null for local files")
    architecture: Mapped[str] = mapped_column(comment="class name in the model's config")
    parameters: Mapped[int]
    created_at: Mapped[datetime]


class RecipeRow(Base):
    """Everything besides the document that decides an adapter's bytes."""

    __tablename__ = "recipes"
    __table_args__ = (
        UniqueConstraint("digest"),
        CheckConstraint("length(digest) = 64", name="digest_length"),
        Index(None, "base_model_id"),
        {"comment": "Everything besides the document that decides an adapter's bytes."},
    )

    id: Mapped[Id]
    digest: Mapped[Digest] = mapped_column(comment="sha256 of the canonical JSON of settings")
    base_model_id: Mapped[int] = mapped_column(ForeignKey("base_models.id"))
    settings: Mapped[dict[str, Any]] = mapped_column(JSON, comment="the recipe's canonical JSON")
    created_at: Mapped[datetime]


class SourceRow(Base):
    """Where documents came from."""

    __tablename__ = "sources"
    __table_args__ = (
        UniqueConstraint("uri"),
        {"comment": "Where documents came from: a file, or a record in one."},
    )

    id: Mapped[Id]
    uri: Mapped[str]
    created_at: Mapped[datetime]


class DocumentRow(Base):
    """The unit that is retrieved and encoded."""

    __tablename__ = "documents"
    __table_args__ = (
        UniqueConstraint("digest"),
        CheckConstraint("length(digest) = 64", name="digest_length"),
        CheckConstraint("characters >= 0", name="characters_not_negative"),
        Index(None, "text_key"),
        Index("ix_documents_withheld", "id", sqlite_where=_IS_WITHHELD[0], postgresql_where=_IS_WITHHELD[1]),
        {"comment": "The units that are retrieved and encoded: titles and passages, normalised."},
    )

    id: Mapped[Id]
    digest: Mapped[Digest] = mapped_column(comment="sha256 of the canonical JSON of title and text")
    title: Mapped[str]
    text: Mapped[str]
    characters: Mapped[int] = mapped_column(comment="length of the text in Unicode code points")
    created_at: Mapped[datetime]
    text_key: Mapped[int] = mapped_column(
        server_default="0",
        default=_text_key_of_row,
        comment="the first 8 bytes of the sha256 of the text, as a signed number; equal for equal texts",
    )
    withheld: Mapped[bool] = mapped_column(
        server_default=false(), comment="title and text are not here, only what they are: their digest"
    )


class AugmentationRow(Base):
    """The rewrites and question-answer pairs of one document."""

    __tablename__ = "augmentations"
    __table_args__ = (
        UniqueConstraint("digest"),
        CheckConstraint("length(digest) = 64", name="digest_length"),
        CheckConstraint("rewrites >= 0 AND pairs >= 0", name="counts_not_negative"),
        Index(None, "document_id"),
        # Covers the report on augmentations; by id, so that the requests are met in their order.
        Index("ix_augmentations_yield", "generator", "prompts_version", "id", "rewrites", "pairs"),
        Index("ix_augmentations_withheld", "id", sqlite_where=_IS_WITHHELD[0], postgresql_where=_IS_WITHHELD[1]),
        {"comment": "Rewrites and question-answer pairs generated from one document, as they came."},
    )

    id: Mapped[Id]
    digest: Mapped[Digest] = mapped_column(comment="sha256 over document, generator, prompts version and payload")
    document_id: Mapped[int] = mapped_column(ForeignKey("documents.id"))
    generator: Mapped[str] = mapped_column(comment="who wrote it: a model, an endpoint's model, or an import")
    prompts_version: Mapped[str]
    # Not PostgreSQL's JSONB: that refuses the escape of a NUL, which a model may well generate.
    payload: Mapped[dict[str, Any]] = mapped_column(JSON, comment='{"rewrites": [...], "qa": [{"question": ...}]}')
    rewrites: Mapped[int] = mapped_column(comment="number of rewrites in the payload")
    pairs: Mapped[int] = mapped_column(comment="number of question-answer pairs in the payload")
    created_at: Mapped[datetime]
    withheld: Mapped[bool] = mapped_column(
        server_default=false(), comment="the payload is not here, only what it is: its digest and counts"
    )


class AugmentationRequestRow(Base):
    """What was asked for a document, and the augmentation that it got; looked up before any work.

    A table of its own, because two requests may have got the same augmentation (an import asked for with other counts).
    """

    __tablename__ = "augmentation_requests"
    __table_args__ = (
        CheckConstraint("length(request_digest) = 64", name="request_digest_length"),
        CheckConstraint("dropped_pairs >= 0 AND dropped_rewrites >= 0", name="dropped_not_negative"),
        CheckConstraint("tokens >= 0 AND elapsed_seconds >= 0", name="measurements_not_negative"),
        Index(
            "ix_augmentation_requests_drops",
            "augmentation_id",
            "dropped_pairs",
            "dropped_rewrites",
            "tokens",
            "elapsed_seconds",
        ),
        {"comment": "What was asked for a document, and the augmentation that it got."},
    )

    document_id: Mapped[int] = mapped_column(ForeignKey("documents.id"), primary_key=True)
    request_digest: Mapped[Digest] = mapped_column(
        primary_key=True, comment="sha256 over generator, its settings and the prompts version"
    )
    augmentation_id: Mapped[int] = mapped_column(ForeignKey("augmentations.id"))
    dropped_pairs: Mapped[int] = mapped_column(comment="pairs that failed the grounding check")
    dropped_rewrites: Mapped[int] = mapped_column(comment="rewrites that failed it")
    tokens: Mapped[int] = mapped_column(comment="tokens generated; 0 for imports")
    elapsed_seconds: Mapped[float]
    created_at: Mapped[datetime]


class TrainedColumns:
    """How an adapter was trained; the columns are called like the fields of ``Training``."""

    examples: Mapped[int] = mapped_column(comment="training examples")
    tokens: Mapped[int] = mapped_column(comment="tokens passed through the model, all epochs together")
    steps: Mapped[int] = mapped_column(comment="optimiser steps")
    first_loss: Mapped[float] = mapped_column(comment="nats a token, first step")
    last_loss: Mapped[float] = mapped_column(comment="nats a token, last step")
    elapsed_seconds: Mapped[float]
    device: Mapped[str]
    dtype: Mapped[str] = mapped_column(comment="of the frozen base's computation")
    group_size: Mapped[int] = mapped_column(comment="adapters trained in the same pass")
    library_versions: Mapped[dict[str, str]] = mapped_column(JSON)


class AdapterRow(TrainedColumns, Base):
    """A low-rank adapter, and how it first came to be."""

    __tablename__ = "adapters"
    __table_args__ = (
        UniqueConstraint("digest"),
        CheckConstraint("length(digest) = 64", name="digest_length"),
        CheckConstraint("size_bytes > 0 AND parameters > 0", name="not_empty"),
        CheckConstraint(
            "examples >= 0 AND tokens >= 0 AND steps >= 0 AND group_size > 0 AND elapsed_seconds >= 0",
            name="measurements_not_negative",
        ),
        Index(None, "document_id"),
        # Covers the reports on storage, cost, loss and time: a scan of it is a twentieth of one of the table.
        Index("ix_adapters_training", "recipe_id", "build_id", "last_loss", "elapsed_seconds", "tokens", "size_bytes"),
        {"comment": "Adapters, identified by their bytes, and how each first came to be."},
    )

    id: Mapped[Id]
    digest: Mapped[Digest] = mapped_column(comment="sha256 of the adapter's safetensors bytes")
    document_id: Mapped[int] = mapped_column(ForeignKey("documents.id"))
    augmentation_id: Mapped[int] = mapped_column(ForeignKey("augmentations.id"))
    recipe_id: Mapped[int] = mapped_column(ForeignKey("recipes.id"))
    build_id: Mapped[int | None] = mapped_column(ForeignKey("builds.id"), comment="the build that made it")
    kind: Mapped[str] = mapped_column(comment="lora")
    producer: Mapped[str] = mapped_column(comment="trained: by gradient descent on this adapter alone")
    size_bytes: Mapped[int]
    parameters: Mapped[int]
    elapsed_seconds: Mapped[float] = mapped_column(comment="this adapter's share of its group's time")
    created_at: Mapped[datetime]


class AdapterInputRow(Base):
    """Which adapter an augmented document gives under a recipe; looked up before any training.

    A table of its own, because two recipes may give the same bytes (they differ in a setting that had no effect).
    """

    __tablename__ = "adapter_inputs"
    __table_args__ = (
        Index("ix_adapter_inputs_recipes", "adapter_id", "recipe_id"),
        {"comment": "Which adapter an augmented document gives under a recipe."},
    )

    augmentation_id: Mapped[int] = mapped_column(ForeignKey("augmentations.id"), primary_key=True)
    recipe_id: Mapped[int] = mapped_column(ForeignKey("recipes.id"), primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"))


class PackRow(Base):
    """An immutable safetensors file of adapters. Derived: the rows can be rebuilt from the files."""

    __tablename__ = "packs"
    __table_args__ = (
        UniqueConstraint("digest"),
        CheckConstraint("length(digest) = 64", name="digest_length"),
        CheckConstraint("size_bytes > 0", name="not_empty"),
        Index(None, "build_id"),
        {"comment": "Immutable safetensors files that hold adapters."},
    )

    id: Mapped[Id]
    digest: Mapped[Digest] = mapped_column(comment="sha256 of the file")
    size_bytes: Mapped[int]
    build_id: Mapped[int | None] = mapped_column(ForeignKey("builds.id"), comment="the build that wrote it")
    created_at: Mapped[datetime]


class AdapterLocationRow(Base):
    """Where an adapter lies: what the headers of the packs say. An adapter may lie in several packs."""

    __tablename__ = "adapter_locations"
    __table_args__ = (
        UniqueConstraint("pack_id", "offset"),
        CheckConstraint('"offset" >= 0 AND size_bytes > 0', name="range_not_empty"),
        {"comment": "Where adapters lie in packs."},
    )

    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"), primary_key=True)
    pack_id: Mapped[int] = mapped_column(ForeignKey("packs.id"), primary_key=True)
    offset: Mapped[int] = mapped_column(comment="bytes from the start of the file")
    size_bytes: Mapped[int]


class TaskAdapterRow(TrainedColumns, Base):
    """An adapter trained from question-answer pairs, from which documents' adapters start, and how it came to be.

    It lies in a pack of its own, which has no row in adapter_locations. Where that pack is lost, the row stays: the
    digests of its training questions must be known as long as any adapter that started from it is asked.
    """

    __tablename__ = "task_adapters"
    __table_args__ = (
        UniqueConstraint("digest"),
        CheckConstraint("length(digest) = 64", name="digest_length"),
        CheckConstraint("length(questions_digest) = 64", name="questions_digest_length"),
        CheckConstraint("size_bytes > 0 AND parameters > 0", name="not_empty"),
        CheckConstraint('(pack_id IS NULL) = ("offset" IS NULL)', name="offset_when_in_pack"),
        CheckConstraint('"offset" >= 0', name="offset_not_negative"),
        CheckConstraint("questions > 0", name="questions_positive"),
        CheckConstraint(
            "examples >= 0 AND tokens >= 0 AND steps >= 0 AND group_size > 0 AND elapsed_seconds >= 0",
            name="measurements_not_negative",
        ),
        Index(None, "recipe_id"),
        Index(None, "pack_id"),
        {"comment": "Adapters trained from question-answer pairs, from which the adapters of documents start."},
    )

    id: Mapped[Id]
    digest: Mapped[Digest] = mapped_column(comment="sha256 of the adapter's safetensors bytes")
    recipe_id: Mapped[int] = mapped_column(ForeignKey("recipes.id"), comment="the recipe that it was trained by")
    name: Mapped[str] = mapped_column(comment="given by its maker, not unique; empty for none")
    questions_digest: Mapped[Digest] = mapped_column(comment="sha256 over the question-answer pairs together")
    questions: Mapped[int] = mapped_column(comment="number of question-answer pairs")
    pack_id: Mapped[int | None] = mapped_column(
        ForeignKey("packs.id"), comment="the pack that holds it alone; null: its bytes are lost"
    )
    offset: Mapped[int | None] = mapped_column(comment="bytes from the start of the file")
    size_bytes: Mapped[int]
    parameters: Mapped[int]
    created_at: Mapped[datetime]


class TaskAdapterQuestionRow(Base):
    """A question that a task adapter was trained on; an evaluation on it would measure nothing."""

    __tablename__ = "task_adapter_questions"
    __table_args__ = (
        CheckConstraint("length(question_digest) = 64", name="question_digest_length"),
        Index(None, "question_digest"),
        {"comment": "The questions that task adapters were trained on, by digest."},
    )

    task_adapter_id: Mapped[int] = mapped_column(ForeignKey("task_adapters.id"), primary_key=True)
    question_digest: Mapped[Digest] = mapped_column(primary_key=True, comment="sha256 of the normalised question")
