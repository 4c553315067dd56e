"""The index terms of messages: the lexeme of each word as the server stems it, and the tsvector made from them.

The server stems each word once; the lexicon remembers it. So COPY can send a finished tsvector, and the server neither
parses a text nor runs a trigger while it takes in messages.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vkteams_daemon.store.connections import Connection, SearchVector
from vkteams_daemon.store.words.tokens import Tokens, normal_forms

CUT = "…"
"""The index term of a message whose words do not fit in its index entry."""

_MAX_WORDS = 100_000  # remembered words, about 25 MB
_MAX_BYTES = 1_000_000  # of one tsvector; PostgreSQL takes 1,048,575
_MANY_WORDS = 10_000  # fewer words fit in any case
_MAX_PLACES = 255  # of one lexeme in a text; PostgreSQL takes no more
# In its binary form a tsvector has for each lexeme a zero-terminated string, the number of its places, and the places
# in ascending order: the number of the word in 14 bits below its weight in two bits. Place 16,383 means "or beyond".
_LAST_PLACE = 16_000
_PLACES = tuple(
    tuple((weight << 14 | place).to_bytes(2, "big") for place in range(1, _LAST_PLACE + 1)) for weight in range(3)
)
_COUNTS = tuple(count.to_bytes(2, "big") for count in range(_MAX_PLACES + 1))
_BETWEEN = 10  # places between two texts, so that no phrase leads from one to the next
_STEM = (
    "SELECT word, pg_catalog.tsvector_to_array(pg_catalog.to_tsvector('vkteams'::regconfig, word))"
    " FROM pg_catalog.unnest(%b::text[]) AS word"
)

Lexemes = Mapping[str, Any]
"""What the index holds of each word, see `lexemes_of`."""

# The values of Lexemes: for one lexeme the bytes that a tsvector has before its only place; for a stop word (the, и)
# _NONE; for several readings a list of such bytes.
_ONCE = b"\0\0\1"
_NONE = ()


class Lexicon:
    """Remembers the lexemes of words. Several threads may use it."""

    def __init__(self) -> None:
        self._lexemes: dict[str, Any] = {}

    def lexemes(self, connection: Connection, words: Iterable[str]) -> Lexemes:
        """The lexemes of these words and of others. A word that is no key is its own lexeme: a number, an emoji.

        Args:
            connection: asked about the words that are not known yet.
            words: as `Tokens` has them.
        """
        known = self._lexemes
        wanted = {word for word in words if word not in known and any(map(str.isalpha, word))}
        if not wanted:
            return known
        if len(known) + len(wanted) > _MAX_WORDS:
            known = {}  # another thread may still read the old one
            wanted = {word for word in words if any(map(str.isalpha, word))}
        forms = {word: normal_forms(word) for word in wanted}
        distinct = sorted({form for each in forms.values() for form in each if form.isalpha()})
        rows = connection.execute(_STEM.encode(), (distinct,)).fetchall() if distinct else []
        stems = {form: [lexeme.encode() + _ONCE for lexeme in lexemes] for form, lexemes in rows}
        for word, each in forms.items():
            lexemes = dict.fromkeys(itertools.chain(*(stems.get(form, [form.encode() + _ONCE]) for form in each)))
            known[word] = list(lexemes) if len(lexemes) > 1 else next(iter(lexemes), _NONE)
        self._lexemes = known
        return known


def lexemes_of(word: str, lexemes: Lexemes) -> list[str]:
    """The lexemes of a word of `Tokens`: none for a stop word, several if it has several readings."""
    known = lexemes.get(word)
    if known is None:
        return [word]
    return [each.removesuffix(_ONCE).decode() for each in ([known] if isinstance(known, bytes) else known)]


def words_of(texts: Iterable[tuple[Tokens, int]]) -> set[str]:
    """The words of these texts, which `search_vector` needs the lexemes of."""
    words: set[str] = set()
    for tokens, _ in texts:
        words.update(tokens.words)
    return words


def search_vector(texts: Sequence[tuple[Tokens, int]], lexemes: Lexemes) -> SearchVector | None:
    """The tsvector of a message; None without any word.

    Args:
        texts: each with its weight: 0 for the message's own words, 1 for words that it forwards, 2 for words that it
            quotes (D, C and B in PostgreSQL's letters).
        lexemes: of all their words.
    """
    if len(texts) == 1 and not texts[0][0].forms and len(words := texts[0][0].words) < _LAST_PLACE:
        # Most messages: one text without numbers in other forms. What repeats no word needs no count.
        found: list[Any] = list(map(lexemes.get, words))
        if None in found:
            found = [word.encode() + _ONCE if each is None else each for word, each in zip(words, found, strict=True)]
        with contextlib.suppress(TypeError):  # a list of several readings is no key
            once = dict(zip(found, _PLACES[texts[0][1]], strict=False))
            stop_words = found.count(_NONE)
            once.pop(_NONE, None)
            if len(once) == len(found) - stop_words:
                vector = itertools.chain((len(once).to_bytes(4, "big"),), *once.items())
                return SearchVector(b"".join(vector)) if once else None
    return _counted_vector(texts, lexemes)


def _counted_vector(texts: Sequence[tuple[Tokens, int]], lexemes: Lexemes) -> SearchVector | None:
    """The same for any texts."""
    places: dict[bytes, bytes] = {}
    disordered = False
    start = 0
    for tokens, weight in texts:
        words = tokens.words
        table: Iterable[bytes] = _PLACES[weight]
        if start + len(words) >= _LAST_PLACE:
            # The words beyond start again at the first place, so that phrases are found there, too.
            table, disordered = itertools.cycle(_PLACES[weight]), True
        if start:
            table = itertools.islice(table, start, None)
        for word, place in zip(words, table, strict=False):
            known = lexemes.get(word)
            if known is None:
                known = word.encode() + _ONCE
            for lexeme in (known,) if isinstance(known, bytes) else known:
                places[lexeme] = places[lexeme] + place if lexeme in places else place
        for form in tokens.forms:
            lexeme = form.word.encode() + _ONCE
            disordered = disordered or lexeme in places
            places[lexeme] = places.get(lexeme, b"") + _PLACES[weight][(start + form.place) % _LAST_PLACE]
        start += len(words) + _BETWEEN
    if not places:
        return None
    if disordered:
        places = {lexeme: _in_order(at) for lexeme, at in places.items()}
    if start > _MANY_WORDS:
        places = _fitting(places)
    parts = [len(places).to_bytes(4, "big")]
    for lexeme, at in places.items():
        if len(at) > 2:
            at = at[: 2 * _MAX_PLACES]
            lexeme = lexeme[:-2] + _COUNTS[len(at) // 2]
        parts += (lexeme, at)
    return SearchVector(b"".join(parts))


def _in_order(at: bytes) -> bytes:
    """The places in ascending order, each once."""
    if len(at) == 2:
        return at
    by_place: dict[int, bytes] = {}
    for begin in range(0, len(at), 2):
        place = at[begin : begin + 2]
        by_place.setdefault(int.from_bytes(place, "big") & 0x3FFF, place)
    return b"".join(by_place[place] for place in sorted(by_place))


def _fitting(places: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """The first lexemes, as many as fit, and `CUT` if these are not all."""
    size = 0
    fitting: dict[bytes, bytes] = {}
    for lexeme, at in places.items():
        size += len(lexeme) + 4 + min(len(at), 2 * _MAX_PLACES)
        if size > _MAX_BYTES:
            fitting[CUT.encode() + _ONCE] = _PLACES[0][0]
            return fitting
        fitting[lexeme] = at
    return places
