"""Linking: the messages of one conversation with a hit, by who answers whom, who names whom, and who goes on speaking.

A single chat message says little: the answer to a question stands some lines below it, in other words. The constants
say how likely two messages of a chat belong to one conversation. They are rounded shares, counted over the training
half of the benchmark's conversations (bench/relevance.py): 1.9 million pairs of messages at most 40 messages apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vkteams_daemon.search.messages import MessageKey
from vkteams_daemon.search.names import Person, authors
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.distribution import is_distributed

REACH = 40
"""How many messages are read before a hit, and after it."""

# The share side by side, and the distance in messages over which it falls to 1/e of that.
# Two authors who name each other, or one author who names the same person twice: 0.99 side by side, 0.90 at 40.
_MUTUAL = (0.97, 400.0)
# The same author, or one names the other, or both name the same third person: 0.85-0.97 side by side, 0.51-0.62 at 40.
_RELATED = (0.87, 60.0)
# Two authors who name nobody: 0.39 side by side, 0.10 at 40.
_UNADDRESSED = (0.33, 25.0)
# If one message names somebody else, the share is 0.12 and less: not followed.
_LEAST = 0.05
# The benchmark's channel is busy: 40 messages take minutes. In other chats a conversation fades with time as well.
_DECAY_HOURS = 1.0
# Seconds after which even the likeliest pair is not followed.
_APART = 3600 * _DECAY_HOURS * math.log(_MUTUAL[0] / _LEAST)

_SIGNS = ',:;!?()<>[]"«»'
_COLUMNS = "m.chat_id, m.msg_id, m.user_id, m.sent_at, m.reply_to_msg_id, coalesce(pg_catalog.left(m.text, 500), '')"


@dataclass(frozen=True, slots=True)
class Line:
    """A message among its neighbours.

    Attributes:
        place: counted along its chat; the difference of two places is their distance in messages.
        text: its first 500 characters.
        named: the user ids of the people it names, without its author.
    """

    key: MessageKey
    place: int
    user_id: str | None
    sent_at: datetime
    reply_to: str | None
    text: str
    named: frozenset[str]


def likelihood(one: Line, other: Line) -> float:
    """How likely two messages of one chat belong to one conversation, 0..1."""
    if one.key[1] == other.reply_to or other.key[1] == one.reply_to:
        return _MUTUAL[0]
    apart = abs((one.sent_at - other.sent_at).total_seconds())
    if apart > _APART:
        return 0.0
    if one.user_id == other.user_id:
        if not (one.named and other.named):
            share, decay = _RELATED
        elif one.named & other.named:
            share, decay = _MUTUAL
        else:
            return 0.0
    elif one.user_id in other.named and other.user_id in one.named:
        share, decay = _MUTUAL
    elif one.user_id in other.named or other.user_id in one.named or one.named & other.named:
        share, decay = _RELATED
    elif not one.named and not other.named:
        share, decay = _UNADDRESSED
    else:
        return 0.0
    share *= math.exp(-abs(one.place - other.place) / decay)
    share *= math.exp(-apart / 3600 / _DECAY_HOURS)
    return share if share >= _LEAST else 0.0


def neighbourhoods(connection: Connection, keys: Sequence[MessageKey], scope: Scope) -> dict[MessageKey, list[Line]]:
    """Each of these messages with its neighbours and itself, oldest first.

    Args:
        connection: any connection to the archive.
        keys: the messages.
        scope: the neighbours that may be seen.
    """
    if not keys:
        return {}
    hits = (
        "SELECT m.chat_id, m.msg_id, m.sent_at FROM unnest(%(chats)s::text[], %(messages)s::text[]) AS k"
        " (chat_id, msg_id) JOIN messages m ON m.chat_id = k.chat_id AND m.msg_id = k.msg_id"
    )
    parameters = {**scope.parameters, "chats": [key[0] for key in keys], "messages": [key[1] for key in keys]}
    if is_distributed(connection):
        # Citus has no such join as the other query: each hit apart, which its own machine answers.
        around = _around(scope, "%(chat)s::text", "%(message)s::text", "%(at)s::timestamptz")
        found = connection.execute(hits.encode(), parameters, prepare=False).fetchall()
        with connection.pipeline():
            answers = [
                connection.execute(
                    f"SELECT %(chat)s::text, %(message)s::text, n.* FROM ({around}) AS n".encode(),
                    {**scope.parameters, "chat": chat_id, "message": msg_id, "at": sent_at},
                    prepare=False,
                )
                for chat_id, msg_id, sent_at in found
            ]
            rows = [row for answer in answers for row in answer]
    else:
        around = _around(scope, "h.chat_id", "h.msg_id", "h.sent_at")
        rows = connection.execute(
            f"WITH hits AS MATERIALIZED ({hits}) SELECT h.chat_id, h.msg_id, n.* FROM hits h"
            f" CROSS JOIN LATERAL ({around}) AS n".encode(),
            parameters,
            prepare=False,
        ).fetchall()
    said = {(user_id, chat_id, msg_id) for _, _, chat_id, msg_id, user_id, *_ in rows if user_id}
    names = _names(authors(connection, said, scope))
    by_hit: dict[MessageKey, list[tuple[Any, ...]]] = {}
    for chat_id, msg_id, *row in rows:
        by_hit.setdefault((chat_id, msg_id), []).append(tuple(row))
    # In the order of the keys: the server's order of rows depends on its plan, and with it the last bit of a score.
    return {key: _lines(sorted(by_hit[key], key=lambda row: (row[3], row[1])), names) for key in keys if key in by_hit}


def _around(scope: Scope, chat: str, message: str, moment: str) -> str:
    """The query for one message, named by three expressions, and for its neighbours within the scope."""
    side = (
        f"SELECT {_COLUMNS} FROM messages m WHERE m.chat_id = {chat} AND {scope.condition_of_few}"
        f" AND (m.sent_at, m.msg_id) {{comparison}} ({moment}, {message})"
        f" ORDER BY m.sent_at {{order}}, m.msg_id {{order}} LIMIT {REACH}"
    )
    return (
        f"(SELECT {_COLUMNS} FROM messages m WHERE m.chat_id = {chat} AND m.msg_id = {message})"
        f" UNION ALL ({side.format(comparison='<', order='DESC')})"
        f" UNION ALL ({side.format(comparison='>', order='ASC')})"
    )


def lines(connection: Connection, keys: Sequence[MessageKey]) -> dict[MessageKey, Line]:
    """These messages without neighbours, by key; deleted ones are left out."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM unnest(%s::text[], %s::text[]) AS k (chat_id, msg_id)"
        " JOIN messages m ON m.chat_id = k.chat_id AND m.msg_id = k.msg_id WHERE m.deleted_at IS NULL".encode(),
        ([key[0] for key in keys], [key[1] for key in keys]),
    )
    return {
        (chat_id, msg_id): Line((chat_id, msg_id), 0, user_id, sent_at, reply_to, text, frozenset())
        for chat_id, msg_id, user_id, sent_at, reply_to, text in rows
    }


def _lines(rows: Sequence[tuple[Any, ...]], names: Mapping[str, Sequence[str]]) -> list[Line]:
    """The messages of one neighbourhood. A name counts if the person speaks in the neighbourhood."""
    speakers = {row[2] for row in rows}
    present = {name: user_id for user_id in speakers for name in names.get(user_id, ())}
    lines = []
    words_of = _words([row[5] for row in rows])
    for place, ((chat_id, msg_id, user_id, sent_at, reply_to, text), words) in enumerate(
        zip(rows, words_of, strict=True)
    ):
        named = frozenset(present[word] for word in words & present.keys() if present[word] != user_id)
        lines.append(Line((chat_id, msg_id), place, user_id, sent_at, reply_to, text, named))
    return lines


def _words(texts: Sequence[str]) -> list[set[str]]:
    """The words of each text in lower case, without the signs beside them. No text has a NUL, as in PostgreSQL."""
    # All at once: a pass over each text apart, letter by letter, was a quarter of a search page's time.
    joined = "\0".join(texts).lower()
    for sign in _SIGNS:
        joined = joined.replace(sign, " ")
    return [set(text.rstrip(".").split()) for text in joined.replace(". ", " ").split("\0")]


def _names(people: Mapping[str, Person]) -> dict[str, list[str]]:
    """The lower-case words that name a person in a text, by user id: id (as a mention writes it), nick, first name."""
    user_by_name: dict[str, str] = {}
    for user_id, person in sorted(people.items()):
        for name in (user_id, person.nick, person.first_name):
            if name:
                user_by_name.setdefault(name.lower(), user_id)
                user_by_name.setdefault(f"@{name.lower()}", user_id)
    names: dict[str, list[str]] = {}
    for name, user_id in user_by_name.items():
        names.setdefault(user_id, []).append(name)
    return names
