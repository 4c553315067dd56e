"""A query in web search syntax: words, "phrases", -without, this OR that; and the tsquery that finds its messages.

A word with signs inside (JIRA-1234, host-01.corp, /var/log/x.log) is looked for whole and by its parts: the messages
are indexed both ways. Every text can be read as a query.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from vkteams_daemon.search.spelling.keyboard import fold
from vkteams_daemon.store.connections import Connection

MAX_TERMS = 64
"""Terms of one query; further ones are ignored."""

_TERM = re.compile(r'(-?)"([^"]*)"?|(\S+)')
_SIGNS = re.compile(r"[\W_]+")
_SIGNS_INSIDE = re.compile(r"[^\W_][\W_]+[^\W_]")


@dataclass(frozen=True, slots=True)
class Term:
    """A word or phrase of a query.

    Attributes:
        typed: the text as it was typed, without quotes and minus.
        phrase: whether its words must follow one another.
        excluded: whether messages that hold it are left out.
        tsquery: finds it, in PostgreSQL's notation; "" for a stop word, which is never looked for (the, и).
        correction: the word that is looked for in its place; None if it is looked for as typed.
    """

    typed: str
    phrase: bool = False
    excluded: bool = False
    tsquery: str = ""
    correction: str | None = None

    @property
    def word(self) -> str:
        """The correction, or else the text as typed."""
        return self.typed if self.correction is None else self.correction

    @property
    def text(self) -> str:
        """The term as a query writes it."""
        return ("-" if self.excluded else "") + (f'"{self.word}"' if self.phrase else self.word)


@dataclass(frozen=True, slots=True)
class Query:
    """A query: a message matches if it matches every term of one of the alternatives."""

    alternatives: tuple[tuple[Term, ...], ...] = field(default=())

    @property
    def terms(self) -> list[Term]:
        """The terms of every alternative that are looked for."""
        return [term for terms in self.alternatives for term in terms if not term.excluded and term.tsquery]

    @property
    def without(self) -> str:
        """A tsquery for the messages that must not be in the answer; "" if nothing is excluded."""
        return " | ".join(
            f"({term.tsquery})" for terms in self.alternatives for term in terms if term.excluded and term.tsquery
        )

    @property
    def tsquery(self) -> str:
        """Finds the messages that match; "" if nothing is looked for."""
        parts = []
        for terms in self.alternatives:
            factors = [f"!({t.tsquery})" if t.excluded else f"({t.tsquery})" for t in terms if t.tsquery]
            if factors:
                parts.append(" & ".join(factors))
        return " | ".join(f"({part})" for part in parts)

    @property
    def is_corrected(self) -> bool:
        """Whether any term has a correction."""
        return any(term.correction is not None for terms in self.alternatives for term in terms)

    @property
    def text(self) -> str:
        """The query in web search syntax."""
        return " OR ".join(" ".join(term.text for term in terms) for terms in self.alternatives)

    @property
    def plain_text(self) -> str:
        """The query as a sentence would say it: without syntax, and without the terms that it excludes."""
        return " ".join(term.word for terms in self.alternatives for term in terms if not term.excluded)

    def with_terms(self, terms: dict[str, Term]) -> Query:
        """The query with these terms in the place of the words that were typed so; phrases and exclusions stay."""
        return Query(
            tuple(
                tuple(t if t.phrase or t.excluded else terms.get(t.typed, t) for t in alternative)
                for alternative in self.alternatives
            )
        )


def parse(text: str) -> Query:
    """The query as it is written; its terms have no tsqueries yet."""
    alternatives: list[list[Term]] = [[]]
    for match in list(_TERM.finditer(text.replace("\x00", " ")))[:MAX_TERMS]:
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


def read(connection: Connection, text: str) -> Query:
    """The query with the tsquery of each of its terms."""
    query = parse(text)
    tsquery = iter(tsqueries(connection, [term for terms in query.alternatives for term in terms]))
    return Query(tuple(tuple(replace(term, tsquery=next(tsquery)) for term in terms) for terms in query.alternatives))


def tsqueries(connection: Connection, terms: Sequence[Term]) -> list[str]:
    """The tsquery of each of these terms, in PostgreSQL's notation; "" for stop words."""
    if not terms:
        return []
    rows = connection.execute(
        "SELECT (CASE WHEN t.phrase THEN pg_catalog.phraseto_tsquery('vkteams'::regconfig, t.text)"
        " ELSE pg_catalog.plainto_tsquery('vkteams'::regconfig, t.text)"
        " || pg_catalog.plainto_tsquery('vkteams'::regconfig, t.parts) END)::text"
        " FROM unnest(%s::text[], %s::text[], %s::bool[]) WITH ORDINALITY AS t (text, parts, phrase, place)"
        " ORDER BY t.place",
        (
            [fold(term.typed) for term in terms],
            [_SIGNS.sub(" ", fold(term.typed)) if _SIGNS_INSIDE.search(term.typed) else "" for term in terms],
            [term.phrase for term in terms],
        ),
    )
    return [tsquery for (tsquery,) in rows]
