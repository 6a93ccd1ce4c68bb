-- title: What the adapters of every build took to train
-- about: Newest builds first. The training time is the sum of the adapters' shares of the groups that they were trained
--   in; with several workers, or beside generation and reading, it is not the time that the build took.
-- param: corpus text; only builds of this corpus
-- param: limit integer = 50; the most rows; 0 for all
-- column: build integer; number of the build
-- column: corpus text; name of its corpus
-- column: recipe_digest text; sha256 of its recipe
-- column: status text; running, finished, failed or interrupted
-- column: adapters integer; adapters that it made
-- column: tokens integer; tokens passed through the model in training, all epochs together
-- column: training_seconds number; training time of these adapters together
-- column: adapter_seconds number; training time of one of them, mean; null: it made none
-- column: elapsed_seconds number; from its start to its end; null: it runs
-- column: size_bytes integer; bytes of the adapters
-- column: started_at moment; when it began
-- chart: bar x=build y=training_seconds series=corpus
WITH
parts AS (
    SELECT
        recipe_id, build_id, count(*) AS adapters, sum(tokens) AS tokens, sum(elapsed_seconds) AS training_seconds,
        sum(size_bytes) AS size_bytes
    FROM adapters
    GROUP BY recipe_id, build_id
),
costs AS (
    SELECT
        build_id, sum(adapters) AS adapters, sum(tokens) AS tokens, sum(training_seconds) AS training_seconds,
        sum(size_bytes) AS size_bytes
    FROM parts
    GROUP BY build_id
)
SELECT
    build, corpus, recipe_digest, status, coalesce(costs.adapters, 0) AS adapters, coalesce(costs.tokens, 0) AS tokens,
    coalesce(training_seconds, 0.0) AS training_seconds, training_seconds / costs.adapters AS adapter_seconds,
    elapsed_seconds, coalesce(costs.size_bytes, 0) AS size_bytes, started_at
FROM v_builds LEFT JOIN costs ON costs.build_id = v_builds.build
WHERE CAST(:corpus AS text) IS NULL OR corpus = :corpus
ORDER BY build DESC
LIMIT :limit
