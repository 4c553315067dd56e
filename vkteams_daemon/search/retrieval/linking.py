"""Which messages stand in one conversation with a hit: who answers whom, who names whom, who goes on speaking.

A single chat message says little; the answer to a question stands some lines below it, in other words. How likely two
messages of a chat belong to one conversation was counted over the training half of the benchmark's conversations
(bench/relevance.py), 1.9 million pairs at most 40 messages apart; the constants are those shares, rounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from vkteams_daemon.search.scope import Scope

REACH = 40
"""How many messages are looked at before a hit, and after it."""

# Two who name each other, or one who speaks to the same person twice: 0.99 side by side, 0.90 at 40 messages.
_TIED, _TIED_FADES = 0.97, 400.0
# The same author, or one names the other, or both name the same third: 0.85-0.97 side by side, 0.51-0.62 at 40.
_SPOKEN, _SPOKEN_FADES = 0.87, 60.0
# Two who name nobody: 0.39 side by side, 0.10 at 40.
_NEAR, _NEAR_FADES = 0.33, 25.0
# Where one names somebody else it is 0.12 and less: not followed.
_LEAST = 0.05
# The benchmark's channel is busy: 40 messages take minutes. Elsewhere a conversation fades with time as well.
_HOURS_FADE = 1.0

_SIGNS = str.maketrans(dict.fromkeys(',:;!?()<>[]"«»', " "))

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Line:
    """A message among its neighbours.

    Attributes:
        place: counted along its chat; the difference of two places is how many messages lie between.
        named: the user ids of those it names, its author left out.
    """

    key: Key
    place: int
    user_id: str | None
    sent_at: datetime
    reply_to: str | None
    text: str
    named: frozenset[str]


def likelihood(one: Line, other: Line) -> float:
    """How likely two messages of one chat belong to one conversation, 0..1."""
    if one.key[1] == other.reply_to or other.key[1] == one.reply_to:
        return _TIED
    between = abs(one.place - other.place)
    if one.user_id == other.user_id:
        if one.named and other.named:
            share = _TIED * math.exp(-between / _TIED_FADES) if one.named & other.named else 0.0
        else:
            share = _SPOKEN * math.exp(-between / _SPOKEN_FADES)
    elif one.user_id in other.named and other.user_id in one.named:
        share = _TIED * math.exp(-between / _TIED_FADES)
    elif one.user_id in other.named or other.user_id in one.named or one.named & other.named:
        share = _SPOKEN * math.exp(-between / _SPOKEN_FADES)
    elif not one.named and not other.named:
        share = _NEAR * math.exp(-between / _NEAR_FADES)
    else:
        return 0.0
    share *= math.exp(-abs((one.sent_at - other.sent_at).total_seconds()) / 3600 / _HOURS_FADE)
    return share if share >= _LEAST else 0.0


def read(connection: psycopg.Connection[Any], keys: Sequence[Key], scope: Scope) -> dict[Key, list[Line]]:
    """Each of these messages with its neighbours, and itself among them, in the order of saying.

    Args:
        connection: any connection to the archive.
        keys: of messages.
        scope: what may be seen.
    """
    if not keys:
        return {}
    columns = "m.msg_id, m.user_id, m.sent_at, m.reply_to_msg_id, left(m.text, 500)"
    side = (
        f"SELECT {columns} FROM messages m WHERE m.chat_id = h.chat_id AND {scope.condition}"
        " AND (m.sent_at, m.msg_id) {comparison} (h.sent_at, h.msg_id)"
        f" ORDER BY m.sent_at {{order}}, m.msg_id {{order}} LIMIT {REACH}"
    )
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "WITH hits AS MATERIALIZED (SELECT m.chat_id, m.msg_id, m.sent_at FROM"
            " unnest(%(chats)s::text[], %(messages)s::text[]) AS k (chat_id, msg_id)"
            " JOIN messages m ON m.chat_id = k.chat_id AND m.msg_id = k.msg_id)"
            " SELECT h.chat_id, h.msg_id, n.* FROM hits h CROSS JOIN LATERAL ("
            f" (SELECT {columns} FROM messages m WHERE m.chat_id = h.chat_id AND m.msg_id = h.msg_id)"
            f" UNION ALL ({side.format(comparison='<', order='DESC')})"
            f" UNION ALL ({side.format(comparison='>', order='ASC')})) AS n".encode(),
            {**scope.parameters, "chats": [key[0] for key in keys], "messages": [key[1] for key in keys]},
            prepare=False,
        )
        rows = cursor.fetchall()
    names = _names(connection, {row[3] for row in rows if row[3]})
    around: dict[Key, list[tuple[Any, ...]]] = {}
    for chat_id, hit, *rest in rows:
        around.setdefault((chat_id, hit), []).append((chat_id, *rest))
    return {key: _lines(sorted(group, key=lambda row: (row[3], row[1])), names) for key, group in around.items()}


def _lines(rows: Sequence[tuple[Any, ...]], names: dict[str, str]) -> list[Line]:
    """The messages of one neighbourhood; a name counts where its bearer speaks in it."""
    speaking = {row[2] for row in rows}
    here = {name: user_id for name, user_id in names.items() if user_id in speaking}
    lines = []
    for place, (chat_id, msg_id, user_id, sent_at, reply_to, text) in enumerate(rows):
        words = set((text or "").lower().translate(_SIGNS).replace(". ", " ").rstrip(".").split())
        named = frozenset(here[word] for word in words & here.keys() if here[word] != user_id)
        lines.append(Line((chat_id, msg_id), place, user_id, sent_at, reply_to, text or "", named))
    return lines


def _names(connection: psycopg.Connection[Any], user_ids: set[str]) -> dict[str, str]:
    """What these people are called in a text, lower case: id (as a mention writes it), nick, first name."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SELECT user_id, nick, first_name FROM users WHERE user_id = ANY(%s)", (list(user_ids),))
        called: dict[str, str] = {}
        for user_id, *names in cursor:
            for name in (user_id, *names):
                if name:
                    called.setdefault(name.lower(), user_id)
                    called.setdefault(f"@{name.lower()}", user_id)
        return called
