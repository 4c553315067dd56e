-- The counts of messages and events, kept by whoever writes these. docs/schema.md describes them.

CREATE TABLE chat_user_counts (
    chat_id  text NOT NULL,
    user_id  text NOT NULL,
    messages bigint NOT NULL,
    edited   bigint NOT NULL,
    deleted  bigint NOT NULL,
    versions bigint NOT NULL,
    PRIMARY KEY (chat_id, user_id)
) WITH (fillfactor = 50);

CREATE TABLE chat_hour_counts (
    chat_id  text NOT NULL,
    hour     timestamptz NOT NULL,
    messages bigint NOT NULL,
    edited   bigint NOT NULL,
    deleted  bigint NOT NULL,
    versions bigint NOT NULL,
    PRIMARY KEY (chat_id, hour)
) WITH (fillfactor = 50);
CREATE INDEX chat_hour_counts_hour ON chat_hour_counts (hour);

INSERT INTO chat_user_counts
    SELECT chat_id, coalesce(user_id, ''), count(*), count(edited_at), count(deleted_at),
        sum(greatest(version - 1, 0)) FROM messages GROUP BY 1, 2;
INSERT INTO chat_hour_counts
    SELECT chat_id, to_timestamp(floor(extract(epoch FROM sent_at) / 3600) * 3600), count(*), count(edited_at),
        count(deleted_at), sum(greatest(version - 1, 0)) FROM messages GROUP BY 1, 2;

ALTER TABLE bots ADD COLUMN events bigint NOT NULL DEFAULT 0;
UPDATE bots b SET events = e.events FROM (SELECT bot_id, count(*) AS events FROM events GROUP BY bot_id) AS e
    WHERE e.bot_id = b.bot_id;
