"""The index terms of messages: the lexeme of each word as the server stems it, and the tsvector made from them.

The server stems each word once; the lexicon remembers it. So COPY can send a finished tsvector, and the server neither
parses a text nor runs a trigger while it takes in messages.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from vkteams_daemon.store.connections import Connection, SearchVector
from vkteams_daemon.store.words.tokens import Form, Tokens, normal_forms

CUT = "…"
"""The index term of a message whose words do not fit in its index entry."""

_MAX_WORDS = 100_000  # remembered words, about 25 MB
_MAX_BYTES = 1_000_000  # of one tsvector; PostgreSQL takes 1,048,575
_MANY_WORDS = 10_000  # fewer words fit in any case
_MAX_PLACES = 255  # of one lexeme in a text; PostgreSQL takes no more
# In its binary form a tsvector has for each lexeme a zero-terminated string, the number of its places, and the places
# in ascending order: the number of the word in 14 bits below its weight in two bits (see `_places`). Place 16,383 means
# "or beyond".
_LAST_PLACE = 16_000
_COUNTS = tuple(count.to_bytes(2, "big") for count in range(_MAX_PLACES + 1))
_BETWEEN = 10  # places between two texts, so that no phrase leads from one to the next
_STEM = (
    "SELECT word, pg_catalog.tsvector_to_array(pg_catalog.to_tsvector('vkteams'::regconfig, word))"
    " FROM pg_catalog.unnest(%b::text[]) AS word"
)

# What stands between a lexeme's letters and its only place: the end of the string, and the number of places.
_ONCE = b"\0\0\1"
_STOP_WORD = b""


class Lexemes(dict[str, Any]):
    """What the index holds of each word, see `lexemes_of`.

    A value is the bytes with which a tsvector begins the entry of a lexeme that occurs once: all but its place. A stop
    word (the, и) has no bytes. A word that can be read in several ways has a list of bytes. A word that is no key is
    its own lexeme: a number, an emoji.
    """

    def __missing__(self, word: str) -> bytes:
        return word.encode() + _ONCE


class Lexicon:
    """Remembers the lexemes of words. Several threads may use it.

    Args:
        whole: whether a word means all of what it is written together of (getUserName), as in a query.
    """

    def __init__(self, *, whole: bool = False) -> None:
        self._whole = whole
        self._lexemes = Lexemes()

    def lexemes(self, connection: Connection, words: Iterable[str]) -> Lexemes:
        """The lexemes of these words and of others.

        Args:
            connection: asked about the words that are not known yet.
            words: as `Tokens` has them.
        """
        known, words = self._lexemes, set(words)
        wanted = _with_letters(words.difference(known))
        if not wanted:
            return known
        if len(known) + len(wanted) > _MAX_WORDS:
            known = Lexemes()  # another thread may still read the old one
            wanted = _with_letters(words)
        forms = {word: normal_forms(word, whole=self._whole) for word in wanted}
        distinct = sorted({form for each in forms.values() for form in each if form.isalpha()})
        rows = connection.execute(_STEM.encode(), (distinct,)).fetchall() if distinct else []
        stems = {form: [lexeme.encode() + _ONCE for lexeme in lexemes] for form, lexemes in rows}
        for word, each in forms.items():
            lexemes = dict.fromkeys(itertools.chain(*(stems.get(form, [form.encode() + _ONCE]) for form in each)))
            known[word] = list(lexemes) if len(lexemes) > 1 else next(iter(lexemes), _STOP_WORD)
        self._lexemes = known
        return known


def _with_letters(words: Iterable[str]) -> list[str]:
    return [word for word in words if word.isalpha() or any(map(str.isalpha, word))]


def lexemes_of(word: str, lexemes: Lexemes) -> list[str]:
    """The lexemes of a word of `Tokens`: none for a stop word, several if it has several readings."""
    known = lexemes[word]
    return [each.removesuffix(_ONCE).decode() for each in (known if isinstance(known, list) else [known]) if each]


def words_of(texts: Iterable[tuple[Tokens, int]]) -> set[str]:
    """The words of these texts, which `search_vector` needs the lexemes of."""
    words: set[str] = set()
    for tokens, _ in texts:
        words.update(tokens.words)
        if tokens.forms:
            words.update(form.word for form in tokens.forms)
    return words


def form_lexemes(tokens: Tokens, form: Form, lexemes: Lexemes) -> list[str]:
    """The lexemes of another form of words of these `Tokens`.

    Words that hyphens join have none if one of them is a stop word: изза is no word, and из-за finds nothing either.
    Letters (б/у) are no such words.
    """
    if (
        form.word.isalpha()
        and len(form.word) > form.width
        and not all(lexemes[word] for word in tokens.words[form.place : form.place + form.width])
    ):
        return []
    return lexemes_of(form.word, lexemes)


def search_vector(texts: Sequence[tuple[Tokens, int]], lexemes: Lexemes) -> SearchVector | None:
    """The tsvector of a message; None without any word.

    Args:
        texts: each with its weight: 0 for the message's own words, 1 for words that it forwards, 2 for words that it
            quotes (D, C and B in PostgreSQL's letters).
        lexemes: of all their words.
    """
    if len(texts) == 1 and len(texts[0][0].words) <= _MAX_PLACES:
        try:
            return _short_vector(*texts[0], lexemes)
        except TypeError:  # a list of several readings is no key
            return _long_vector(texts, lexemes)
    return _long_vector(texts, lexemes)


@functools.cache
def _places(weight: int) -> tuple[bytes, ...]:
    """Every place of this weight, in ascending order."""
    return tuple((weight << 14 | place).to_bytes(2, "big") for place in range(1, _LAST_PLACE + 1))


def _short_vector(tokens: Tokens, weight: int, lexemes: Lexemes) -> SearchVector | None:
    """The tsvector of one text of at most `_MAX_PLACES` words, which most messages are."""
    table = _places(weight)
    places: dict[bytes, bytes] = {}
    repeated: dict[bytes, bytes] = {}  # places but the first of each lexeme that has several
    for lexeme, place in zip(map(lexemes.__getitem__, tokens.words), table, strict=False):
        if lexeme in places:
            repeated[lexeme] = repeated.get(lexeme, b"") + place
        else:
            places[lexeme] = place
    for form in tokens.forms:
        for each in form_lexemes(tokens, form, lexemes):
            lexeme = each.encode() + _ONCE
            if lexeme in places:
                return _long_vector([(tokens, weight)], lexemes)
            places[lexeme] = table[form.place]
    places.pop(_STOP_WORD, None)
    repeated.pop(_STOP_WORD, None)
    for lexeme, others in repeated.items():
        at = places.pop(lexeme) + others
        places[lexeme[:-2] + _COUNTS[len(at) // 2]] = at
    if not places:
        return None
    return SearchVector(len(places).to_bytes(4, "big") + b"".join(itertools.chain.from_iterable(places.items())))


def _long_vector(texts: Sequence[tuple[Tokens, int]], lexemes: Lexemes) -> SearchVector | None:
    """The tsvector of any texts."""
    places: dict[bytes, bytearray] = {}
    disordered = False
    start = 0
    for tokens, weight in texts:
        words = tokens.words
        table: Iterable[bytes] = _places(weight)
        if start + len(words) >= _LAST_PLACE:
            # The words beyond start again at the first place, so that phrases are found there, too.
            table, disordered = itertools.cycle(_places(weight)), True
        if start:
            table = itertools.islice(table, start, None)
        for word, place in zip(words, table, strict=False):
            known = lexemes[word]
            for lexeme in known if isinstance(known, list) else [known]:
                places.setdefault(lexeme, bytearray()).extend(place)
        for form in tokens.forms:
            for each in form_lexemes(tokens, form, lexemes):
                lexeme = each.encode() + _ONCE
                disordered = disordered or lexeme in places
                places.setdefault(lexeme, bytearray()).extend(_places(weight)[(start + form.place) % _LAST_PLACE])
        start += len(words) + _BETWEEN
    places.pop(_STOP_WORD, None)
    if not places:
        return None
    ordered = {lexeme: _in_order(at) if disordered else bytes(at) for lexeme, at in places.items()}
    if start > _MANY_WORDS:
        ordered = _fitting(ordered)
    parts = [len(ordered).to_bytes(4, "big")]
    for lexeme, at in ordered.items():
        if len(at) > 2:
            at = at[: 2 * _MAX_PLACES]
            lexeme = lexeme[:-2] + _COUNTS[len(at) // 2]
        parts += (lexeme, at)
    return SearchVector(b"".join(parts))


def _in_order(at: bytearray) -> bytes:
    """The places in ascending order, each once."""
    by_place: dict[int, bytes] = {}
    for begin in range(0, len(at), 2):
        place = bytes(at[begin : begin + 2])
        by_place.setdefault(int.from_bytes(place, "big") & 0x3FFF, place)
    return b"".join(by_place[place] for place in sorted(by_place))


def _fitting(places: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """The first lexemes, as many as fit, and `CUT` if these are not all."""
    size = 0
    fitting: dict[bytes, bytes] = {}
    for lexeme, at in places.items():
        size += len(lexeme) + 4 + min(len(at), 2 * _MAX_PLACES)
        if size > _MAX_BYTES:
            fitting[CUT.encode() + _ONCE] = _places(0)[0]
            return fitting
        fitting[lexeme] = at
    return places
