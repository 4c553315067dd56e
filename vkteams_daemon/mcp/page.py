"""The cursors that the server hands out, so that a relative time means the same on every page of an answer."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import datetime

from vkteams_daemon.errors import UsageError

_DIGITS = 9
_UNREADABLE, _HINT = "the cursor cannot be read", "Pass on the one that the last page gave."


@dataclass(frozen=True, slots=True)
class Page:
    """Where a page begins.

    Attributes:
        since: from when on the first page looked (aware).
        until: up to when it did (aware).
        rest: the archive's own cursor.
    """

    since: datetime | None
    until: datetime | None
    rest: str

    @property
    def text(self) -> str:
        """The cursor as it is passed on."""
        fields = [moment and moment.isoformat() for moment in (self.since, self.until)]
        return base64.urlsafe_b64encode(json.dumps([*fields, self.rest]).encode()).decode().rstrip("=")


def parse(text: str) -> Page:
    """The page that a cursor stands for. Whoever passes it on may have written it: it gives nobody more to see.

    Raises:
        UsageError: it is no cursor.
    """
    try:
        since, until, rest = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        page = Page(_moment(since), _moment(until), str(rest))
    except (ValueError, TypeError) as error:
        raise UsageError(_UNREADABLE, hint=_HINT) from error
    return page


def after(sent_at: datetime, chat_id: str, msg_id: str) -> str:
    """The rest of a page whose last message is this one."""
    return json.dumps([sent_at.isoformat(), chat_id, msg_id])


def key(rest: str) -> tuple[datetime, str, str]:
    """The message that `after` was given.

    Raises:
        UsageError: it is none.
    """
    try:
        sent_at, chat_id, msg_id = json.loads(rest)
        moment = _moment(sent_at)
    except (ValueError, TypeError) as error:
        raise UsageError(_UNREADABLE, hint=_HINT) from error
    if moment is None:
        raise UsageError(_UNREADABLE, hint=_HINT)
    return moment, str(chat_id), str(msg_id)


def number(rest: str) -> int:
    """How many were given before this page.

    Raises:
        UsageError: it is no number.
    """
    if not rest.isascii() or not rest.isdigit() or len(rest) > _DIGITS:
        raise UsageError(_UNREADABLE, hint=_HINT)
    return int(rest)


def _moment(text: str | None) -> datetime | None:
    moment = datetime.fromisoformat(text) if text is not None else None
    if moment is not None and moment.tzinfo is None:
        raise ValueError("no aware moment")
    return moment
