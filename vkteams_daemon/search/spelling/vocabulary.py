"""The vocabulary: the archive's words as its text index holds them (lexemes), and those nearest to a misspelt one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psycopg
from rapidfuzz import process
from rapidfuzz.distance import OSA, Prefix

from vkteams_daemon.search.scope import Scope
from vkteams_daemon.search.spelling import loan_words
from vkteams_daemon.search.spelling.forms import may_be_form, stems
from vkteams_daemon.store.connections import Connection

UNCOUNTED = 2000
"""How many of the newest messages are counted at once, because the table `words` may not count them yet."""
MAX_CONFINED = 20_000
"""How many of the newest messages are counted for a reader who may not see every message."""

_MAX_NEAR = 50  # words of one length


@dataclass(frozen=True, slots=True)
class NearWord:
    """A word of the archive near to another one.

    Attributes:
        distance: optimal string alignment: letters to replace, add, drop, or swap with their neighbour; 0 for a form;
            of a word in the other script see `Vocabulary.loans`.
        messages: how many messages hold it.
    """

    word: str
    distance: int
    messages: int


class Vocabulary:
    """The archive's words that consist of letters alone, at the moment they were read.

    Args:
        words: how many messages hold each word.
    """

    def __init__(self, words: dict[str, int]) -> None:
        self._messages = words
        # By script and length: a near word has about the same length, and always the same script.
        self._by_length: dict[tuple[bool, int], list[str]] = {}
        for word in words:
            self._by_length.setdefault((word.isascii(), len(word)), []).append(word)

    @classmethod
    def read(cls, connection: Connection) -> Vocabulary:
        """Read it: about 0.1 s for the 69,000 words of 193,000 messages of a public channel."""
        counted = _words(connection, "SELECT word, messages FROM words")
        newest = _words(
            connection,
            "SELECT word, ndoc FROM pg_catalog.ts_stat('SELECT search FROM messages WHERE deleted_at IS NULL"
            f" ORDER BY sent_at DESC LIMIT {UNCOUNTED}')",
        )
        return cls({word: max(messages, counted.get(word, 0)) for word, messages in (counted | newest).items()})

    @classmethod
    def read_scope(cls, connection: Connection, scope: Scope) -> Vocabulary:
        """The words of the newest `MAX_CONFINED` messages of the scope: about 0.1 s.

        The table `words` counts every chat, so it is not read.
        """
        messages = psycopg.ClientCursor(connection).mogrify(
            f"SELECT m.search FROM messages m WHERE {scope.condition}"
            f" ORDER BY m.sent_at DESC, m.chat_id, m.msg_id LIMIT {MAX_CONFINED}".encode(),
            scope.parameters,
        )
        return cls(_words(connection, "SELECT word, ndoc FROM pg_catalog.ts_stat(%s)", messages))

    def near(self, word: str, max_distance: int) -> list[NearWord]:
        """The words within this distance: nearest first, then longest common beginning, then most common."""
        if max_distance <= 0 or len(word) < 3:
            return []
        near = []
        for length in range(len(word) - max_distance, len(word) + max_distance + 1):
            words = self._by_length.get((word.isascii(), length), [])
            matches = process.extract(word, words, scorer=OSA.distance, score_cutoff=max_distance, limit=_MAX_NEAR)
            near += [NearWord(other, int(distance), self._messages[other]) for other, distance, _ in matches]
        return sorted(near, key=lambda n: (n.distance, -Prefix.similarity(word, n.word), -n.messages))

    def loans(self, typed: str, stem: str) -> list[NearWord]:
        """Words of the other script that sound like this one (бэкап, backup): at distance 1, or 2 if only one way.

        Args:
            typed: the word, folded and in lower case.
            stem: what the stemmer makes of it.
        """
        lengths = range(len(stem) // 2, 2 * len(typed) + 2)
        others = [word for n in lengths for word in self._by_length.get((not typed.isascii(), n), [])]
        found = loan_words.matches(typed, stem, others)
        return [NearWord(word, 1 if both else 2, self._messages[word]) for word, both in found.items()]

    def forms(self, typed: str, stem: str) -> list[NearWord]:
        """Words that are this one in a form that the stemmer cut elsewhere, see `spelling.forms`.

        Args:
            typed: the word, folded and in lower case.
            stem: what the stemmer makes of it.
        """
        found = dict.fromkeys([*stems(typed), *stems(stem)])
        near = [other.word for other in self.near(stem, max_typos(stem)) if may_be_form(typed, other.word)]
        return [
            NearWord(word, 0, self._messages[word])
            for word in dict.fromkeys([*found, *near])
            if word != stem and word in self._messages
        ]


def _words(connection: Connection, source: str, *parameters: str) -> dict[str, int]:
    """The words of letters alone that a query of (word, messages) yields, with the number of messages."""
    rows = connection.execute(
        f"SELECT word, pg_catalog.max(messages) FROM ({source}) AS s (word, messages)"
        " WHERE word ~ '^[[:alpha:]]{2,40}$' GROUP BY word ORDER BY word".encode(),
        parameters or None,
        prepare=False,
    )
    return dict(rows.fetchall())


ReadVocabulary = Callable[[], Vocabulary]
"""Reads the vocabulary when it is needed."""


def max_typos(word: str) -> int:
    """How many typos a word of this length may have and still be told from others."""
    return 0 if len(word) < 4 else 1 if len(word) < 6 else 2 if len(word) < 10 else 3
