"""What somebody asks for, in web search syntax: words, "phrases", -without, this OR that; and its tsquery.

A word with signs inside (JIRA-1234, host-01.corp, /var/log/x.log) is looked for whole and by its parts: the messages
are indexed both ways. A query never fails to be read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from vkteams_daemon.search.spelling.keyboard import fold

MOST_TERMS = 64
"""Of one query; further ones are not looked at."""

_TERM = re.compile(r'(-?)"([^"]*)"?|(\S+)')
_SIGNS = re.compile(r"[\W_]+")
_SIGNS_INSIDE = re.compile(r"[^\W_][\W_]+[^\W_]")
_TSQUERY = (
    "CASE WHEN {phrase} THEN phraseto_tsquery('vkteams'::regconfig, {text})"
    " ELSE plainto_tsquery('vkteams'::regconfig, {text}) || plainto_tsquery('vkteams'::regconfig, {parts}) END"
)


@dataclass(frozen=True, slots=True)
class Term:
    """A word or phrase of a query.

    Attributes:
        typed: as it was typed, without its quotes and minus.
        phrase: whether its words must follow one another.
        excluded: whether messages that hold it are left out.
        tsquery: what finds it, in PostgreSQL's notation; "" for what is never looked for (the, и).
        meant: what is looked for in its place, or None where it is looked for as typed.
    """

    typed: str
    phrase: bool = False
    excluded: bool = False
    tsquery: str = ""
    meant: str | None = None

    @property
    def shown(self) -> str:
        """The term as a query writes it."""
        text = self.typed if self.meant is None else self.meant
        return ("-" if self.excluded else "") + (f'"{text}"' if self.phrase else text)


@dataclass(frozen=True, slots=True)
class Query:
    """A query: any of its alternatives, and of an alternative every term."""

    alternatives: tuple[tuple[Term, ...], ...] = field(default=())

    @property
    def terms(self) -> list[Term]:
        """The terms that are looked for, of every alternative."""
        return [term for terms in self.alternatives for term in terms if not term.excluded and term.tsquery]

    @property
    def without(self) -> str:
        """What finds the messages that must not be in the answer; "" where nothing is excluded."""
        return " | ".join(
            f"({term.tsquery})" for terms in self.alternatives for term in terms if term.excluded and term.tsquery
        )

    @property
    def wanted(self) -> str:
        """The query as one would say it: without its quotes, and without what it excludes."""
        return " ".join(
            term.typed if term.meant is None else term.meant
            for terms in self.alternatives
            for term in terms
            if not term.excluded
        )

    @property
    def tsquery(self) -> str:
        """What finds the messages that match; "" where nothing is looked for."""
        parts = []
        for terms in self.alternatives:
            wanted = [f"!({t.tsquery})" if t.excluded else f"({t.tsquery})" for t in terms if t.tsquery]
            if wanted:
                parts.append(" & ".join(wanted))
        return " | ".join(f"({part})" for part in parts)

    @property
    def changed(self) -> bool:
        """Whether anything is looked for in the place of what was typed."""
        return any(term.meant is not None for terms in self.alternatives for term in terms)

    @property
    def shown(self) -> str:
        """The query as one would type it."""
        return " OR ".join(" ".join(term.shown for term in terms) for terms in self.alternatives)

    def with_terms(self, changed: dict[str, Term]) -> Query:
        """The query with other terms in the place of those typed so."""
        return Query(
            tuple(
                tuple(t if t.phrase or t.excluded else changed.get(t.typed, t) for t in terms)
                for terms in self.alternatives
            )
        )


def parse(text: str) -> Query:
    """The query as it is written; its tsqueries are still to be read."""
    alternatives: list[list[Term]] = [[]]
    for match in list(_TERM.finditer(text.replace("\x00", " ")))[:MOST_TERMS]:
        minus, phrase, word = match.groups()
        if word is None:
            if phrase.strip():
                alternatives[-1].append(Term(phrase.strip(), phrase=True, excluded=bool(minus)))
        elif word.lower() == "or":
            alternatives.append([])
        elif word.startswith("-") and len(word) > 1:
            alternatives[-1].append(Term(word[1:], excluded=True))
        else:
            alternatives[-1].append(Term(word))
    return Query(tuple(tuple(terms) for terms in alternatives if terms))


def read(connection: psycopg.Connection[Any], text: str) -> Query:
    """The query with what finds each of its terms."""
    query = parse(text)
    found = iter(tsqueries(connection, [term for terms in query.alternatives for term in terms]))
    return Query(tuple(tuple(replace(term, tsquery=next(found)) for term in terms) for terms in query.alternatives))


def tsqueries(connection: psycopg.Connection[Any], terms: Sequence[Term]) -> list[str]:
    """What finds each of these terms, in PostgreSQL's notation; "" for words that are never looked for."""
    if not terms:
        return []
    made = _TSQUERY.format(phrase="t.phrase", text="t.text", parts="t.parts")
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            f"SELECT ({made})::text FROM unnest(%s::text[], %s::text[], %s::bool[])"
            " WITH ORDINALITY AS t (text, parts, phrase, place) ORDER BY t.place".encode(),
            (
                [fold(term.typed) for term in terms],
                [_SIGNS.sub(" ", fold(term.typed)) if _SIGNS_INSIDE.search(term.typed) else "" for term in terms],
                [term.phrase for term in terms],
            ),
        )
        return [row[0] for row in cursor]
