-- title: What generators wrote, and what was dropped of it
-- about: One row for each generator and version of the prompts, over all requests. What was dropped failed the check
--   that it is grounded in the document.
-- column: generator text; a model, an endpoint's model, or an import
-- column: prompts_version text; version of the prompts
-- column: requests integer; documents that were asked for
-- column: rewrites integer; rewrites that were kept
-- column: dropped_rewrites integer; rewrites that were dropped
-- column: pairs integer; question-answer pairs that were kept
-- column: dropped_pairs integer; pairs that were dropped
-- column: pairs_kept number; share of the pairs that was kept, from 0 to 1; null: there were none
-- column: pairs_per_document number; pairs that were kept, a request, mean
-- column: tokens integer; tokens generated
-- column: elapsed_seconds number; time of generation
-- chart: bar x=generator y=pairs,dropped_pairs
SELECT
    generator, prompts_version, count(*) AS requests, sum(augmentations.rewrites) AS rewrites,
    sum(requests.dropped_rewrites) AS dropped_rewrites, sum(augmentations.pairs) AS pairs,
    sum(requests.dropped_pairs) AS dropped_pairs,
    sum(augmentations.pairs) * 1.0 / nullif(sum(augmentations.pairs) + sum(requests.dropped_pairs), 0) AS pairs_kept,
    sum(augmentations.pairs) * 1.0 / count(*) AS pairs_per_document, sum(requests.tokens) AS tokens,
    sum(requests.elapsed_seconds) AS elapsed_seconds
-- CROSS JOIN has SQLite read the two indexes in this order.
FROM augmentations CROSS JOIN augmentation_requests AS requests
WHERE requests.augmentation_id = augmentations.id
GROUP BY generator, prompts_version
ORDER BY generator, prompts_version
