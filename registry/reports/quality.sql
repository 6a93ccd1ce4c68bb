-- title: How right the answers were, over the versions of a corpus
-- about: From the evaluations, over all questions of each; a row is one way of answering. Compare rows of the same
--   questions only: questions_name and questions say which they were.
-- param: corpus text; only evaluations of this corpus
-- param: measure text = f1; exact_match, f1, recall_at_10 and the like
-- param: limit integer = 500; the most rows; 0 for all
-- column: corpus text; name of the corpus
-- column: version integer; the version that was asked
-- column: evaluation integer; number of the evaluation
-- column: questions_name text; name of the file of questions
-- column: questions integer; questions that were asked
-- column: mode text; way of answering
-- column: k integer; documents a question; 0 where the mode takes none
-- column: merge text; how adapters were merged; empty where none was
-- column: measure text; what was measured
-- column: mean number; from 0 to 1
-- column: low number; lower bound of its interval of 95 %
-- column: high number; upper bound of it
-- column: mean_ms number; milliseconds a question
-- column: created_at moment; when it was evaluated
-- chart: line x=version y=mean series=corpus,mode,k
SELECT
    corpus, version, evaluation, questions_name, questions, mode, k, merge, measure, mean, low, high, mean_ms, created_at
FROM v_evaluations
WHERE
    question_type = '' AND measure = :measure AND (CAST(:corpus AS text) IS NULL OR corpus = :corpus)
ORDER BY corpus, questions_name, mode, k, merge, version, evaluation
LIMIT :limit
