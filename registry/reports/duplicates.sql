-- title: Documents at several places, and texts under several titles
-- about: A document that stands at several places of a corpus (in the version that `latest` names) is encoded once, so
--   it costs nothing; it may mean that a source was read twice. A text under several titles is several documents, each
--   with an adapter, which compete in retrieval. The most copies come first, the two kinds by turns.
-- param: corpus text; only documents of this corpus
-- param: limit integer = 50; the most rows; 0 for all
-- column: kind text; places: one document at several places; titles: one text under several titles
-- column: copies integer; how many places, or how many titles
-- column: document_digest text; sha256 of the document
-- column: title text; its title
-- column: corpus text; name of the corpus; null for titles
-- column: source_uri text; a file or address in which it stands; null for titles
-- column: ordinal integer; number of the passage there, from 0; null for titles
WITH
repeated AS (
    SELECT places.document_id, places.corpus_id, min(aliases.version) AS version, count(*) AS copies
    FROM places CROSS JOIN aliases
    WHERE
        aliases.corpus_id = places.corpus_id AND aliases.name = 'latest'
        AND places.from_version <= aliases.version
        AND (places.to_version IS NULL OR places.to_version > aliases.version)
        AND (
            CAST(:corpus AS text) IS NULL OR places.corpus_id IN (SELECT id FROM corpora WHERE corpora.name = :corpus)
        )
    GROUP BY places.document_id, places.corpus_id
    HAVING count(*) > 1
    ORDER BY copies DESC, places.document_id, places.corpus_id
    LIMIT :limit
),
shared AS (
    SELECT text_key, count(*) AS copies
    FROM documents
    WHERE
        -- The key of the empty text: an adapter that was imported has a document without one.
        text_key <> -2039914840885289964
        AND (
            CAST(:corpus AS text) IS NULL
            OR EXISTS (
                SELECT 1
                FROM memberships
                JOIN corpora ON corpora.id = memberships.corpus_id
                JOIN aliases ON aliases.corpus_id = memberships.corpus_id AND aliases.name = 'latest'
                WHERE
                    memberships.document_id = documents.id AND corpora.name = :corpus
                    AND memberships.from_version <= aliases.version
                    AND (memberships.to_version IS NULL OR memberships.to_version > aliases.version)
            )
        )
    GROUP BY text_key
    HAVING count(*) > 1
    ORDER BY copies DESC, text_key
    LIMIT :limit
)
SELECT kind, copies, document_digest, title, corpus, source_uri, ordinal
FROM (
    SELECT
        'places' AS kind, repeated.copies, documents.digest AS document_digest, documents.title,
        corpora.name AS corpus, sources.uri AS source_uri, places.ordinal, documents.digest AS grouped
    FROM repeated
    JOIN places
        ON places.document_id = repeated.document_id AND places.corpus_id = repeated.corpus_id
        AND places.from_version <= repeated.version
        AND (places.to_version IS NULL OR places.to_version > repeated.version)
    JOIN documents ON documents.id = repeated.document_id
    JOIN corpora ON corpora.id = repeated.corpus_id
    JOIN sources ON sources.id = places.source_id
    UNION ALL
    SELECT
        'titles', shared.copies, documents.digest, documents.title, CAST(NULL AS text), CAST(NULL AS text),
        CAST(NULL AS bigint), CAST(shared.text_key AS text)
    FROM shared
    JOIN documents ON documents.text_key = shared.text_key
    -- Keys are short: that the texts are equal is seen from the texts.
    WHERE EXISTS (
        SELECT 1 FROM documents AS other
        WHERE other.text_key = shared.text_key AND other.id <> documents.id AND other.text = documents.text
    )
) AS found
ORDER BY
    dense_rank() OVER (PARTITION BY kind ORDER BY copies DESC, grouped), kind, document_digest, corpus, source_uri,
    ordinal
LIMIT :limit
