"""The catalog."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001_catalog"
down_revision = None
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
DIGEST = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create all tables, referred ones first."""
    _create_base_models()
    _create_corpora()
    _create_documents()
    _create_sources()
    _create_augmentations()
    _create_recipes()
    _create_augmentation_requests()
    _create_builds()
    _create_adapters()
    _create_build_items()
    _create_packs()
    _create_versions()
    _create_adapter_inputs()
    _create_adapter_locations()
    _create_alias_moves()
    _create_aliases()
    _create_build_adapters()
    _create_memberships()
    _create_places()
    _create_queries()
    _create_query_hits()


def downgrade() -> None:
    """Drop all tables with their indexes, referring ones first."""
    for table in (
        "query_hits",
        "queries",
        "places",
        "memberships",
        "build_adapters",
        "aliases",
        "alias_moves",
        "adapter_locations",
        "adapter_inputs",
        "versions",
        "packs",
        "build_items",
        "adapters",
        "builds",
        "augmentation_requests",
        "recipes",
        "augmentations",
        "sources",
        "documents",
        "corpora",
        "base_models",
    ):
        op.drop_table(table)


def _create_base_models() -> None:
    op.create_table(
        "base_models",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column(
            "fingerprint", DIGEST, nullable=False, comment="sha256 over config, tokenizer, chat template and weights"
        ),
        sa.Column("reference", sa.Text(), nullable=False, comment="what the user named: Hub id, path or alias"),
        sa.Column(
            "revision", sa.Text(), nullable=True, comment="commit that a Hub id was resolved to; null for local files"
        ),
        sa.Column("architecture", sa.Text(), nullable=False, comment="class name in the model's config"),
        sa.Column("parameters", INTEGER, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint("length(fingerprint) = 64", name=op.f("ck_base_models_fingerprint_length")),
        sa.CheckConstraint("parameters >= 0", name=op.f("ck_base_models_parameters_not_negative")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_base_models")),
        sa.UniqueConstraint("fingerprint", name=op.f("uq_base_models_fingerprint")),
        comment="Frozen causal language models, each pinned by a fingerprint over all that decides its outputs.",
    )


def _create_corpora() -> None:
    op.create_table(
        "corpora",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "language", sa.Text(), nullable=False, comment="how its text is analysed by the index; an ISO 639-1 code"
        ),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_corpora")),
        sa.UniqueConstraint("name", name=op.f("uq_corpora_name")),
        comment="Named collections of documents: what is built and queried.",
    )


def _create_documents() -> None:
    op.create_table(
        "documents",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("digest", DIGEST, nullable=False, comment="sha256 of the canonical JSON of title and text"),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("characters", INTEGER, nullable=False, comment="length of the text in Unicode code points"),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint("characters >= 0", name=op.f("ck_documents_characters_not_negative")),
        sa.CheckConstraint("length(digest) = 64", name=op.f("ck_documents_digest_length")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_documents")),
        sa.UniqueConstraint("digest", name=op.f("uq_documents_digest")),
        comment="The units that are retrieved and encoded: titles and passages, normalised.",
    )


def _create_sources() -> None:
    op.create_table(
        "sources",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sources")),
        sa.UniqueConstraint("uri", name=op.f("uq_sources_uri")),
        comment="Where documents came from: a file, or a record in one.",
    )


def _create_augmentations() -> None:
    op.create_table(
        "augmentations",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column(
            "digest", DIGEST, nullable=False, comment="sha256 over document, generator, prompts version and payload"
        ),
        sa.Column("document_id", INTEGER, nullable=False),
        sa.Column(
            "generator", sa.Text(), nullable=False, comment="who wrote it: a model, an endpoint's model, or an import"
        ),
        sa.Column("prompts_version", sa.Text(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False, comment='{"rewrites": [...], "qa": [{"question": ...}]}'),
        sa.Column("rewrites", INTEGER, nullable=False, comment="number of rewrites in the payload"),
        sa.Column("pairs", INTEGER, nullable=False, comment="number of question-answer pairs in the payload"),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint("length(digest) = 64", name=op.f("ck_augmentations_digest_length")),
        sa.CheckConstraint("rewrites >= 0 AND pairs >= 0", name=op.f("ck_augmentations_counts_not_negative")),
        sa.ForeignKeyConstraint(["document_id"], ["documents.id"], name=op.f("fk_augmentations_document_id_documents")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_augmentations")),
        sa.UniqueConstraint("digest", name=op.f("uq_augmentations_digest")),
        comment="Rewrites and question-answer pairs generated from one document, as they came.",
    )
    op.create_index(op.f("ix_augmentations_document_id"), "augmentations", ["document_id"])


def _create_recipes() -> None:
    op.create_table(
        "recipes",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("digest", DIGEST, nullable=False, comment="sha256 of the canonical JSON of settings"),
        sa.Column("base_model_id", INTEGER, nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False, comment="the recipe's canonical JSON"),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint("length(digest) = 64", name=op.f("ck_recipes_digest_length")),
        sa.ForeignKeyConstraint(
            ["base_model_id"], ["base_models.id"], name=op.f("fk_recipes_base_model_id_base_models")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_recipes")),
        sa.UniqueConstraint("digest", name=op.f("uq_recipes_digest")),
        comment="Everything besides the document that decides an adapter's bytes.",
    )
    op.create_index(op.f("ix_recipes_base_model_id"), "recipes", ["base_model_id"])


def _create_augmentation_requests() -> None:
    op.create_table(
        "augmentation_requests",
        sa.Column("document_id", INTEGER, nullable=False),
        sa.Column(
            "request_digest",
            DIGEST,
            nullable=False,
            comment="sha256 over generator, its settings and the prompts version",
        ),
        sa.Column("augmentation_id", INTEGER, nullable=False),
        sa.Column("dropped_pairs", INTEGER, nullable=False, comment="pairs that failed the grounding check"),
        sa.Column("dropped_rewrites", INTEGER, nullable=False, comment="rewrites that failed it"),
        sa.Column("tokens", INTEGER, nullable=False, comment="tokens generated; 0 for imports"),
        sa.Column("elapsed_seconds", sa.Float(precision=53), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint(
            "dropped_pairs >= 0 AND dropped_rewrites >= 0", name=op.f("ck_augmentation_requests_dropped_not_negative")
        ),
        sa.CheckConstraint("length(request_digest) = 64", name=op.f("ck_augmentation_requests_request_digest_length")),
        sa.CheckConstraint(
            "tokens >= 0 AND elapsed_seconds >= 0", name=op.f("ck_augmentation_requests_measurements_not_negative")
        ),
        sa.ForeignKeyConstraint(
            ["augmentation_id"],
            ["augmentations.id"],
            name=op.f("fk_augmentation_requests_augmentation_id_augmentations"),
        ),
        sa.ForeignKeyConstraint(
            ["document_id"], ["documents.id"], name=op.f("fk_augmentation_requests_document_id_documents")
        ),
        sa.PrimaryKeyConstraint("document_id", "request_digest", name=op.f("pk_augmentation_requests")),
        comment="What was asked for a document, and the augmentation that it got.",
    )
    op.create_index(op.f("ix_augmentation_requests_augmentation_id"), "augmentation_requests", ["augmentation_id"])


def _create_builds() -> None:
    op.create_table(
        "builds",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("corpus_id", INTEGER, nullable=False),
        sa.Column("recipe_id", INTEGER, nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False, comment="user name"),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", INTEGER, nullable=False, comment="process id on that host"),
        sa.Column("status", sa.Text(), nullable=False, comment="running, finished, failed or interrupted"),
        sa.Column("error", sa.Text(), nullable=True, comment="why it failed"),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("finished_at", MOMENT, nullable=True),
        sa.Column("sources", INTEGER, nullable=False),
        sa.Column("documents", INTEGER, nullable=False, comment="distinct documents in the sources"),
        sa.Column("places", INTEGER, nullable=False),
        sa.Column("reused", INTEGER, nullable=False, comment="adapters that were already there"),
        sa.Column("trained", INTEGER, nullable=False, comment="adapters made by this build"),
        sa.Column("skipped", INTEGER, nullable=False, comment="invalid inputs left out"),
        sa.Column(
            "without_augmentation", INTEGER, nullable=False, comment="documents encoded from their own text only"
        ),
        sa.Column("size_bytes", INTEGER, nullable=False, comment="bytes of adapters written"),
        sa.CheckConstraint(
            "(status = 'running') = (finished_at IS NULL)", name=op.f("ck_builds_finished_at_when_over")
        ),
        sa.CheckConstraint(
            "status IN ('running', 'finished', 'failed', 'interrupted')", name=op.f("ck_builds_status_known")
        ),
        sa.CheckConstraint(
            "reused >= 0 AND trained >= 0 AND size_bytes >= 0", name=op.f("ck_builds_adapters_not_negative")
        ),
        sa.CheckConstraint(
            "sources >= 0 AND documents >= 0 AND places >= 0 AND skipped >= 0",
            name=op.f("ck_builds_inputs_not_negative"),
        ),
        sa.CheckConstraint("without_augmentation >= 0", name=op.f("ck_builds_without_augmentation_not_negative")),
        sa.ForeignKeyConstraint(["corpus_id"], ["corpora.id"], name=op.f("fk_builds_corpus_id_corpora")),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipes.id"], name=op.f("fk_builds_recipe_id_recipes")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_builds")),
        comment="Runs of `pragreg build`, with who ran them and what came of it.",
    )
    op.create_index(op.f("ix_builds_corpus_id"), "builds", ["corpus_id"])
    op.create_index(op.f("ix_builds_recipe_id"), "builds", ["recipe_id"])
    op.create_index(
        "uq_builds_running",
        "builds",
        ["corpus_id"],
        unique=True,
        sqlite_where=sa.text("status = 'running'"),
        postgresql_where=sa.text("status = 'running'"),
    )


def _create_adapters() -> None:
    op.create_table(
        "adapters",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("digest", DIGEST, nullable=False, comment="sha256 of the adapter's safetensors bytes"),
        sa.Column("document_id", INTEGER, nullable=False),
        sa.Column("augmentation_id", INTEGER, nullable=False),
        sa.Column("recipe_id", INTEGER, nullable=False),
        sa.Column("build_id", INTEGER, nullable=True, comment="the build that made it"),
        sa.Column("kind", sa.Text(), nullable=False, comment="lora"),
        sa.Column("producer", sa.Text(), nullable=False, comment="trained: by gradient descent on this adapter alone"),
        sa.Column("size_bytes", INTEGER, nullable=False),
        sa.Column("parameters", INTEGER, nullable=False),
        sa.Column("examples", INTEGER, nullable=False, comment="training examples"),
        sa.Column("tokens", INTEGER, nullable=False, comment="tokens passed through the model, all epochs together"),
        sa.Column("steps", INTEGER, nullable=False, comment="optimiser steps"),
        sa.Column("first_loss", sa.Float(precision=53), nullable=False, comment="nats a token, first step"),
        sa.Column("last_loss", sa.Float(precision=53), nullable=False, comment="nats a token, last step"),
        sa.Column(
            "elapsed_seconds",
            sa.Float(precision=53),
            nullable=False,
            comment="this adapter's share of its group's time",
        ),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("dtype", sa.Text(), nullable=False, comment="of the frozen base's computation"),
        sa.Column("group_size", INTEGER, nullable=False, comment="adapters trained in the same pass"),
        sa.Column("library_versions", sa.JSON(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint(
            "examples >= 0 AND tokens >= 0 AND steps >= 0 AND group_size > 0 AND elapsed_seconds >= 0",
            name=op.f("ck_adapters_measurements_not_negative"),
        ),
        sa.CheckConstraint("length(digest) = 64", name=op.f("ck_adapters_digest_length")),
        sa.CheckConstraint("size_bytes > 0 AND parameters > 0", name=op.f("ck_adapters_not_empty")),
        sa.ForeignKeyConstraint(
            ["augmentation_id"], ["augmentations.id"], name=op.f("fk_adapters_augmentation_id_augmentations")
        ),
        sa.ForeignKeyConstraint(["build_id"], ["builds.id"], name=op.f("fk_adapters_build_id_builds")),
        sa.ForeignKeyConstraint(["document_id"], ["documents.id"], name=op.f("fk_adapters_document_id_documents")),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipes.id"], name=op.f("fk_adapters_recipe_id_recipes")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_adapters")),
        sa.UniqueConstraint("digest", name=op.f("uq_adapters_digest")),
        comment="Adapters, identified by their bytes, and how each first came to be.",
    )
    op.create_index(op.f("ix_adapters_document_id"), "adapters", ["document_id"])
    op.create_index(op.f("ix_adapters_recipe_id"), "adapters", ["recipe_id"])


def _create_build_items() -> None:
    op.create_table(
        "build_items",
        sa.Column("build_id", INTEGER, nullable=False),
        sa.Column("source_id", INTEGER, nullable=False),
        sa.Column("ordinal", INTEGER, autoincrement=False, nullable=False),
        sa.Column("record_id", sa.Text(), nullable=True),
        sa.Column("document_id", INTEGER, nullable=False),
        sa.CheckConstraint("ordinal >= 0", name=op.f("ck_build_items_ordinal_not_negative")),
        sa.ForeignKeyConstraint(["build_id"], ["builds.id"], name=op.f("fk_build_items_build_id_builds")),
        sa.ForeignKeyConstraint(["document_id"], ["documents.id"], name=op.f("fk_build_items_document_id_documents")),
        sa.ForeignKeyConstraint(["source_id"], ["sources.id"], name=op.f("fk_build_items_source_id_sources")),
        sa.PrimaryKeyConstraint("build_id", "source_id", "ordinal", name=op.f("pk_build_items")),
        comment="Staging: the places that a running build has read. Emptied when the build ends.",
    )
    op.create_index(op.f("ix_build_items_build_id_document_id"), "build_items", ["build_id", "document_id"])


def _create_packs() -> None:
    op.create_table(
        "packs",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("digest", DIGEST, nullable=False, comment="sha256 of the file"),
        sa.Column("size_bytes", INTEGER, nullable=False),
        sa.Column("build_id", INTEGER, nullable=True, comment="the build that wrote it"),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint("length(digest) = 64", name=op.f("ck_packs_digest_length")),
        sa.CheckConstraint("size_bytes > 0", name=op.f("ck_packs_not_empty")),
        sa.ForeignKeyConstraint(["build_id"], ["builds.id"], name=op.f("fk_packs_build_id_builds")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_packs")),
        sa.UniqueConstraint("digest", name=op.f("uq_packs_digest")),
        comment="Immutable safetensors files that hold adapters.",
    )
    op.create_index(op.f("ix_packs_build_id"), "packs", ["build_id"])


def _create_versions() -> None:
    op.create_table(
        "versions",
        sa.Column("corpus_id", INTEGER, nullable=False),
        sa.Column("number", INTEGER, autoincrement=False, nullable=False),
        sa.Column(
            "digest", DIGEST, nullable=False, comment="sha256 over recipe digest and sorted (document, adapter) pairs"
        ),
        sa.Column("parent", INTEGER, nullable=True, comment="number of the version it was made from"),
        sa.Column("recipe_id", INTEGER, nullable=False),
        sa.Column("build_id", INTEGER, nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("documents", INTEGER, nullable=False, comment="number of documents in it"),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint("documents >= 0", name=op.f("ck_versions_documents_not_negative")),
        sa.CheckConstraint("length(digest) = 64", name=op.f("ck_versions_digest_length")),
        sa.CheckConstraint("number > 0", name=op.f("ck_versions_number_positive")),
        sa.CheckConstraint("parent < number", name=op.f("ck_versions_parent_before")),
        sa.ForeignKeyConstraint(["build_id"], ["builds.id"], name=op.f("fk_versions_build_id_builds")),
        sa.ForeignKeyConstraint(
            ["corpus_id", "parent"],
            ["versions.corpus_id", "versions.number"],
            name=op.f("fk_versions_corpus_id_parent_versions"),
        ),
        sa.ForeignKeyConstraint(["corpus_id"], ["corpora.id"], name=op.f("fk_versions_corpus_id_corpora")),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipes.id"], name=op.f("fk_versions_recipe_id_recipes")),
        sa.PrimaryKeyConstraint("corpus_id", "number", name=op.f("pk_versions")),
        comment="Immutable numbered states of corpora.",
    )
    op.create_index(op.f("ix_versions_build_id"), "versions", ["build_id"])
    op.create_index(op.f("ix_versions_corpus_id_digest"), "versions", ["corpus_id", "digest"])
    op.create_index(op.f("ix_versions_recipe_id"), "versions", ["recipe_id"])


def _create_adapter_inputs() -> None:
    op.create_table(
        "adapter_inputs",
        sa.Column("augmentation_id", INTEGER, nullable=False),
        sa.Column("recipe_id", INTEGER, nullable=False),
        sa.Column("adapter_id", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name=op.f("fk_adapter_inputs_adapter_id_adapters")),
        sa.ForeignKeyConstraint(
            ["augmentation_id"], ["augmentations.id"], name=op.f("fk_adapter_inputs_augmentation_id_augmentations")
        ),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipes.id"], name=op.f("fk_adapter_inputs_recipe_id_recipes")),
        sa.PrimaryKeyConstraint("augmentation_id", "recipe_id", name=op.f("pk_adapter_inputs")),
        comment="Which adapter an augmented document gives under a recipe.",
    )
    op.create_index(op.f("ix_adapter_inputs_adapter_id"), "adapter_inputs", ["adapter_id"])


def _create_adapter_locations() -> None:
    op.create_table(
        "adapter_locations",
        sa.Column("adapter_id", INTEGER, nullable=False),
        sa.Column("pack_id", INTEGER, nullable=False),
        sa.Column("offset", INTEGER, nullable=False, comment="bytes from the start of the file"),
        sa.Column("size_bytes", INTEGER, nullable=False),
        sa.CheckConstraint('"offset" >= 0 AND size_bytes > 0', name=op.f("ck_adapter_locations_range_not_empty")),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name=op.f("fk_adapter_locations_adapter_id_adapters")),
        sa.ForeignKeyConstraint(["pack_id"], ["packs.id"], name=op.f("fk_adapter_locations_pack_id_packs")),
        sa.PrimaryKeyConstraint("adapter_id", "pack_id", name=op.f("pk_adapter_locations")),
        sa.UniqueConstraint("pack_id", "offset", name=op.f("uq_adapter_locations_pack_id_offset")),
        comment="Where adapters lie in packs.",
    )


def _create_alias_moves() -> None:
    op.create_table(
        "alias_moves",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("corpus_id", INTEGER, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("from_version", INTEGER, nullable=True, comment="null: the alias was new"),
        sa.Column("to_version", INTEGER, nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("moved_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["corpus_id", "from_version"],
            ["versions.corpus_id", "versions.number"],
            name=op.f("fk_alias_moves_corpus_id_from_version_versions"),
        ),
        sa.ForeignKeyConstraint(
            ["corpus_id", "to_version"],
            ["versions.corpus_id", "versions.number"],
            name=op.f("fk_alias_moves_corpus_id_to_version_versions"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alias_moves")),
        comment="The history of aliases: every move, oldest first by id.",
    )
    op.create_index(op.f("ix_alias_moves_corpus_id_name"), "alias_moves", ["corpus_id", "name"])


def _create_aliases() -> None:
    op.create_table(
        "aliases",
        sa.Column("corpus_id", INTEGER, autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", INTEGER, nullable=False),
        sa.Column("moved_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["corpus_id", "version"],
            ["versions.corpus_id", "versions.number"],
            name=op.f("fk_aliases_corpus_id_version_versions"),
        ),
        sa.PrimaryKeyConstraint("corpus_id", "name", name=op.f("pk_aliases")),
        comment="Movable names for versions.",
    )


def _create_build_adapters() -> None:
    op.create_table(
        "build_adapters",
        sa.Column("build_id", INTEGER, nullable=False),
        sa.Column("document_id", INTEGER, nullable=False),
        sa.Column("adapter_id", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name=op.f("fk_build_adapters_adapter_id_adapters")),
        sa.ForeignKeyConstraint(["build_id"], ["builds.id"], name=op.f("fk_build_adapters_build_id_builds")),
        sa.ForeignKeyConstraint(
            ["document_id"], ["documents.id"], name=op.f("fk_build_adapters_document_id_documents")
        ),
        sa.PrimaryKeyConstraint("build_id", "document_id", name=op.f("pk_build_adapters")),
        comment="Staging: the adapters that a running build gives its documents. Emptied when the build ends.",
    )


def _create_memberships() -> None:
    op.create_table(
        "memberships",
        sa.Column("corpus_id", INTEGER, autoincrement=False, nullable=False),
        sa.Column("document_id", INTEGER, nullable=False),
        sa.Column("from_version", INTEGER, autoincrement=False, nullable=False, comment="first version with it"),
        sa.Column("to_version", INTEGER, nullable=True, comment="first version without it; null: still valid"),
        sa.Column("adapter_id", INTEGER, nullable=False),
        sa.CheckConstraint("to_version > from_version", name=op.f("ck_memberships_range_not_empty")),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name=op.f("fk_memberships_adapter_id_adapters")),
        sa.ForeignKeyConstraint(
            ["corpus_id", "from_version"],
            ["versions.corpus_id", "versions.number"],
            name=op.f("fk_memberships_corpus_id_from_version_versions"),
        ),
        sa.ForeignKeyConstraint(
            ["corpus_id", "to_version"],
            ["versions.corpus_id", "versions.number"],
            name=op.f("fk_memberships_corpus_id_to_version_versions"),
        ),
        sa.ForeignKeyConstraint(["document_id"], ["documents.id"], name=op.f("fk_memberships_document_id_documents")),
        sa.PrimaryKeyConstraint("corpus_id", "document_id", "from_version", name=op.f("pk_memberships")),
        comment="Which document has which adapter in which versions.",
    )
    op.create_index(op.f("ix_memberships_adapter_id"), "memberships", ["adapter_id"])
    op.create_index(op.f("ix_memberships_corpus_id_from_version"), "memberships", ["corpus_id", "from_version"])
    op.create_index(
        op.f("ix_memberships_corpus_id_to_version"),
        "memberships",
        ["corpus_id", "to_version"],
        sqlite_where=sa.text("to_version IS NOT NULL"),
        postgresql_where=sa.text("to_version IS NOT NULL"),
    )
    op.create_index(op.f("ix_memberships_document_id"), "memberships", ["document_id"])


def _create_places() -> None:
    op.create_table(
        "places",
        sa.Column("corpus_id", INTEGER, autoincrement=False, nullable=False),
        sa.Column("source_id", INTEGER, nullable=False),
        sa.Column(
            "ordinal",
            INTEGER,
            autoincrement=False,
            nullable=False,
            comment="number of the passage in its source, from 0",
        ),
        sa.Column("from_version", INTEGER, autoincrement=False, nullable=False, comment="first version with it"),
        sa.Column("to_version", INTEGER, nullable=True, comment="first version without it; null: still valid"),
        sa.Column("record_id", sa.Text(), nullable=True, comment="identifier that the source itself gives the record"),
        sa.Column("document_id", INTEGER, nullable=False),
        sa.CheckConstraint("ordinal >= 0", name=op.f("ck_places_ordinal_not_negative")),
        sa.CheckConstraint("to_version > from_version", name=op.f("ck_places_range_not_empty")),
        sa.ForeignKeyConstraint(
            ["corpus_id", "from_version"],
            ["versions.corpus_id", "versions.number"],
            name=op.f("fk_places_corpus_id_from_version_versions"),
        ),
        sa.ForeignKeyConstraint(
            ["corpus_id", "to_version"],
            ["versions.corpus_id", "versions.number"],
            name=op.f("fk_places_corpus_id_to_version_versions"),
        ),
        sa.ForeignKeyConstraint(["document_id"], ["documents.id"], name=op.f("fk_places_document_id_documents")),
        sa.ForeignKeyConstraint(["source_id"], ["sources.id"], name=op.f("fk_places_source_id_sources")),
        sa.PrimaryKeyConstraint("corpus_id", "source_id", "ordinal", "from_version", name=op.f("pk_places")),
        comment="Where documents stand in their sources, in which versions.",
    )
    op.create_index(op.f("ix_places_document_id"), "places", ["document_id"])


def _create_queries() -> None:
    op.create_table(
        "queries",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("corpus_id", INTEGER, nullable=True, comment="null: no corpus was asked"),
        sa.Column("version", INTEGER, nullable=True),
        sa.Column("recipe_id", INTEGER, nullable=True),
        sa.Column("base_model_id", INTEGER, nullable=True),
        sa.Column("mode", sa.Text(), nullable=False, comment="prag, combined, rag or closed-book"),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("prompt_tokens", INTEGER, nullable=False),
        sa.Column("answer_tokens", INTEGER, nullable=False),
        sa.Column(
            "search_ms",
            sa.Float(precision=53),
            nullable=True,
            comment="milliseconds; null where the mode has no such step",
        ),
        sa.Column("load_ms", sa.Float(precision=53), nullable=True),
        sa.Column("merge_ms", sa.Float(precision=53), nullable=True),
        sa.Column("inject_ms", sa.Float(precision=53), nullable=True),
        sa.Column("prefill_ms", sa.Float(precision=53), nullable=True),
        sa.Column("decode_ms", sa.Float(precision=53), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint("mode IN ('prag', 'combined', 'rag', 'closed-book')", name=op.f("ck_queries_mode_known")),
        sa.CheckConstraint("prompt_tokens >= 0 AND answer_tokens >= 0", name=op.f("ck_queries_tokens_not_negative")),
        sa.ForeignKeyConstraint(
            ["base_model_id"], ["base_models.id"], name=op.f("fk_queries_base_model_id_base_models")
        ),
        sa.ForeignKeyConstraint(
            ["corpus_id", "version"],
            ["versions.corpus_id", "versions.number"],
            name=op.f("fk_queries_corpus_id_version_versions"),
        ),
        sa.ForeignKeyConstraint(["corpus_id"], ["corpora.id"], name=op.f("fk_queries_corpus_id_corpora")),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipes.id"], name=op.f("fk_queries_recipe_id_recipes")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_queries")),
        comment="Answered questions, with all that explains the answer. `--no-log` leaves them out.",
    )
    op.create_index(op.f("ix_queries_corpus_id_version"), "queries", ["corpus_id", "version"])


def _create_query_hits() -> None:
    op.create_table(
        "query_hits",
        sa.Column("query_id", INTEGER, nullable=False),
        sa.Column("rank", INTEGER, autoincrement=False, nullable=False, comment="from 1, best first"),
        sa.Column("score", sa.Float(precision=53), nullable=False, comment="BM25"),
        sa.Column(
            "weight",
            sa.Float(precision=53),
            nullable=True,
            comment="of its adapter in the merge; null where none was merged",
        ),
        sa.Column("document_id", INTEGER, nullable=False),
        sa.Column("adapter_id", INTEGER, nullable=False),
        sa.CheckConstraint("rank > 0", name=op.f("ck_query_hits_rank_positive")),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name=op.f("fk_query_hits_adapter_id_adapters")),
        sa.ForeignKeyConstraint(["document_id"], ["documents.id"], name=op.f("fk_query_hits_document_id_documents")),
        sa.ForeignKeyConstraint(["query_id"], ["queries.id"], name=op.f("fk_query_hits_query_id_queries")),
        sa.PrimaryKeyConstraint("query_id", "rank", name=op.f("pk_query_hits")),
        sa.UniqueConstraint("query_id", "document_id", name=op.f("uq_query_hits_query_id_document_id")),
        comment="The documents that were retrieved for a question.",
    )
    op.create_index(op.f("ix_query_hits_adapter_id"), "query_hits", ["adapter_id"])
    op.create_index(op.f("ix_query_hits_document_id"), "query_hits", ["document_id"])
