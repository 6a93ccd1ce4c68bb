"""Task adapters with the questions that they were trained on, and evaluations with their results."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002_task_adapters_evaluations"
down_revision = "0001_catalog"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
FLOAT = sa.Float(precision=53)
DIGEST = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the tables, referred ones first."""
    _create_task_adapters()
    _create_task_adapter_questions()
    _create_evaluations()
    _create_evaluation_results()
    _create_evaluation_scores()


def downgrade() -> None:
    """Drop the tables with their indexes, referring ones first."""
    for table in (
        "evaluation_scores",
        "evaluation_results",
        "evaluations",
        "task_adapter_questions",
        "task_adapters",
    ):
        op.drop_table(table)


def _create_task_adapters() -> None:
    op.create_table(
        "task_adapters",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("digest", DIGEST, nullable=False, comment="sha256 of the adapter's safetensors bytes"),
        sa.Column("recipe_id", INTEGER, nullable=False, comment="the recipe that it was trained by"),
        sa.Column("name", sa.Text(), nullable=False, comment="given by its maker, not unique; empty for none"),
        sa.Column("questions_digest", DIGEST, nullable=False, comment="sha256 over the question-answer pairs together"),
        sa.Column("questions", INTEGER, nullable=False, comment="number of question-answer pairs"),
        sa.Column("pack_id", INTEGER, nullable=True, comment="the pack that holds it alone; null: its bytes are lost"),
        sa.Column("offset", INTEGER, nullable=True, comment="bytes from the start of the file"),
        sa.Column("size_bytes", INTEGER, nullable=False),
        sa.Column("parameters", INTEGER, nullable=False),
        sa.Column("examples", INTEGER, nullable=False, comment="training examples"),
        sa.Column("tokens", INTEGER, nullable=False, comment="tokens passed through the model, all epochs together"),
        sa.Column("steps", INTEGER, nullable=False, comment="optimiser steps"),
        sa.Column("first_loss", FLOAT, nullable=False, comment="nats a token, first step"),
        sa.Column("last_loss", FLOAT, nullable=False, comment="nats a token, last step"),
        sa.Column("elapsed_seconds", FLOAT, nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("dtype", sa.Text(), nullable=False, comment="of the frozen base's computation"),
        sa.Column("group_size", INTEGER, nullable=False, comment="adapters trained in the same pass"),
        sa.Column("library_versions", sa.JSON(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint('"offset" >= 0', name=op.f("ck_task_adapters_offset_not_negative")),
        sa.CheckConstraint('(pack_id IS NULL) = ("offset" IS NULL)', name=op.f("ck_task_adapters_offset_when_in_pack")),
        sa.CheckConstraint(
            "examples >= 0 AND tokens >= 0 AND steps >= 0 AND group_size > 0 AND elapsed_seconds >= 0",
            name=op.f("ck_task_adapters_measurements_not_negative"),
        ),
        sa.CheckConstraint("length(digest) = 64", name=op.f("ck_task_adapters_digest_length")),
        sa.CheckConstraint("length(questions_digest) = 64", name=op.f("ck_task_adapters_questions_digest_length")),
        sa.CheckConstraint("questions > 0", name=op.f("ck_task_adapters_questions_positive")),
        sa.CheckConstraint("size_bytes > 0 AND parameters > 0", name=op.f("ck_task_adapters_not_empty")),
        sa.ForeignKeyConstraint(["pack_id"], ["packs.id"], name=op.f("fk_task_adapters_pack_id_packs")),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipes.id"], name=op.f("fk_task_adapters_recipe_id_recipes")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task_adapters")),
        sa.UniqueConstraint("digest", name=op.f("uq_task_adapters_digest")),
        comment="Adapters trained from question-answer pairs, from which the adapters of documents start.",
    )
    op.create_index(op.f("ix_task_adapters_pack_id"), "task_adapters", ["pack_id"])
    op.create_index(op.f("ix_task_adapters_recipe_id"), "task_adapters", ["recipe_id"])


def _create_task_adapter_questions() -> None:
    op.create_table(
        "task_adapter_questions",
        sa.Column("task_adapter_id", INTEGER, nullable=False),
        sa.Column("question_digest", DIGEST, nullable=False, comment="sha256 of the normalised question"),
        sa.CheckConstraint(
            "length(question_digest) = 64", name=op.f("ck_task_adapter_questions_question_digest_length")
        ),
        sa.ForeignKeyConstraint(
            ["task_adapter_id"],
            ["task_adapters.id"],
            name=op.f("fk_task_adapter_questions_task_adapter_id_task_adapters"),
        ),
        sa.PrimaryKeyConstraint("task_adapter_id", "question_digest", name=op.f("pk_task_adapter_questions")),
        comment="The questions that task adapters were trained on, by digest.",
    )
    op.create_index(op.f("ix_task_adapter_questions_question_digest"), "task_adapter_questions", ["question_digest"])


def _create_evaluations() -> None:
    op.create_table(
        "evaluations",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("corpus_id", INTEGER, nullable=False),
        sa.Column("version", INTEGER, nullable=False),
        sa.Column("recipe_id", INTEGER, nullable=False),
        sa.Column(
            "questions_name", sa.Text(), nullable=False, comment="what people call the questions: their file's name"
        ),
        sa.Column("questions_digest", DIGEST, nullable=False, comment="sha256 of the question file"),
        sa.Column("questions", INTEGER, nullable=False, comment="number of questions asked"),
        sa.Column("sample", INTEGER, nullable=True, comment="so many questions were to be drawn; null: all were asked"),
        sa.Column("seed", INTEGER, nullable=False, comment="of the sample and of the intervals' bootstrap"),
        sa.Column(
            "gold",
            sa.Boolean(),
            nullable=False,
            comment="whether each question got its own documents instead of the index's",
        ),
        sa.Column("dtype", sa.Text(), nullable=False, comment="of the base model's computation"),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("program_version", sa.Text(), nullable=False, comment="of pragreg"),
        sa.Column("folder", sa.Text(), nullable=False, comment="where the answers and the report lie; empty: nowhere"),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint("length(questions_digest) = 64", name=op.f("ck_evaluations_questions_digest_length")),
        sa.CheckConstraint("questions > 0 AND sample > 0", name=op.f("ck_evaluations_questions_positive")),
        sa.ForeignKeyConstraint(
            ["corpus_id", "version"],
            ["versions.corpus_id", "versions.number"],
            name=op.f("fk_evaluations_corpus_id_version_versions"),
        ),
        sa.ForeignKeyConstraint(["corpus_id"], ["corpora.id"], name=op.f("fk_evaluations_corpus_id_corpora")),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipes.id"], name=op.f("fk_evaluations_recipe_id_recipes")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluations")),
        comment="Runs of `pragreg evaluate`: which questions were put to which version, and by what.",
    )
    op.create_index(op.f("ix_evaluations_corpus_id_version"), "evaluations", ["corpus_id", "version"])
    op.create_index(op.f("ix_evaluations_recipe_id"), "evaluations", ["recipe_id"])


def _create_evaluation_results() -> None:
    op.create_table(
        "evaluation_results",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("evaluation_id", INTEGER, nullable=False),
        sa.Column(
            "mode",
            sa.Text(),
            nullable=False,
            comment="closed-book, rag, prag, combined, wrong-document, task-only, or retrieval without an answer",
        ),
        sa.Column("k", INTEGER, nullable=False, comment="documents a question; 0 where the mode takes none"),
        sa.Column(
            "merge", sa.Text(), nullable=False, comment="how adapters were weighted; empty where none was merged"
        ),
        sa.Column(
            "question_type", sa.Text(), nullable=False, comment="as the question file calls it; empty: all questions"
        ),
        sa.Column("questions", INTEGER, nullable=False, comment="number of questions of that type"),
        sa.Column("prompt_tokens", FLOAT, nullable=False, comment="mean length of a prompt"),
        sa.Column("mean_ms", FLOAT, nullable=False, comment="milliseconds a question, mean"),
        sa.Column("p95_ms", FLOAT, nullable=False, comment="milliseconds a question, 95th percentile"),
        sa.CheckConstraint("k >= 0 AND questions >= 0", name=op.f("ck_evaluation_results_counts_not_negative")),
        sa.CheckConstraint(
            "mode IN ('closed-book', 'rag', 'prag', 'combined', 'wrong-document', 'task-only', 'retrieval')",
            name=op.f("ck_evaluation_results_mode_known"),
        ),
        sa.CheckConstraint(
            "prompt_tokens >= 0 AND mean_ms >= 0 AND p95_ms >= 0",
            name=op.f("ck_evaluation_results_measurements_not_negative"),
        ),
        sa.ForeignKeyConstraint(
            ["evaluation_id"], ["evaluations.id"], name=op.f("fk_evaluation_results_evaluation_id_evaluations")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluation_results")),
        sa.UniqueConstraint(
            "evaluation_id",
            "mode",
            "k",
            "merge",
            "question_type",
            name=op.f("uq_evaluation_results_evaluation_id_mode_k_merge_question_type"),
        ),
        comment="Ways of answering in an evaluation, with what they cost a question.",
    )


def _create_evaluation_scores() -> None:
    op.create_table(
        "evaluation_scores",
        sa.Column("result_id", INTEGER, nullable=False),
        sa.Column("measure", sa.Text(), nullable=False),
        sa.Column("mean", FLOAT, nullable=False),
        sa.Column("low", FLOAT, nullable=False, comment="lower bound of the bootstrap interval of 95 %"),
        sa.Column("high", FLOAT, nullable=False, comment="upper bound of it"),
        sa.CheckConstraint("low <= high", name=op.f("ck_evaluation_scores_interval_ordered")),
        sa.ForeignKeyConstraint(
            ["result_id"], ["evaluation_results.id"], name=op.f("fk_evaluation_scores_result_id_evaluation_results")
        ),
        sa.PrimaryKeyConstraint("result_id", "measure", name=op.f("pk_evaluation_scores")),
        comment="Measures of results: exact_match, f1, recall_at_10 and the like, each from 0 to 1.",
    )
