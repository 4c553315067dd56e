"""Document frequencies: in how many messages a term occurs, of the archive or of what a confined reader may see."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from functools import cached_property
from typing import Any

from vkteams_daemon.search.retrieval.query import Query, Term, lexemes_in
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.store.connections import Connection

_COUNT_LIMIT = 2000
"""The count at which counting stops for a word that the table `words` does not hold, for a young archive, and for a
confined reader; then the sample says about how many there are."""
_POPULATION_LIMIT = 50_000
"""The count at which counting stops for all messages that a confined reader may see."""
_WHOLE = 20_000
"""Up to so many messages that a confined reader may see, all of them are read to count words."""
_SAMPLE = 2000
"""Of more, so many of the newest: their share with a common word is taken for that of all of them."""
_COMMON = 20
"""How many messages of the sample have a common word; rarer ones are counted, which the index does quickly."""
_FEW = 1000
"""Up to so many matches in the archive it does not matter how many of them a confined reader may see."""

_ONE_LEXEME = re.compile(r"^'((?:[^'\\]|''|\\\\)+)'$")

_JOINED = re.compile("<|&|!")  # a tsquery of words that must follow one another, or of more than alternatives


class DocumentFrequencies:
    """About how many messages terms find, each counted once for a question.

    0 is exact. A count that the table `words` does not hold is exact up to its limit.

    Args:
        connection: of the question.
        scope: of the question; all that its reader may see is counted.
    """

    def __init__(self, connection: Connection, scope: Scope) -> None:
        self._connection = connection
        self._confined, self._population = scope.confined, scope.population if scope.confined else Scope()
        self._counts = {"": 0}  # a stop word is not in the index

    def of(self, tsqueries: Collection[str]) -> dict[str, int]:
        """The counts of these tsqueries, in PostgreSQL's notation."""
        if new := [tsquery for tsquery in dict.fromkeys(tsqueries) if tsquery not in self._counts]:
            self._counts |= self._seen_counts(new) if self._confined else self._archive_counts(new)
        return {tsquery: self._counts[tsquery] for tsquery in tsqueries}

    def of_query(self, query: Query) -> float:
        """About how many messages match the query, as if its words had nothing to do with each other.

        Nothing is counted: a phrase, or a word that the table `words` does not hold, makes it 0.
        """
        terms = [term for terms in query.alternatives for term in terms if term.tsquery]
        if any(_JOINED.search(term.tsquery) for term in terms):
            return 0.0
        lexemes = {lexeme for term in terms for lexeme in lexemes_in(term.tsquery)}
        rows = self._connection.execute(
            "SELECT word, messages FROM words WHERE word = ANY(%s) UNION ALL SELECT NULL, messages FROM words_counted",
            (list(lexemes),),
        )
        counted: dict[str | None, int] = dict(rows.fetchall())
        whole = counted.get(None) or 1

        def share(term: Term) -> float:
            share = min(1.0, sum(counted.get(lexeme, 0) for lexeme in lexemes_in(term.tsquery)) / whole)
            return 1 - share if term.excluded else share

        shares = [math.prod(share(term) for term in terms if term.tsquery) for terms in query.alternatives]
        matches = min(1.0, sum(shares)) * whole
        return matches * self.population / whole if self._confined and matches > _FEW else matches

    @cached_property
    def population(self) -> float:
        """About how many messages the archive has or, for a confined reader, how many they may see; at least 1."""
        chats = "%(chat_ids)s::text[] IS NULL OR chat_id = ANY(%(chat_ids)s)"
        if self._confined and self._population.chats_alone:
            # The events of the bot that has heard most: nearly each of many is a message. There is a row for each chat
            # and bot, and of messages one for each person.
            row = self._one(
                "SELECT coalesce(pg_catalog.sum(events), 0)::float8 FROM (SELECT pg_catalog.max(events) AS events"
                f" FROM bot_chat_counts WHERE {chats} GROUP BY chat_id) AS heard"
            )
            if row[0] <= _WHOLE:
                row = self._one(
                    "SELECT greatest(coalesce(pg_catalog.sum(messages - deleted), 0), 1)::float8 FROM chat_user_counts"
                    f" WHERE {chats}"
                )
        elif self._confined:
            row = self._one(
                "SELECT greatest(count(*), 1)::float8 FROM (SELECT 1 FROM messages m"
                f" WHERE {self._population.condition} LIMIT {_POPULATION_LIMIT}) AS few"
            )
        else:
            # Before the first count of words the archive is small. The planner's estimate would depend on the moment,
            # and on a cluster there is none.
            row = self._one(
                "SELECT greatest(coalesce((SELECT messages FROM words_counted),"
                " (SELECT pg_catalog.sum(messages - deleted) FROM chat_user_counts)::bigint), 1)::float8"
            )
        return float(row[0])

    def _archive_counts(self, tsqueries: list[str]) -> dict[str, int]:
        lexemes = {q: match[1].replace("''", "'") for q in tsqueries if (match := _ONE_LEXEME.match(q))}
        rows = self._connection.execute(
            "SELECT word, messages FROM words WHERE word = ANY(%s)", (list(lexemes.values()),)
        )
        counted: dict[str, int] = dict(rows.fetchall())
        known = {q: counted[lexeme] for q, lexeme in lexemes.items() if lexeme in counted}
        return known | self._bounded_counts([q for q in tsqueries if q not in known], _COUNT_LIMIT)

    def _seen_counts(self, tsqueries: list[str]) -> dict[str, int]:
        total = self.population
        # By the index of words the server would read all messages with a common word, and those of other chats as well.
        part = "" if total <= _WHOLE else f" ORDER BY m.sent_at DESC, m.chat_id, m.msg_id LIMIT {_SAMPLE}"
        counts = ", ".join(
            f"pg_catalog.count(*) FILTER (WHERE search @@ %(query{n})s::tsquery)" for n in range(len(tsqueries))
        )
        size, *found = self._one(
            f"SELECT count(*), {counts} FROM (SELECT m.search FROM messages m WHERE {self._population.condition}{part})"
            " AS sample",
            tsqueries,
        )
        if not part:
            return dict(zip(tsqueries, map(int, found), strict=True))
        sampled = {q: (n, round(total * n / size)) for q, n in zip(tsqueries, found, strict=True)}
        rare = self._bounded_counts([q for q, (n, _) in sampled.items() if n < _COMMON], _COUNT_LIMIT)
        return {
            q: rare[q] if q in rare and rare[q] < _COUNT_LIMIT else max(rare.get(q, 0), about)
            for q, (_, about) in sampled.items()
        }

    def _bounded_counts(self, tsqueries: list[str], limit: int) -> dict[str, int]:
        """How many messages each tsquery finds, counted up to a limit."""
        if not tsqueries:
            return {}
        # A bounded count instead of EXISTS: for EXISTS the planner would read the table until it finds a match.
        counts = ", ".join(
            f"(SELECT count(*) FROM (SELECT 1 FROM messages m WHERE m.search @@ %(query{n})s::tsquery"
            f" AND {self._population.condition_of_few} LIMIT {limit}) AS few)"
            for n in range(len(tsqueries))
        )
        return dict(zip(tsqueries, map(int, self._one(f"SELECT {counts}", tsqueries)), strict=True))

    def _one(self, sql: str, tsqueries: Collection[str] = ()) -> tuple[Any, ...]:
        """The only row of a statement about the population and these tsqueries: query0, query1 and so on."""
        values = {**self._population.parameters, **{f"query{n}": q for n, q in enumerate(tsqueries)}}
        row = self._connection.execute(sql.encode(), values, prepare=False).fetchone()
        assert row is not None
        return row
