"""The search terms of messages that are about to be saved."""

from __future__ import annotations

from vkteams_daemon.botapi.facts import Content
from vkteams_daemon.store.connections import Connection, SearchVector
from vkteams_daemon.store.derive.message_fold import Message
from vkteams_daemon.store.words import searched_texts
from vkteams_daemon.store.words.lexicon import Lexemes, Lexicon, search_vector, words_of


class SearchTerms:
    """Makes the tsvectors of messages.

    First every content is added, then the words are learnt, and then the vectors are made: the server cannot be asked
    about a word while it takes in messages by COPY.
    """

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon
        self._texts: dict[str, searched_texts.Texts] = {}  # of contents that are a text alone
        self._words: set[str] = set()
        self._lexemes = Lexemes()

    def add(self, content: Content | Message) -> None:
        """Add the words of a message, or of one of its versions."""
        self._words |= words_of(self._texts_of(content))

    def learn(self, connection: Connection) -> None:
        """Learn the lexemes of the added words."""
        self._lexemes = self._lexicon.lexemes(connection, self._words)

    def vector(self, message: Message) -> SearchVector | None:
        """The tsvector of a message whose content was added."""
        return search_vector(self._texts_of(message), self._lexemes)

    def _texts_of(self, content: Content | Message) -> searched_texts.Texts:
        if content.text is None or content.parts is not None or content.format is not None:
            return searched_texts.texts(content.text, content.parts, content.format)
        texts = self._texts.get(content.text)
        if texts is None:
            texts = self._texts[content.text] = searched_texts.texts(content.text, None, None)
        return texts
