-- The writer makes the tsvector of a message, so that messages and queries are cut into words by one function. Stored
-- messages keep their vectors until the daemon has made new ones (store/rebuild/search_terms.py); the index finds them.

ALTER TABLE messages ALTER COLUMN search DROP EXPRESSION;
ALTER TABLE messages ADD COLUMN search_version smallint NOT NULL DEFAULT 0;

-- The API gives an empty name where it knows none.
UPDATE users SET first_name = nullif(btrim(first_name), ''), last_name = nullif(btrim(last_name), ''),
    nick = nullif(btrim(nick), '')
    WHERE btrim(first_name) = '' OR btrim(last_name) = '' OR btrim(nick) = '';
UPDATE chats SET title = NULL WHERE btrim(title) = '';

CREATE INDEX messages_deleted ON messages (sent_at) WHERE deleted_at IS NOT NULL;
CREATE INDEX messages_search_version ON messages (sent_at) WHERE search_version < 1;
