"""Tokenizers: what makes token ids of a text. One kind is our own (unigram.py), the others are the library's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vkteams_daemon.embedding import unigram
from vkteams_daemon.errors import ModelRefused

if TYPE_CHECKING:
    import tokenizers

Ids = list[int]


class Tokenizer(Protocol):
    """Makes token ids of texts; safe for several threads.

    Attributes:
        head: the special tokens before a text.
        tail: the special tokens after a text.
        unknown: the tokens that stand for what is in no vocabulary.
    """

    head: tuple[int, ...]
    tail: tuple[int, ...]
    unknown: frozenset[int]

    def encode(self, texts: Sequence[str], prefix: str) -> list[tuple[Ids, int]]:
        """The ids of each text with the prefix before it, and how many of them are the prefix's; no special tokens."""


class LibraryTokenizer:
    """`Tokenizer` by the library tokenizers."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        encoding = tokenizer.encode("a")
        special = encoding.special_tokens_mask
        first = special.index(0) if 0 in special else len(special)
        last = len(special) - special[::-1].index(0) if 0 in special else len(special)
        self.head, self.tail = tuple(encoding.ids[:first]), tuple(encoding.ids[last:])
        ids = (tokenizer.token_to_id(token) for token in ("[UNK]", "<unk>"))
        self.unknown = frozenset(id for id in ids if id is not None)

    def encode(self, texts: Sequence[str], prefix: str) -> list[tuple[Ids, int]]:
        """See `Tokenizer`. Other threads work during this one call; a call for each text blocks them."""
        # The library takes UTF-8 only, which has no half of a surrogate pair.
        clean = [prefix + text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        if not prefix:
            return [(one.ids, 0) for one in self._tokenizer.encode_batch_fast(clean, add_special_tokens=False)]
        # The offsets tell where the prefix ends; the faster function does not compute them.
        return [
            (one.ids, sum(1 for _, end in one.offsets if end <= len(prefix)))
            for one in self._tokenizer.encode_batch(clean, add_special_tokens=False)
        ]


def load(file: Path) -> Tokenizer:
    """Load the tokenizer in that file, which neither cuts nor pads.

    Raises:
        ModelRefused: the file is not a tokenizer.
    """
    return unigram.load(file) or LibraryTokenizer(load_library(file))


def load_library(file: Path) -> tokenizers.Tokenizer:
    """Load the tokenizer in that file by the library; it then neither cuts nor pads.

    Raises:
        ModelRefused: the file is not a tokenizer.
    """
    # Its own threads would compete with the model for the cores, and do not survive a fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from tokenizers import Tokenizer as Library

    try:
        tokenizer = Library.from_file(str(file))
    except Exception as error:  # the library raises Exception itself
        raise ModelRefused(f"{file}: is not a tokenizer: {error}") from error
    # The file may cut and pad to a fixed length. We cut with an overlap and pad each batch to its longest chunk.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # "[SEP]" or "<s>" in a message is text, and no special token.
    tokenizer.encode_special_tokens = True
    return tokenizer
