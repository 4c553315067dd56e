-- Words are cut otherwise where a month, №, a letter without a fold or the like touches a number. The daemon makes the
-- terms of stored messages again (store/rebuild/search_terms.py); the index finds those that have old ones.

DROP INDEX messages_search_version;
CREATE INDEX messages_search_version ON messages (sent_at) WHERE search_version < 2;
