-- The counts of vectors, kept by whoever stores or deletes them. docs/schema.md describes them.

CREATE TABLE chat_vector_counts (
    chat_id  text NOT NULL,
    model_id integer NOT NULL,
    part     bigint NOT NULL,
    messages bigint NOT NULL,
    vectors  bigint NOT NULL,
    PRIMARY KEY (chat_id, model_id, part)
) WITH (fillfactor = 50);

INSERT INTO chat_vector_counts
    SELECT chat_id, model_id, 0, count(*) FILTER (WHERE kind = 'message' AND chunk = 0), count(*) FROM embeddings
    GROUP BY chat_id, model_id;
