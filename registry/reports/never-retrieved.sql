-- title: Documents of a corpus that no question retrieved
-- about: Of the version that `latest` names; a document counts as retrieved if it was a hit of any question that was put
--   to the corpus and kept in the log, whatever the version.
-- param: corpus text = default; the corpus
-- param: limit integer = 50; the most rows; 0 for all
-- column: corpus text; name of the corpus
-- column: version integer; the version that latest names
-- column: document_digest text; sha256 of the document
-- column: title text; its title
-- column: characters integer; length of its text
-- column: since_version integer; first version in which it has its adapter
SELECT
    corpora.name AS corpus, aliases.version, documents.digest AS document_digest, documents.title, documents.characters,
    memberships.from_version AS since_version
FROM corpora
JOIN aliases ON aliases.corpus_id = corpora.id AND aliases.name = 'latest'
JOIN memberships
    -- The plus has SQLite walk the documents in order, rather than by version, and stop at the limit.
    ON memberships.corpus_id = corpora.id AND +memberships.from_version <= aliases.version
    AND (memberships.to_version IS NULL OR memberships.to_version > aliases.version)
JOIN documents ON documents.id = memberships.document_id
WHERE
    corpora.name = :corpus
    AND NOT EXISTS (
        -- CROSS JOIN has SQLite begin with the hits of the document.
        SELECT 1
        FROM query_hits CROSS JOIN queries
        WHERE
            query_hits.document_id = memberships.document_id AND queries.id = query_hits.query_id
            AND queries.corpus_id = corpora.id
    )
ORDER BY memberships.document_id
LIMIT :limit
