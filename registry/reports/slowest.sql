-- title: The questions that took longest to answer
-- about: All steps of a query together, and each of them. A step that the way of answering does not have is empty.
-- param: corpus text; only questions put to this corpus
-- param: mode prag|combined|rag|closed-book; only questions answered this way
-- param: limit integer = 50; the most rows; 0 for all
-- column: query integer; number of the query
-- column: reference text; the version that was asked; null: none was
-- column: mode text; prag, combined, rag or closed-book
-- column: total_ms number; milliseconds of all steps
-- column: search_ms number; milliseconds of retrieval
-- column: load_ms number; milliseconds of loading adapters
-- column: merge_ms number; milliseconds of merging them
-- column: inject_ms number; milliseconds of putting them into the model
-- column: prefill_ms number; milliseconds of reading the prompt
-- column: decode_ms number; milliseconds of writing the answer
-- column: answer_tokens integer; tokens of the answer
-- column: question text; as it was asked
-- column: created_at moment; when it was answered
-- chart: bar x=query y=search_ms,load_ms,merge_ms,inject_ms,prefill_ms,decode_ms
SELECT
    query, reference, mode, total_ms, search_ms, load_ms, merge_ms, inject_ms, prefill_ms, decode_ms, answer_tokens,
    question, created_at
FROM v_queries
WHERE (CAST(:corpus AS text) IS NULL OR corpus = :corpus) AND (CAST(:mode AS text) IS NULL OR mode = :mode)
ORDER BY total_ms DESC, query
LIMIT :limit
