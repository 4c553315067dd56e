-- Codes, months, sizes, abbreviations and words with signs are found in their other spellings. The daemon makes the terms of
-- stored messages again (store/rebuild/search_terms.py); the index finds those that have old ones.

DROP INDEX messages_search_version;
CREATE INDEX messages_search_version ON messages (sent_at) WHERE search_version < 6;
