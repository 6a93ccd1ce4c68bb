-- title: Distribution of the last loss of training, by recipe
-- about: The range from the least to the greatest loss is cut into equal parts, the same for every recipe; a row counts
--   the adapters of one recipe in one part. Parts without any are left out.
-- param: corpus text; only adapters made by builds of this corpus
-- param: recipe text; only recipes whose digest begins so
-- param: parts integer = 20; into how many parts the range is cut
-- column: recipe_digest text; sha256 of the recipe
-- column: from_loss number; nats a token, where the part begins
-- column: to_loss number; nats a token, where it ends
-- column: adapters integer; adapters of the recipe whose last loss is in the part
-- column: share number; of all adapters of the recipe, from 0 to 1
-- chart: histogram x=from_loss,to_loss y=share series=recipe_digest
WITH
-- NOT MATERIALIZED: to read the index twice is faster than to copy it once.
chosen AS NOT MATERIALIZED (
    SELECT recipe_id, last_loss AS loss
    FROM adapters
    WHERE
        (
            CAST(:corpus AS text) IS NULL
            OR build_id IN (
                SELECT builds.id FROM builds JOIN corpora ON corpora.id = builds.corpus_id WHERE corpora.name = :corpus
            )
        )
        AND (
            CAST(:recipe AS text) IS NULL
            OR recipe_id IN (SELECT id FROM recipes WHERE digest LIKE CAST(:recipe AS text) || '%')
        )
),
ends AS MATERIALIZED (SELECT min(loss) AS low, (max(loss) - min(loss)) / nullif(:parts, 0) AS width FROM chosen),
-- Recipe and part in one number, since to sort by one is faster.
placed AS (
    SELECT
        recipe_id * (:parts + 1) + coalesce(CAST(floor((loss - low) / nullif(width, 0.0)) AS integer), 0)
            AS place,
        count(*) AS adapters
    FROM chosen CROSS JOIN ends
    GROUP BY 1
),
-- The greatest loss belongs to the last part.
counted AS (
    SELECT recipe_id, part, sum(adapters) AS adapters
    FROM (
        SELECT
            place / (:parts + 1) AS recipe_id, adapters,
            CASE WHEN place % (:parts + 1) = :parts THEN :parts - 1 ELSE place % (:parts + 1) END AS part
        FROM placed
    ) AS each_place
    GROUP BY recipe_id, part
)
SELECT
    recipes.digest AS recipe_digest, low + width * part AS from_loss, low + width * (part + 1) AS to_loss, adapters,
    adapters * 1.0 / sum(adapters) OVER (PARTITION BY recipes.digest) AS share
FROM counted CROSS JOIN ends JOIN recipes ON recipes.id = counted.recipe_id
ORDER BY recipe_digest, part
