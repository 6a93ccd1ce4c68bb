-- title: Distribution of the training time of an adapter, by recipe
-- about: An adapter's time is its share of the time of the group that it was trained in. The parts grow by a factor, so
--   that one slow adapter does not press all others into one part; the same parts for every recipe. Parts without any
--   adapter are left out.
-- param: corpus text; only adapters made by builds of this corpus
-- param: recipe text; only recipes whose digest begins so
-- param: parts integer = 20; into how many parts the range is cut
-- column: recipe_digest text; sha256 of the recipe
-- column: from_seconds number; where the part begins
-- column: to_seconds number; where it ends
-- column: adapters integer; adapters of the recipe whose time is in the part
-- column: share number; of all adapters of the recipe, from 0 to 1
-- chart: histogram x=from_seconds,to_seconds y=share series=recipe_digest log
WITH
-- NOT MATERIALIZED: to read the index twice is faster than to copy it once.
chosen AS NOT MATERIALIZED (
    SELECT recipe_id, elapsed_seconds AS seconds
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
-- A millisecond is the least that is told apart.
ends AS (
    SELECT
        CASE WHEN min(seconds) > 0.001 THEN ln(min(seconds)) ELSE ln(0.001) END AS low,
        CASE WHEN max(seconds) > 0.001 THEN ln(max(seconds)) ELSE ln(0.001) END AS high
    FROM chosen
),
scale AS MATERIALIZED (SELECT low, (high - low) / nullif(:parts, 0) AS width FROM ends),
-- Recipe and part in one number, since to sort by one is faster.
placed AS (
    SELECT
        recipe_id * (:parts + 1) + coalesce(
            CAST(
                floor((ln(CASE WHEN seconds > 0.001 THEN seconds ELSE 0.001 END) - low) / nullif(width, 0.0)) AS integer
            ),
            0
        )
            AS place,
        count(*) AS adapters
    FROM chosen CROSS JOIN scale
    GROUP BY 1
),
-- The longest time belongs to the last part.
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
    recipes.digest AS recipe_digest, exp(low + width * part) AS from_seconds, exp(low + width * (part + 1)) AS to_seconds,
    adapters, adapters * 1.0 / sum(adapters) OVER (PARTITION BY recipes.digest) AS share
FROM counted CROSS JOIN scale JOIN recipes ON recipes.id = counted.recipe_id
ORDER BY recipe_digest, part
