-- When each person sent their first and their last message in a chat, of those that are not deleted.

ALTER TABLE chat_user_counts ADD COLUMN first_at timestamptz, ADD COLUMN last_at timestamptz;
UPDATE chat_user_counts c SET first_at = m.first_at, last_at = m.last_at
    FROM (SELECT chat_id, coalesce(user_id, '') AS user_id, min(sent_at) AS first_at, max(sent_at) AS last_at
          FROM messages WHERE deleted_at IS NULL GROUP BY 1, 2) AS m
    WHERE m.chat_id = c.chat_id AND m.user_id = c.user_id;
