-- title: What an answer was made of
-- about: From the number of a query down to digests: the version with its recipe and base model, and for every hit the
--   document with its score, the augmentation, the adapter with its weight, and the pack that holds it now.
-- param: query integer required; number of the query, as `pragreg queries list` shows it
-- column: part text; what the row names
-- column: rank integer; of the hit that it belongs to, from 1; null: of no hit
-- column: name text; the question, the answer, the version, a title, or who wrote an augmentation
-- column: digest text; sha256 of it; null: it has none
-- column: score number; BM25 of the document
-- column: weight number; of the adapter in the merge; null: it was not merged
-- empty: there is no query :query in the log
WITH
asked AS (SELECT * FROM v_queries WHERE query = :query),
hits AS (
    SELECT
        v_query_hits.rank, v_query_hits.score, v_query_hits.weight, v_query_hits.document_digest, v_query_hits.title,
        v_query_hits.adapter_digest, v_adapters.kind, v_adapters.augmentation_digest, v_adapters.pack_digest,
        EXISTS (
            SELECT 1
            FROM adapters JOIN remote_locations ON remote_locations.adapter_id = adapters.id
            WHERE adapters.digest = v_query_hits.adapter_digest
        ) AS in_repository
    FROM v_query_hits JOIN v_adapters ON v_adapters.adapter_digest = v_query_hits.adapter_digest
    WHERE v_query_hits.query = :query
)
SELECT part, rank, name, digest, score, weight
FROM (
    SELECT
        0 AS rank_order, 1 AS position, 'question' AS part, CAST(NULL AS bigint) AS rank, question AS name,
        CAST(NULL AS text) AS digest, CAST(NULL AS double precision) AS score, CAST(NULL AS double precision) AS weight
    FROM asked
    UNION ALL
    SELECT 0, 2, 'answer', NULL, answer, NULL, NULL, NULL FROM asked
    UNION ALL
    SELECT 0, 3, 'mode', NULL, mode, NULL, NULL, NULL FROM asked
    UNION ALL
    SELECT 0, 4, 'version', NULL, v_versions.reference, v_versions.version_digest, NULL, NULL
    FROM asked JOIN v_versions ON v_versions.corpus = asked.corpus AND v_versions.version = asked.version
    UNION ALL
    SELECT 0, 5, 'recipe', NULL, v_recipes.augmenter, v_recipes.recipe_digest, NULL, NULL
    FROM asked JOIN v_recipes ON v_recipes.recipe_digest = asked.recipe_digest
    UNION ALL
    SELECT 0, 6, 'task adapter', NULL, task_adapters.name, task_adapters.digest, NULL, NULL
    FROM asked
    JOIN v_recipes ON v_recipes.recipe_digest = asked.recipe_digest
    JOIN task_adapters ON task_adapters.digest = v_recipes.task_adapter_digest
    UNION ALL
    SELECT 0, 7, 'base model', NULL, base_model, base_model_fingerprint, NULL, NULL
    FROM asked WHERE base_model IS NOT NULL
    UNION ALL
    SELECT rank, 1, 'document', rank, title, document_digest, score, NULL FROM hits
    UNION ALL
    SELECT rank, 2, 'augmentation', rank, v_augmentations.generator, hits.augmentation_digest, NULL, NULL
    FROM hits JOIN v_augmentations ON v_augmentations.augmentation_digest = hits.augmentation_digest
    UNION ALL
    SELECT rank, 3, 'adapter', rank, kind, adapter_digest, NULL, weight FROM hits
    UNION ALL
    SELECT
        rank, 4, 'pack', rank,
        CASE WHEN pack_digest IS NOT NULL THEN NULL WHEN in_repository THEN 'in a repository' ELSE 'collected' END,
        pack_digest, NULL, NULL
    FROM hits
) AS parts
ORDER BY rank_order, position
