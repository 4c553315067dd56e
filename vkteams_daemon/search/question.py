"""A question to the archive: a query with its filters, mode and page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from vkteams_daemon.search import cursor as cursors
from vkteams_daemon.search.cursor import Cursor
from vkteams_daemon.search.results import Mode
from vkteams_daemon.search.scope import Scope

MAX_HITS = 1000
"""Most hits of one question, all its pages together."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question; `search.archive.Archive.search` describes the fields."""

    query: str
    mode: Mode
    scope: Scope
    limit: int
    context: int = 0
    recency: timedelta | None = None
    cursor: str | None = None
    newest_first: bool = False
    chat_ids: tuple[str, ...] | None = None
    """The chats that the question itself names; None is every chat that its reader may see."""

    @property
    def fingerprint(self) -> str:
        """A hash that is the same for every page of an answer, and differs for every other question.

        It leaves out `since` and `until`: "2h ago" is another moment when the next page is asked for. It leaves out
        what the reader may see, too: a thread may appear between two pages.
        """
        scope = replace(self.scope, chat_ids=self.chat_ids, since=None, until=None, periods=()).parameters
        return cursors.fingerprint(self.query, self.mode, sorted(scope.items()), self.recency, self.newest_first)

    def page(self) -> Cursor | None:
        """Where the page begins that the question asks for; None for the first page.

        Raises:
            UsageError: the cursor is unreadable, or belongs to another question.
        """
        return cursors.parse(self.cursor, self.fingerprint) if self.cursor else None
