"""The words of the archive, as its text index holds them (lexemes), and which of them are nearest to a misspelt one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import tuple_row
from rapidfuzz import process
from rapidfuzz.distance import OSA, Prefix

NEWEST = 2000
"""So many of the newest messages are counted at once: what `store.words` has not counted yet."""

_MOST_NEAR = 50
_ENDING = 3  # letters that a form of a word may have beyond its stem


@dataclass(frozen=True, slots=True)
class Near:
    """A word of the archive, how many slips it is away (letters wrong, missing, superfluous, swapped), how common."""

    word: str
    distance: int
    messages: int


class Vocabulary:
    """The archive's words of letters alone, as they were when it was read.

    Args:
        words: how many messages hold each.
    """

    def __init__(self, words: dict[str, int]) -> None:
        self._messages = words
        # By script and length: only words of like length, and never of another script, can be near.
        self._alike: dict[tuple[bool, int], list[str]] = {}
        for word in words:
            self._alike.setdefault((word.isascii(), len(word)), []).append(word)

    @classmethod
    def read(cls, connection: psycopg.Connection[Any]) -> Vocabulary:
        """Read it: about 0.1 s for the 69,000 words of 193,000 messages of a public channel."""
        words: dict[str, int] = {}
        with connection.cursor(row_factory=tuple_row) as cursor:
            for source in (
                "SELECT word, messages FROM words",
                "SELECT word, ndoc FROM ts_stat('SELECT search FROM messages WHERE deleted_at IS NULL"
                f" ORDER BY sent_at DESC LIMIT {NEWEST}')",
            ):
                cursor.execute(f"SELECT word, max(messages) FROM ({source}) AS s (word, messages)"
                               " WHERE word ~ '^[[:alpha:]]{2,40}$' GROUP BY word".encode(), prepare=False)  # fmt: skip
                for word, messages in cursor:
                    words[word] = max(messages, words.get(word, 0))
        return cls(words)

    def near(self, word: str, most: int) -> list[Near]:
        """The words at most so many slips away, nearest first; of equals what begins alike, then the commoner."""
        if most <= 0 or len(word) < 3:
            return []
        near = []
        for length in range(len(word) - most, len(word) + most + 1):
            words = self._alike.get((word.isascii(), length), [])
            found = process.extract(word, words, scorer=OSA.distance, score_cutoff=most, limit=_MOST_NEAR)
            near += [Near(other, int(distance), self._messages[other]) for other, distance, _ in found]
        return sorted(near, key=lambda n: (n.distance, -Prefix.similarity(word, n.word), -n.messages))

    def forms(self, typed: str, stem: str) -> list[Near]:
        """Words that may be this one in another form that the stemmer cut elsewhere: Ершов is ерш, Ершову is ершов."""
        endings = [typed[:end] for end in range(max(2, len(typed) - _ENDING), len(typed) + 1)]
        return [Near(word, 1, self._messages[word]) for word in endings if word != stem and word in self._messages]


def slips(word: str) -> int:
    """How many slips a word of this length may have and still be told from others."""
    return 0 if len(word) < 4 else 1 if len(word) < 6 else 2 if len(word) < 10 else 3
