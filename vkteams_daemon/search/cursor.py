"""The cursor of an answer: where its next page begins. Opaque to whoever passes it on.

It holds when the question was first asked, so that what has arrived since moves nothing, and the last message given, so
that what was deleted since moves nothing either.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from vkteams_daemon.errors import UsageError
from vkteams_daemon.search.results import Ranked


@dataclass(frozen=True, slots=True)
class Cursor:
    """After how many messages, and which was the last, the next page begins; `asked` tells the question."""

    question: str
    asked: datetime
    given: int
    last: tuple[str, str]

    @property
    def text(self) -> str:
        """The cursor as it is passed on."""
        fields = [self.question, self.asked.isoformat(), self.given, *self.last]
        return base64.urlsafe_b64encode(json.dumps(fields, ensure_ascii=False).encode()).decode().rstrip("=")

    def rest(self, ranked: Sequence[Ranked]) -> list[Ranked]:
        """What follows the last message given; where that is gone, what follows as many as were given."""
        place = next((n for n, other in enumerate(ranked, 1) if other.key == self.last), self.given)
        return list(ranked[place:])


def fingerprint(*parts: object) -> str:
    """A name for a question and its filters."""
    return hashlib.blake2b(repr(parts).encode("utf-8", "replace"), digest_size=9).hexdigest()


def parse(text: str, question: str) -> Cursor:
    """The cursor that `text` stands for.

    Raises:
        UsageError: it is none, or another question's.
    """
    try:
        found, asked, given, chat_id, msg_id = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        cursor = Cursor(str(found), datetime.fromisoformat(asked), int(given), (str(chat_id), str(msg_id)))
        cursor.asked.astimezone()
        if cursor.asked.tzinfo is None or cursor.given < 0:
            raise ValueError("no moment, or no number")
    except (ValueError, TypeError) as error:
        raise UsageError("the cursor cannot be read", hint="Pass on the one that the last page gave.") from error
    if cursor.question != question:
        raise UsageError(
            "the cursor belongs to another question", hint="Repeat the query and filters of its first page."
        )
    return cursor
