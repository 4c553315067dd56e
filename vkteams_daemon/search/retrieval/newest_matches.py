"""The newest matches of common words: from which time on there are enough of them.

Only the newest messages with a word are ranked. The server has no index of words and time: it reads either all messages
with the word, or all messages from the newest on. Within a span of time it reads neither: both indexes together name
the messages. Where the span has too few, they are looked for without it, so the answer is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from vkteams_daemon.search.results import Ranked
from vkteams_daemon.search.retrieval.document_frequencies import DocumentFrequencies
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.store.connections import Connection

_MARGIN = 1.5  # as many matches as are wanted; they lie unevenly in time
# Microseconds to read an entry of the index of times, and a message.
_ENTRY, _MESSAGE = 0.04, 2.5

# The planner's statistics of the newest analysis: the ends of parts with as many messages each. On a cluster they lie
# on the machines of the shards, and the coordinator has none.
_SINCE = (
    "SELECT ends[1 + pg_catalog.floor((pg_catalog.array_length(ends, 1) - 1) * (1 - %s::float8))::int4]"
    " FROM (SELECT s.histogram_bounds::text::timestamptz[] AS ends FROM pg_catalog.pg_stats s"
    " WHERE s.schemaname = current_schema() AND s.tablename = 'messages'::name AND s.attname = 'sent_at'::name) AS h"
)


def rank_newest(
    connection: Connection,
    scope: Scope,
    wanted: int,
    matches: float,
    frequencies: DocumentFrequencies,
    rank: Callable[[Scope], tuple[list[Ranked], int]],
) -> list[Ranked]:
    """The ranking of the newest matches.

    Args:
        connection: any connection to the archive.
        scope: of the question.
        wanted: how many of the newest matches are ranked.
        matches: about how many messages match, of those that the reader may see.
        frequencies: of the question.
        rank: ranks the newest matches of a scope; returns how many it has ranked as well.
    """
    since = _enough_since(connection, wanted, matches, frequencies) if _covers_all_time(scope) else None
    if since and (scope.since is None or scope.since < since):
        ranked, number = rank(replace(scope, since=since))
        if number >= wanted:
            return ranked
    return rank(scope)[0]


def _covers_all_time(scope: Scope) -> bool:
    """Whether the scope is all that its reader may see: then the counts say how much of each time matches."""
    return (scope.confined or scope.chat_ids is None) and scope == replace(scope.population, without=scope.without)


def _enough_since(
    connection: Connection, wanted: int, matches: float, frequencies: DocumentFrequencies
) -> datetime | None:
    """From when on there are probably enough matches; None if to look there would be no quicker, or it is unknown."""
    share = _MARGIN * wanted / max(matches, 1.0)
    if share >= 1 or share * frequencies.population * _ENTRY > (matches - _MARGIN * wanted) * _MESSAGE:
        return None
    row = connection.execute(_SINCE, (share,)).fetchone()
    since: datetime | None = row[0] if row else None
    return since
