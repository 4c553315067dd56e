-- Several bots may write one archive, each in chats of its own. One that may not see a chat must not keep the roster from
-- the one that may.

ALTER TABLE rosters ADD COLUMN read_by text, ADD COLUMN refused_to text[] NOT NULL DEFAULT '{}';
