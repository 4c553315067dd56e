"""A Unigram tokenizer (Kudo 2018, https://arxiv.org/abs/1804.10959) for the tokenizer.json of install/blocks.py.

Of all ways to cut a word into pieces it takes the one whose scores sum highest, as the library tokenizers does. But the
library keeps the 250,000 pieces of a multilingual model in a trie of 270 MB, which takes a second to load. A dictionary
of them takes 40 MB. No piece goes across a space, so each word is cut by itself, and the words that a chat repeats are
remembered.
"""

from __future__ import annotations

import unicodedata
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from vkteams_daemon.errors import ModelRefused

SPACE = "\u2581"  # stands for the space before a word
# What is dropped, and what becomes a space, before NFKC.
DROPPED = (*range(0x09), 0x0B, *range(0x0E, 0x20), 0x7F, 0x8F, 0x9F)
SPACES = (0x1680, *range(0x200B, 0x2010), 0x2028, 0x2029, ord(SPACE), 0xFEFF, 0xFFFD)

_REMEMBERED = 20_000  # words
_PENALTY = 10.0  # how far the score of an unknown letter is below that of the rarest piece, as in SentencePiece


# The same as patterns of the library. They are not computed from the map of the published file: Unicode's tables grow
# with Python, and the hash of tokenizer.json is part of the fingerprint.
_DROPPED_PATTERN = r"[\x{00}-\x{08}\x{0B}\x{0E}-\x{1F}\x{7F}\x{8F}\x{9F}]"
_SPACES_PATTERN = r"[\x{1680}\x{200B}-\x{200F}\x{2028}\x{2029}\x{2581}\x{FEFF}\x{FFFD}]"

NORMALIZER: dict[str, Any] = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Replace", "pattern": {"Regex": _DROPPED_PATTERN}, "content": ""},
        {"type": "Replace", "pattern": {"Regex": _SPACES_PATTERN}, "content": " "},
        {"type": "NFKC"},
        {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
        {"type": "Strip", "strip_left": True, "strip_right": True},
    ],
}
METASPACE: dict[str, Any] = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": False}


class _Vocabulary(msgspec.Struct):
    type: str
    unk_id: int | None = None
    vocab: Any = None
    byte_fallback: bool = False


class _Form(msgspec.Struct):
    """What of a tokenizer.json tells whether it is of this kind."""

    model: msgspec.Raw
    normalizer: Any = None
    pre_tokenizer: Any = None
    post_processor: Any = None


class _Pieces(msgspec.Struct):
    vocab: list[tuple[str, float]]
    unk_id: int


class Unigram:
    """`tokenizer.Tokenizer` for a vocabulary of pieces with scores.

    Args:
        pieces: each with its score; its id is its place.
        unknown: the id for letters that are in no piece.
        head: the special tokens before a text.
        tail: the special tokens after a text.
    """

    def __init__(
        self, pieces: Sequence[tuple[str, float]], unknown: int, head: tuple[int, ...], tail: tuple[int, ...]
    ) -> None:
        self.head, self.tail, self.unknown = head, tail, frozenset({unknown})
        self._id = unknown
        self._ids = {piece: id for id, (piece, _) in enumerate(pieces)}
        self._scores = array("d", (score for _, score in pieces))
        self._unknown_score = min(self._scores) - _PENALTY
        self._longest: dict[str, int] = {}  # of the pieces that begin with a letter
        for piece in self._ids:
            if len(piece) > self._longest.get(piece[:1], 0):
                self._longest[piece[:1]] = len(piece)
        self._replaced: dict[int, str] = dict.fromkeys(DROPPED, "") | dict.fromkeys(SPACES, " ")
        self._known: dict[str, tuple[int, ...]] = {}

    def encode(self, texts: Sequence[str], prefix: str) -> list[tuple[list[int], int]]:
        """See `tokenizer.Tokenizer`; the prefix ends with a space, or is empty."""
        lead = self._encode(prefix)
        return [([*lead, *self._encode(text)], len(lead)) for text in texts]

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = []
        text = text.translate(self._replaced).encode("utf-8", "replace").decode("utf-8")
        for word in unicodedata.normalize("NFKC", text).split():
            known = self._known.get(word)
            if known is None:
                if len(self._known) >= _REMEMBERED:
                    self._known.clear()
                known = self._known[word] = self._cut(SPACE + word)
            ids += known
        return ids

    def _cut(self, word: str) -> tuple[int, ...]:
        """The ids of the pieces of one word; unknown letters side by side are one piece."""
        length = len(word)
        # Of each place in the word: the best score up to it, where its last piece begins, and that piece.
        best, begin, last = [-float("inf")] * (length + 1), [0] * (length + 1), [self._id] * (length + 1)
        best[0] = 0.0
        for start, letter in enumerate(word):
            for end in range(start + 1, min(length, start + self._longest.get(letter, 0)) + 1):
                piece = self._ids.get(word[start:end])
                if piece is not None and best[start] + self._scores[piece] > best[end]:
                    best[end], begin[end], last[end] = best[start] + self._scores[piece], start, piece
            if letter not in self._ids and best[start] + self._unknown_score > best[start + 1]:
                best[start + 1], begin[start + 1], last[start + 1] = best[start] + self._unknown_score, start, self._id
        ids: list[int] = []
        place = length
        while place:
            if not (ids and ids[-1] == last[place] == self._id):
                ids.append(last[place])
            place = begin[place]
        return tuple(reversed(ids))


def load(file: Path) -> Unigram | None:
    """Load the tokenizer in that file; None if it is of another kind.

    Raises:
        ModelRefused: the file cannot be read.
    """
    try:
        content = file.read_bytes()
        form = msgspec.json.decode(content, type=_Form)
        if form.normalizer != NORMALIZER or form.pre_tokenizer != METASPACE:
            return None
        pieces = msgspec.json.decode(form.model, type=_Pieces)
        specials = [token["id"] for part in form.post_processor["single"] if (token := part.get("SpecialToken"))]
        ids = [form.post_processor["special_tokens"][token]["ids"][0] for token in specials]
    except OSError as error:
        raise ModelRefused(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError):
        return None  # the library says what is wrong with it
    if len(ids) != 2:
        return None
    return Unigram(pieces.vocab, pieces.unk_id, (ids[0],), (ids[1],))
