"""The scope of a question: chats, an author, a span of time. Deleted messages are never in it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from vkteams_daemon.errors import NotFound
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.distribution import is_distributed

Kind = Literal["file", "image", "video", "voice", "link", "mention"]
"""What a message can have."""

KINDS: tuple[Kind, ...] = ("file", "image", "video", "voice", "link", "mention")

# Everything within the parts, in forwards and quotes as well.
_PART = "pg_catalog.jsonb_path_exists(m.parts, '$.** ? (@.type == \"{}\")'::jsonpath, silent => true)"
_FILE = (
    'pg_catalog.jsonb_path_exists(m.parts, \'$.** ? (@.type == "file").payload ? (@.type == "{}")\'::jsonpath,'
    " silent => true)"
)
HAS: dict[Kind, str] = {
    "file": _PART.format("file"),
    "image": _FILE.format("image"),
    "video": _FILE.format("video"),
    "voice": _PART.format("voice"),
    "link": "(m.text ~* '(https?|ftp)://|(^|[^[:alnum:].])www[.]'::text"
    " OR pg_catalog.jsonb_path_exists(m.format, '$.link[*]'::jsonpath, silent => true)"
    " OR pg_catalog.jsonb_path_exists(m.parts, '$.**.format.link[*]'::jsonpath, silent => true))",
    "mention": f"(m.text ~ '@[[][^][ ]+[]]'::text OR {_PART.format('mention')})",
}
"""The conditions on `messages AS m`."""

_MENTIONS = (
    "(pg_catalog.strpos(m.text, %(mention)s::text) > 0 OR pg_catalog.jsonb_path_exists(m.parts,"
    " '$.** ? (@.type == \"mention\").payload ? (@.userId == $id)'::jsonpath,"
    " pg_catalog.jsonb_build_object('id', %(mentions)s::text), true))"
)

_IN_CHATS = "m.chat_id = ANY(%(chat_ids)s)"
# The planner has no statistics of an expression. The server still looks each chat up in a hash table.
_IN_MANY_CHATS = "m.chat_id || ''::text = ANY(%(chat_ids)s)"
MANY_CHATS = 20
"""How many chats the planner may weigh."""


@dataclass(frozen=True, slots=True)
class Period:
    """A time of a chat that a reader may see.

    Attributes:
        chat_id: the chat.
        start: inclusive, aware; None means from the beginning.
        end: exclusive, aware; None means up to now and later.
    """

    chat_id: str
    start: datetime | None
    end: datetime | None


@dataclass(frozen=True, slots=True)
class Scope:
    """The filters of one question, as one piece of SQL.

    Attributes:
        chat_ids: only these chats; None means every chat, an empty collection means none.
        user_id: only this author.
        since: only messages sent at this moment or later (aware).
        until: only messages sent before this moment (aware).
        arrived: only messages that had arrived by this moment (aware); set for the further pages of an answer.
        without: a tsquery that no message may match; "" excludes nothing.
        has: only messages with all of these, also in what they forward.
        mentions: only messages that mention this person.
        reply_to_user: only messages that answer a message of this person, which the reader may see.
        edited: only messages that were edited.
        deleted: only messages that were deleted, in the place of those that were not.
        confined: whether the reader may see nothing beyond `chat_ids` and `since`. No number and no word of an answer
            then depends on a row outside them.
        periods: of a chat that is named here, only these periods; other chats are not concerned.
    """

    chat_ids: Collection[str] | None = None
    user_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    arrived: datetime | None = None
    without: str = ""
    confined: bool = False
    has: tuple[Kind, ...] = ()
    mentions: str | None = None
    reply_to_user: str | None = None
    edited: bool = False
    deleted: bool = False
    periods: tuple[Period, ...] = ()

    @property
    def population(self) -> Scope:
        """The messages that weigh the words of a confined question: all that its reader may see."""
        return Scope(
            self.chat_ids, since=self.since, arrived=self.arrived, confined=self.confined, periods=self.periods
        )

    @property
    def narrows(self) -> bool:
        """Whether a filter is set that may leave few messages."""
        filters = (self.chat_ids, self.user_id, self.since, self.until, self.mentions, self.reply_to_user)
        return any(each is not None for each in filters) or bool(self.has) or self.edited or self.deleted

    @property
    def chats_alone(self) -> bool:
        """Whether no filter but `chat_ids` is set: the kept counts of chats answer the question."""
        return self == Scope(self.chat_ids, confined=self.confined)

    @property
    def condition(self) -> str:
        """The condition on `messages AS m`; its parameters are `parameters`."""
        return " AND ".join([f"m.deleted_at IS {'NOT ' if self.deleted else ''}NULL", *self._filters])

    @property
    def condition_of_few(self) -> str:
        """The same condition for rows that an index finds by something else: by keys, a rare word, an author.

        The planner weighs each of the chats that a column is compared with: 500 chats take it 1.3 ms each time. What
        it gains is whether to look the rows up by their chats.
        """
        many = self.chat_ids is not None and len(self.chat_ids) > MANY_CHATS
        return self.condition.replace(_IN_CHATS, _IN_MANY_CHATS) if many else self.condition

    @property
    def condition_with_deleted(self) -> str:
        """The same condition with deleted messages included, for an export that asks for them."""
        return " AND ".join(self._filters) or "true"

    def within_periods(self, chat: str = "m.chat_id", moment: str = "m.sent_at") -> str:
        """The condition that a row is within the periods, by its columns of chat and time; empty without periods."""
        if not self.periods:
            return ""
        return (
            f"({chat} <> ALL(%(period_chats)s::text[]) OR EXISTS (SELECT FROM ROWS FROM"
            " (pg_catalog.unnest(%(period_chats)s::text[]), pg_catalog.unnest(%(period_starts)s::timestamptz[]),"
            " pg_catalog.unnest(%(period_ends)s::timestamptz[])) AS p (chat_id, start, stop)"
            f" WHERE p.chat_id = {chat} AND {moment} >= p.start AND {moment} < p.stop))"
        )

    @property
    def period_parameters(self) -> dict[str, Any]:
        """The values that `within_periods` names; none without periods."""
        if not self.periods:
            return {}
        return {
            "period_chats": [period.chat_id for period in self.periods],
            "period_starts": [period.start.isoformat() if period.start else "-infinity" for period in self.periods],
            "period_ends": [period.end.isoformat() if period.end else "infinity" for period in self.periods],
        }

    @property
    def _filters(self) -> list[str]:
        parts = []
        if self.chat_ids is not None:
            parts.append(_IN_CHATS)
        if self.user_id is not None:
            parts.append("m.user_id = %(user_id)s")
        if self.since is not None:
            parts.append("m.sent_at >= %(since)s")
        if self.until is not None:
            parts.append("m.sent_at < %(until)s")
        if self.arrived is not None:
            parts.append("m.received_at <= %(arrived)s")
        if self.edited:
            parts.append("m.edited_at IS NOT NULL")
        if self.mentions is not None:
            parts.append(_MENTIONS)
        if self.reply_to_user is not None:
            seen = self.population.condition_with_deleted if self.confined else "true"
            parts.append(
                "(m.chat_id, m.reply_to_msg_id) IN (SELECT m.chat_id, m.msg_id FROM messages m"
                f" WHERE m.user_id = %(reply_to_user)s::text AND {seen})"
            )
        if self.periods:
            parts.append(self.within_periods())
        parts += [HAS[kind] for kind in self.has]
        if self.without:
            parts.append("NOT m.search @@ %(without)s::tsquery")
        return parts

    @property
    def parameters(self) -> dict[str, Any]:
        """The values that `condition` names."""
        return {
            "chat_ids": None if self.chat_ids is None else sorted(self.chat_ids),
            "user_id": self.user_id,
            "since": self.since,
            "until": self.until,
            "arrived": self.arrived,
            "without": self.without,
            "mentions": self.mentions,
            "mention": None if self.mentions is None else f"@[{self.mentions}]",
            "reply_to_user": self.reply_to_user,
            "has": list(self.has),
            "edited": self.edited,
            "deleted": self.deleted,
            **self.period_parameters,
        }


def chat_by_chat(connection: Connection, chats: str) -> str:
    """What follows FROM, `AS c (chat_id)`, for a query that looks into each of the chats of a parameter apart.

    So each answer is one access to an index. If the archive has several machines, the chats come from the counts: then
    one machine answers for a chat, and chats without messages are left out.

    Args:
        connection: any connection to the archive.
        chats: the name of the parameter.
    """
    if is_distributed(connection):
        return f"(SELECT chat_id FROM chat_user_counts WHERE chat_id = ANY(%({chats})s) GROUP BY chat_id) AS c"
    return f"pg_catalog.unnest(%({chats})s::text[]) AS c (chat_id)"


def with_threads(connection: Connection, chat_ids: Collection[str], since: datetime | None = None) -> list[str]:
    """These chats, and the threads that hang on their messages: a thread is a chat of its own.

    Args:
        connection: any connection to the archive.
        chat_ids: the chats.
        since: only threads with a message sent at this moment or later (aware).
    """
    rows = connection.execute(
        "SELECT chat_id FROM pg_catalog.unnest(%(chats)s::text[]) AS c (chat_id)"
        " UNION SELECT chat_id FROM chats WHERE parent_chat_id = ANY(%(chats)s) ORDER BY 1",
        {"chats": sorted(chat_ids)},
    )
    found = [chat_id for (chat_id,) in rows]
    if since is None:
        return found
    named = set(chat_ids)
    speaking = _speaking_since(connection, [chat_id for chat_id in found if chat_id not in named], since)
    return [chat_id for chat_id in found if chat_id in named or chat_id in speaking]


def _speaking_since(connection: Connection, chat_ids: Collection[str], since: datetime) -> set[str]:
    """Those of these chats that have a message sent at this moment or later (aware)."""
    # Each chat apart: one access to an index, and one machine that answers.
    with connection.pipeline():
        answers = [
            connection.execute(
                "SELECT m.chat_id FROM messages m WHERE m.chat_id = %s AND m.sent_at >= %s LIMIT 1", (chat_id, since)
            )
            for chat_id in chat_ids
        ]
        return {chat_id for answer in answers for (chat_id,) in answer}


def spelled_chats(connection: Connection, chat_ids: Collection[str]) -> list[str]:
    """The ids of chats as the archive spells them; unknown ones as they are.

    The id of a private chat may be an e-mail address, which is the same in any case.
    """
    rows = connection.execute(
        "SELECT coalesce((SELECT c.chat_id FROM chats c WHERE c.chat_id = typed.id),"
        " (SELECT pg_catalog.min(c.chat_id) FROM chats c WHERE pg_catalog.strpos(typed.id, '@'::text) > 0"
        "  AND pg_catalog.lower(c.chat_id) = pg_catalog.lower(typed.id) HAVING count(*) = 1), typed.id)"
        " FROM pg_catalog.unnest(%s::text[]) WITH ORDINALITY AS typed (id, place) ORDER BY typed.place",
        (list(chat_ids),),
    )
    return [row[0] for row in rows]


def existing(
    connection: Connection,
    chat_ids: Collection[str] | None,
    *,
    threads: bool,
    since: datetime | None = None,
) -> list[str] | None:
    """These chats as a user has named them, with `threads` also the threads that hang on them; None stays None.

    With `since` a chat exists if it has a message sent at this moment or later (aware).

    Raises:
        NotFound: the archive has never seen one of these chats. An empty answer would look like a quiet chat.
    """
    if chat_ids is None:
        return None
    if since is None:  # otherwise the refusal of a chat that is not seen would tell its spelling
        chat_ids = spelled_chats(connection, chat_ids)
    known: set[str] = set()
    if since is None:
        rows = connection.execute("SELECT chat_id FROM chats WHERE chat_id = ANY(%s)", (list(chat_ids),))
        known = {chat_id for (chat_id,) in rows}
    others = [chat_id for chat_id in chat_ids if chat_id not in known]
    speaking = _speaking_since(connection, others, since or datetime.min.replace(tzinfo=UTC)) if others else set()
    unknown_chat = next((chat_id for chat_id in others if chat_id not in speaking), None)
    if unknown_chat is not None:
        raise NotFound(
            f"the archive has no chat {unknown_chat}",
            hint="`vkteamsctl context chats` and the tool list_chats name those it has.",
        )
    return with_threads(connection, chat_ids, since) if threads else list(chat_ids)
