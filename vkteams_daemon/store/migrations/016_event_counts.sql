-- The counts of events of each bot by chat, kept by whoever writes events. docs/schema.md describes them.

CREATE TABLE bot_chat_counts (
    bot_id  text NOT NULL,
    chat_id text NOT NULL,
    events  bigint NOT NULL,
    last_at timestamptz NOT NULL,
    PRIMARY KEY (bot_id, chat_id)
) WITH (fillfactor = 50);
CREATE INDEX bot_chat_counts_chat ON bot_chat_counts (chat_id);

INSERT INTO bot_chat_counts
    SELECT bot_id, chat_id, count(*), max(received_at) FROM events WHERE chat_id IS NOT NULL GROUP BY bot_id, chat_id;
