"""The views that outside tools and reports read, the text key of documents, and indexes for the reports.

What the columns of the views mean is told in ``registry/catalog/views.py``; what they are made of is here, since a
migration goes on meaning the same. SQLite and PostgreSQL differ in a few expressions only (``_FRAGMENTS``).

A later migration that changes a table under a view must drop the view first and create it again.
"""

from __future__ import annotations

import hashlib

import sqlalchemy as sa
from alembic import context, op

revision = "0004_views"
down_revision = "0003_upkeep"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_FRAGMENTS = {
    "sqlite": {
        "elapsed": "round((julianday(builds.finished_at) - julianday(builds.started_at)) * 86400.0, 3)",
        "aliases": "SELECT group_concat(name, ', ') FROM (SELECT name FROM aliases"
        " WHERE corpus_id = versions.corpus_id AND version = versions.number ORDER BY name)",
        "settings": "recipes.settings",
        "integer": "CAST(json_extract(recipes.settings, '$.{name}') AS INTEGER)",
        "number": "CAST(json_extract(recipes.settings, '$.{name}') AS REAL)",
        "text": "json_extract(recipes.settings, '$.{name}')",
    },
    "postgresql": {
        "elapsed": "CAST(round(CAST(extract(epoch FROM builds.finished_at - builds.started_at) AS numeric), 3)"
        " AS double precision)",
        "aliases": "SELECT string_agg(name, ', ' ORDER BY name) FROM aliases"
        " WHERE corpus_id = versions.corpus_id AND version = versions.number",
        "settings": "CAST(recipes.settings AS text)",
        "integer": "CAST(recipes.settings ->> '{name}' AS bigint)",
        "number": "CAST(recipes.settings ->> '{name}' AS double precision)",
        "text": "recipes.settings ->> '{name}'",
    },
}
_SETTINGS = (
    ("integer", "rank"),
    ("number", "alpha"),
    ("integer", "epochs"),
    ("number", "learning_rate"),
    ("integer", "examples_per_step"),
    ("integer", "max_tokens"),
    ("text", "augmenter"),
    ("integer", "pairs"),
    ("integer", "rewrites"),
    ("text", "layout"),
    ("text", "loss"),
    ("text", "dtype"),
    ("text", "adapter_dtype"),
)
_STEPS = ("search_ms", "load_ms", "merge_ms", "inject_ms", "prefill_ms", "decode_ms")

_CORPORA = """
SELECT corpora.name AS corpus, corpora.language, aliases.version,
    corpora.name || '@v' || aliases.version AS reference, versions.documents, versions.size_bytes,
    recipes.digest AS recipe_digest,
    (SELECT count(*) FROM versions AS every WHERE every.corpus_id = corpora.id) AS versions, corpora.created_at
FROM corpora
LEFT JOIN aliases ON aliases.corpus_id = corpora.id AND aliases.name = 'latest'
LEFT JOIN versions ON versions.corpus_id = corpora.id AND versions.number = aliases.version
LEFT JOIN recipes ON recipes.id = versions.recipe_id
"""

_VERSIONS = """
SELECT corpora.name AS corpus, versions.number AS version, corpora.name || '@v' || versions.number AS reference,
    versions.digest AS version_digest, versions.parent, versions.message, ({aliases}) AS aliases,
    EXISTS (SELECT 1 FROM aliases WHERE aliases.corpus_id = versions.corpus_id AND aliases.version = versions.number
        AND aliases.name = 'latest') AS is_latest,
    EXISTS (SELECT 1 FROM pins WHERE pins.corpus_id = versions.corpus_id AND pins.version = versions.number) AS pinned,
    versions.documents, versions.size_bytes, recipes.digest AS recipe_digest, base_models.reference AS base_model,
    base_models.fingerprint AS base_model_fingerprint, versions.build_id AS build, versions.created_at,
    versions.collected_at
FROM versions
JOIN corpora ON corpora.id = versions.corpus_id
JOIN recipes ON recipes.id = versions.recipe_id
JOIN base_models ON base_models.id = recipes.base_model_id
"""

_MEMBERS = """
SELECT corpora.name AS corpus, versions.number AS version, corpora.name || '@v' || versions.number AS reference,
    documents.digest AS document_digest, adapters.digest AS adapter_digest, recipes.digest AS recipe_digest,
    memberships.from_version AS since_version
FROM aliases
JOIN corpora ON corpora.id = aliases.corpus_id
JOIN versions ON versions.corpus_id = aliases.corpus_id AND versions.number = aliases.version
JOIN recipes ON recipes.id = versions.recipe_id
JOIN memberships ON memberships.corpus_id = aliases.corpus_id AND memberships.from_version <= aliases.version
    AND (memberships.to_version IS NULL OR memberships.to_version > aliases.version)
JOIN documents ON documents.id = memberships.document_id
JOIN adapters ON adapters.id = memberships.adapter_id
WHERE aliases.name = 'latest'
"""

_PLACES = """
SELECT corpora.name AS corpus, aliases.version, sources.uri AS source_uri, places.ordinal, places.record_id,
    documents.digest AS document_digest
FROM aliases
JOIN corpora ON corpora.id = aliases.corpus_id
JOIN places ON places.corpus_id = aliases.corpus_id AND places.from_version <= aliases.version
    AND (places.to_version IS NULL OR places.to_version > aliases.version)
JOIN sources ON sources.id = places.source_id
JOIN documents ON documents.id = places.document_id
WHERE aliases.name = 'latest'
"""

_DOCUMENTS = """
SELECT documents.digest AS document_digest, documents.title, documents.text, documents.characters,
    documents.created_at
FROM documents
"""

_ADAPTERS = """
SELECT adapters.digest AS adapter_digest, documents.digest AS document_digest, documents.title,
    augmentations.digest AS augmentation_digest, recipes.digest AS recipe_digest, base_models.reference AS base_model,
    base_models.fingerprint AS base_model_fingerprint, adapters.build_id AS build, adapters.kind, adapters.producer,
    adapters.size_bytes, adapters.parameters, adapters.examples, adapters.tokens, adapters.steps, adapters.first_loss,
    adapters.last_loss, adapters.elapsed_seconds, adapters.device, adapters.dtype, adapters.group_size,
    EXISTS (SELECT 1 FROM adapter_locations WHERE adapter_locations.adapter_id = adapters.id) AS located,
    (SELECT packs.digest FROM adapter_locations JOIN packs ON packs.id = adapter_locations.pack_id
        WHERE adapter_locations.adapter_id = adapters.id ORDER BY packs.id DESC LIMIT 1) AS pack_digest,
    adapters.created_at
FROM adapters
JOIN documents ON documents.id = adapters.document_id
JOIN augmentations ON augmentations.id = adapters.augmentation_id
JOIN recipes ON recipes.id = adapters.recipe_id
JOIN base_models ON base_models.id = recipes.base_model_id
"""

_RECIPES = """
SELECT recipes.digest AS recipe_digest, base_models.reference AS base_model,
    base_models.fingerprint AS base_model_fingerprint, {settings_columns},
    {task_adapter} AS task_adapter_digest, {settings} AS settings, recipes.created_at
FROM recipes
JOIN base_models ON base_models.id = recipes.base_model_id
"""

_AUGMENTATIONS = """
SELECT augmentations.digest AS augmentation_digest, documents.digest AS document_digest, augmentations.generator,
    augmentations.prompts_version, augmentations.rewrites, augmentations.pairs,
    (SELECT count(*) FROM augmentation_requests AS r WHERE r.augmentation_id = augmentations.id) AS requests,
    (SELECT CAST(coalesce(sum(r.dropped_rewrites), 0) AS BIGINT) FROM augmentation_requests AS r
        WHERE r.augmentation_id = augmentations.id) AS dropped_rewrites,
    (SELECT CAST(coalesce(sum(r.dropped_pairs), 0) AS BIGINT) FROM augmentation_requests AS r
        WHERE r.augmentation_id = augmentations.id) AS dropped_pairs,
    (SELECT CAST(coalesce(sum(r.tokens), 0) AS BIGINT) FROM augmentation_requests AS r
        WHERE r.augmentation_id = augmentations.id) AS tokens,
    (SELECT coalesce(sum(r.elapsed_seconds), 0.0) FROM augmentation_requests AS r
        WHERE r.augmentation_id = augmentations.id) AS elapsed_seconds,
    augmentations.created_at
FROM augmentations
JOIN documents ON documents.id = augmentations.document_id
"""

_PACKS = """
SELECT packs.digest AS pack_digest, packs.size_bytes, packs.build_id AS build,
    (SELECT count(*) FROM adapter_locations WHERE adapter_locations.pack_id = packs.id) AS adapters,
    (SELECT CAST(coalesce(sum(adapter_locations.size_bytes), 0) AS BIGINT) FROM adapter_locations
        WHERE adapter_locations.pack_id = packs.id) AS adapters_bytes,
    packs.created_at
FROM packs
"""

_BUILDS = """
SELECT builds.id AS build, corpora.name AS corpus, recipes.digest AS recipe_digest, builds.status, builds.message,
    (SELECT min(versions.number) FROM versions WHERE versions.build_id = builds.id) AS version, builds.who,
    builds.host, builds.error, builds.sources, builds.documents, builds.places, builds.reused, builds.trained,
    builds.skipped, builds.without_augmentation, builds.size_bytes, {elapsed} AS elapsed_seconds, builds.started_at,
    builds.finished_at
FROM builds
JOIN corpora ON corpora.id = builds.corpus_id
JOIN recipes ON recipes.id = builds.recipe_id
"""

_QUERIES = """
SELECT queries.id AS query, corpora.name AS corpus, queries.version,
    corpora.name || '@v' || queries.version AS reference, recipes.digest AS recipe_digest,
    base_models.reference AS base_model, base_models.fingerprint AS base_model_fingerprint, queries.mode,
    queries.question, queries.answer, queries.prompt_tokens, queries.answer_tokens, {steps},
    {total} AS total_ms, queries.created_at
FROM queries
LEFT JOIN corpora ON corpora.id = queries.corpus_id
LEFT JOIN recipes ON recipes.id = queries.recipe_id
LEFT JOIN base_models ON base_models.id = queries.base_model_id
"""

_QUERY_HITS = """
SELECT query_hits.query_id AS query, query_hits.rank, query_hits.score, query_hits.weight,
    documents.digest AS document_digest, documents.title, adapters.digest AS adapter_digest
FROM query_hits
JOIN documents ON documents.id = query_hits.document_id
JOIN adapters ON adapters.id = query_hits.adapter_id
"""

_EVALUATIONS = """
SELECT evaluations.id AS evaluation, corpora.name AS corpus, evaluations.version,
    corpora.name || '@v' || evaluations.version AS reference, recipes.digest AS recipe_digest,
    evaluations.questions_name, evaluations.questions_digest, evaluations.sample, evaluations.seed, evaluations.gold,
    evaluations.dtype, evaluations.device, evaluations.program_version, evaluation_results.mode, evaluation_results.k,
    evaluation_results.merge, evaluation_results.question_type, evaluation_results.questions,
    evaluation_results.prompt_tokens AS mean_prompt_tokens, evaluation_results.mean_ms, evaluation_results.p95_ms,
    evaluation_scores.measure, evaluation_scores.mean, evaluation_scores.low, evaluation_scores.high,
    evaluations.created_at
FROM evaluations
JOIN corpora ON corpora.id = evaluations.corpus_id
JOIN recipes ON recipes.id = evaluations.recipe_id
JOIN evaluation_results ON evaluation_results.evaluation_id = evaluations.id
JOIN evaluation_scores ON evaluation_scores.result_id = evaluation_results.id
"""

_ALIASES = """
SELECT corpora.name AS corpus, aliases.name AS alias, aliases.version,
    corpora.name || '@v' || aliases.version AS reference, versions.digest AS version_digest, aliases.moved_at
FROM aliases
JOIN corpora ON corpora.id = aliases.corpus_id
JOIN versions ON versions.corpus_id = aliases.corpus_id AND versions.number = aliases.version
"""

_ALIAS_MOVES = """
SELECT alias_moves.id AS move, corpora.name AS corpus, alias_moves.name AS alias, alias_moves.from_version,
    alias_moves.to_version, alias_moves.who, alias_moves.moved_at
FROM alias_moves
JOIN corpora ON corpora.id = alias_moves.corpus_id
"""

_VIEWS = {
    "v_corpora": _CORPORA,
    "v_versions": _VERSIONS,
    "v_members": _MEMBERS,
    "v_places": _PLACES,
    "v_documents": _DOCUMENTS,
    "v_adapters": _ADAPTERS,
    "v_recipes": _RECIPES,
    "v_augmentations": _AUGMENTATIONS,
    "v_packs": _PACKS,
    "v_builds": _BUILDS,
    "v_queries": _QUERIES,
    "v_query_hits": _QUERY_HITS,
    "v_evaluations": _EVALUATIONS,
    "v_aliases": _ALIASES,
    "v_alias_moves": _ALIAS_MOVES,
}

# New index, table, its columns, and the index that it takes the place of.
_INDEXES: tuple[tuple[str, str, tuple[str, ...], str | None], ...] = (
    ("ix_documents_text_key", "documents", ("text_key",), None),
    ("ix_adapter_inputs_recipes", "adapter_inputs", ("adapter_id", "recipe_id"), "ix_adapter_inputs_adapter_id"),
    (
        "ix_adapters_training",
        "adapters",
        ("recipe_id", "build_id", "last_loss", "elapsed_seconds", "tokens", "size_bytes"),
        "ix_adapters_recipe_id",
    ),
    (
        "ix_places_documents",
        "places",
        ("document_id", "corpus_id", "from_version", "to_version"),
        "ix_places_document_id",
    ),
    ("ix_augmentations_yield", "augmentations", ("generator", "prompts_version", "id", "rewrites", "pairs"), None),
    (
        "ix_augmentation_requests_drops",
        "augmentation_requests",
        ("augmentation_id", "dropped_pairs", "dropped_rewrites", "tokens", "elapsed_seconds"),
        "ix_augmentation_requests_augmentation_id",
    ),
)


def upgrade() -> None:
    """Add the text key, exchange the indexes, create the views."""
    op.add_column(
        "documents",
        sa.Column(
            "text_key",
            INTEGER,
            nullable=False,
            server_default="0",
            comment="the first 8 bytes of the sha256 of the text, as a signed number; equal for equal texts",
        ),
    )
    _fill_text_keys()
    for name, table, columns, instead_of in _INDEXES:
        op.create_index(name, table, list(columns))
        if instead_of is not None:
            op.drop_index(instead_of, table_name=table)
    for view, query in _VIEWS.items():
        op.execute(f"CREATE VIEW {view} AS {_filled(query)}")


def downgrade() -> None:
    """Undo it."""
    for view in reversed(_VIEWS):
        op.execute(f"DROP VIEW {view}")
    for name, table, columns, instead_of in _INDEXES:
        if instead_of is not None:
            op.create_index(instead_of, table, [columns[0]])
        op.drop_index(name, table_name=table)
    op.drop_column("documents", "text_key")


def _filled(query: str) -> str:
    fragments = _FRAGMENTS[op.get_context().dialect.name]
    settings = ", ".join(f"{fragments[kind].format(name=name)} AS {name}" for kind, name in _SETTINGS)
    return query.format(
        aliases=fragments["aliases"],
        elapsed=fragments["elapsed"],
        settings=fragments["settings"],
        settings_columns=settings,
        task_adapter=f"nullif({fragments['text'].format(name='task_adapter')}, '')",
        steps=", ".join(f"queries.{step}" for step in _STEPS),
        total=" + ".join(f"coalesce(queries.{step}, 0.0)" for step in _STEPS),
    )


def _fill_text_keys() -> None:
    """Compute the keys inside the database: by its own sha256 on PostgreSQL, by Python's as a function on SQLite."""
    if op.get_context().dialect.name == "postgresql":
        digest = "encode(substring(sha256(convert_to(text, 'UTF8')) FROM 1 FOR 8), 'hex')"
        op.execute(f"UPDATE documents SET text_key = CAST(CAST('x' || {digest} AS bit(64)) AS bigint)")
        return
    if not context.is_offline_mode():
        driver = op.get_bind().connection.driver_connection
        assert driver is not None
        driver.create_function("pragreg_text_key", 1, _text_key, deterministic=True)
    op.execute("UPDATE documents SET text_key = pragreg_text_key(text)")


def _text_key(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)
