-- When the API answered a bot's poll last: a pause for longer than the API keeps events is a gap. docs/schema.md describes it.

ALTER TABLE bots ADD COLUMN polled_at timestamptz;

-- Coverage told of ids that had started over by the generation alone; now each is a gap that can be dismissed.
INSERT INTO gaps (bot_id, reason, to_time)
    SELECT e.bot_id, 'the API started its event ids over', min(e.received_at) FROM events e WHERE e.generation > 1
    GROUP BY e.bot_id, e.generation;
