-- title: Bytes of adapters by corpus, recipe and base model
-- about: What every corpus, recipe and base model keeps in adapters, and what the packs take on the disk. An adapter
--   that two corpora share counts for both. Adapters that were collected are known still, but take no bytes. Those that
--   lie in a repository alone count as kept, and take no room on this disk.
-- param: limit integer = 50; the most rows; 0 for all
-- column: part text; what is counted: corpus, recipe, base model, or packs for all pack files together
-- column: name text; name of the corpus, digest of the recipe, or what the base model was named
-- column: adapters integer; adapters that lie in packs or in a repository; for packs those that lie in packs
-- column: size_bytes integer; bytes of these; for packs the bytes of the files, dead ones among them
-- column: collected integer; adapters that are known, but whose bytes were collected
-- chart: bar x=name y=size_bytes series=part
WITH
-- Few are gone, so what is kept is told as the difference. (A LEFT JOIN, for SQLite is slower at NOT EXISTS.)
gone AS MATERIALIZED (
    SELECT adapters.id, adapters.recipe_id, adapters.size_bytes
    FROM adapters LEFT JOIN adapter_locations ON adapter_locations.adapter_id = adapters.id
    WHERE
        adapter_locations.adapter_id IS NULL
        AND NOT EXISTS (SELECT 1 FROM remote_locations WHERE remote_locations.adapter_id = adapters.id)
),
-- A document that came back with the adapter that it had counts once.
members AS NOT MATERIALIZED (
    SELECT corpus_id, adapter_id FROM memberships
    WHERE
        from_version = 1
        OR NOT EXISTS (
            SELECT 1 FROM memberships AS earlier
            WHERE
                earlier.corpus_id = memberships.corpus_id AND earlier.document_id = memberships.document_id
                AND earlier.from_version < memberships.from_version AND earlier.adapter_id = memberships.adapter_id
        )
),
recipe_known AS (
    SELECT recipe_id, count(*) AS known, sum(size_bytes) AS known_bytes FROM adapters GROUP BY recipe_id
),
recipe_gone AS (SELECT recipe_id, count(*) AS lost, sum(size_bytes) AS lost_bytes FROM gone GROUP BY recipe_id),
recipe_sizes AS (
    SELECT
        recipes.digest, recipes.base_model_id, known - coalesce(lost, 0) AS adapters,
        known_bytes - coalesce(lost_bytes, 0) AS size_bytes, coalesce(lost, 0) AS collected
    FROM recipe_known
    JOIN recipes ON recipes.id = recipe_known.recipe_id
    LEFT JOIN recipe_gone ON recipe_gone.recipe_id = recipe_known.recipe_id
),
corpus_known AS (
    SELECT members.corpus_id, count(*) AS known, sum(adapters.size_bytes) AS known_bytes
    FROM members JOIN adapters ON adapters.id = members.adapter_id
    GROUP BY members.corpus_id
),
corpus_gone AS (
    SELECT members.corpus_id, count(*) AS lost, sum(gone.size_bytes) AS lost_bytes
    FROM gone CROSS JOIN members
    WHERE members.adapter_id = gone.id
    GROUP BY members.corpus_id
)
SELECT part, name, adapters, size_bytes, collected
FROM (
    SELECT
        1 AS position, 'corpus' AS part, corpora.name AS name, known - coalesce(lost, 0) AS adapters,
        known_bytes - coalesce(lost_bytes, 0) AS size_bytes, coalesce(lost, 0) AS collected
    FROM corpus_known
    JOIN corpora ON corpora.id = corpus_known.corpus_id
    LEFT JOIN corpus_gone ON corpus_gone.corpus_id = corpus_known.corpus_id
    UNION ALL
    SELECT 2, 'recipe', digest, adapters, size_bytes, collected FROM recipe_sizes
    UNION ALL
    SELECT 3, 'base model', min(base_models.reference), sum(adapters), sum(size_bytes), sum(collected)
    FROM recipe_sizes JOIN base_models ON base_models.id = recipe_sizes.base_model_id
    GROUP BY base_models.id
    UNION ALL
    SELECT 4, 'packs', 'all packs', (SELECT count(*) FROM adapter_locations), coalesce(sum(packs.size_bytes), 0), 0
    FROM packs
) AS parts
ORDER BY position, size_bytes DESC, name
LIMIT :limit
