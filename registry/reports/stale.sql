-- title: Documents whose adapters are of an older recipe than the newest
-- about: A document is stale if the version that `latest` names has it under a recipe older than the newest one, and its
--   adapter is not what the newest one gives too. The newest recipe is that of the newest version of any corpus on the
--   same base model, or, with --within corpus, of the newest version of its own corpus: then only a corpus that was
--   rolled back has stale documents. A build of the corpus with the newest recipe brings them up to date.
-- param: corpus text; only documents of this corpus
-- param: within base-model|corpus = base-model; where the newest recipe is looked for
-- param: limit integer = 50; the most rows; 0 for all
-- column: corpus text; name of the corpus
-- column: version integer; the version that latest names
-- column: document_digest text; sha256 of the document
-- column: title text; its title
-- column: adapter_digest text; sha256 of its adapter
-- column: recipe_digest text; sha256 of the recipe that it is under
-- column: newest_recipe_digest text; sha256 of the newest recipe
-- column: newest_reference text; the version that made it the newest, such as corpus@v3
-- column: encoded_at moment; when its adapter was made
WITH
every_version AS (
    SELECT versions.corpus_id, versions.number, versions.recipe_id, versions.created_at, recipes.base_model_id
    FROM versions JOIN recipes ON recipes.id = versions.recipe_id
),
ranked AS (
    SELECT
        base_model_id, corpus_id, number, recipe_id,
        row_number() OVER (
            PARTITION BY base_model_id, CASE WHEN :within = 'corpus' THEN corpus_id ELSE 0 END
            ORDER BY created_at DESC, corpus_id DESC, number DESC
        ) AS place
    FROM every_version
),
stale_corpora AS (
    SELECT
        aliases.corpus_id, aliases.version, corpora.name AS corpus, current_version.recipe_id,
        newest.recipe_id AS newest_recipe_id, newest_corpus.name || '@v' || newest.number AS newest_reference
    FROM aliases
    JOIN corpora ON corpora.id = aliases.corpus_id
    JOIN every_version AS current_version
        ON current_version.corpus_id = aliases.corpus_id AND current_version.number = aliases.version
    JOIN ranked AS newest
        ON newest.base_model_id = current_version.base_model_id AND newest.place = 1
        AND (:within <> 'corpus' OR newest.corpus_id = aliases.corpus_id)
    JOIN corpora AS newest_corpus ON newest_corpus.id = newest.corpus_id
    WHERE
        aliases.name = 'latest' AND newest.recipe_id <> current_version.recipe_id
        AND (CAST(:corpus AS text) IS NULL OR corpora.name = :corpus)
),
stale_members AS (
    SELECT stale_corpora.*, memberships.document_id, memberships.adapter_id
    FROM stale_corpora CROSS JOIN memberships
    WHERE
        memberships.corpus_id = stale_corpora.corpus_id AND memberships.from_version <= version
        AND (memberships.to_version IS NULL OR memberships.to_version > version)
        AND NOT EXISTS (
            SELECT 1 FROM adapter_inputs
            WHERE adapter_inputs.adapter_id = memberships.adapter_id AND adapter_inputs.recipe_id = newest_recipe_id
        )
    ORDER BY stale_corpora.corpus_id, memberships.document_id
    LIMIT :limit
)
SELECT
    corpus, version, documents.digest AS document_digest, documents.title, adapters.digest AS adapter_digest,
    recipes.digest AS recipe_digest, newest_recipes.digest AS newest_recipe_digest, newest_reference,
    adapters.created_at AS encoded_at
FROM stale_members
JOIN adapters ON adapters.id = stale_members.adapter_id
JOIN documents ON documents.id = stale_members.document_id
JOIN recipes ON recipes.id = stale_members.recipe_id
JOIN recipes AS newest_recipes ON newest_recipes.id = newest_recipe_id
ORDER BY stale_members.corpus_id, stale_members.document_id
