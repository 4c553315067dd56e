-- Who is in a chat and who runs it, as the API's own lists say. docs/schema.md describes the tables.

CREATE TABLE rosters (
    chat_id     text PRIMARY KEY,
    type        text,
    title       text,
    about       text,
    tried_at    timestamptz NOT NULL,
    read_at     timestamptz,
    refused     text
);

CREATE TABLE roster_members (
    chat_id text NOT NULL,
    user_id text NOT NULL,
    since   timestamptz NOT NULL,
    until   timestamptz,
    role    text NOT NULL CHECK (role IN ('member', 'admin', 'creator')),
    PRIMARY KEY (chat_id, user_id, since)
);
CREATE UNIQUE INDEX roster_members_present ON roster_members (chat_id, user_id) WHERE until IS NULL;
CREATE INDEX roster_members_user ON roster_members (user_id, chat_id);
