"""The arguments that several tools take: their types, bounds, descriptions and examples."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated

from pydantic import BeforeValidator, Field

from vkteams_daemon import times
from vkteams_daemon.errors import UsageError

_Id = Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[^\x00]+$")]
_LONGEST = 50  # characters of a moment
_CHATS, _MESSAGES = ["681869378@chat.agent", "all"], ["7576322310144000017"]

ChatId = Annotated[
    _Id | None,
    Field(
        description="Only this chat; `all` for every chat that you may see. Left out: the only chat there is, or the"
        " user is asked, or every chat.",
        examples=_CHATS,
    ),
]
UserId = Annotated[
    _Id | None,
    Field(description="Only what this person wrote; list_users names them.", examples=["a.ivanova@corp.example"]),
]
OneChat = Annotated[
    _Id | None, Field(description="The chat; left out: whichever has the message.", examples=_CHATS[:1])
]
OneMessage = Annotated[_Id, Field(description="The message.", examples=_MESSAGES)]
Around = Annotated[
    _Id | None,
    Field(
        description="The msg_id that `around` is about; with chat_id, or without where one chat alone has it.",
        examples=_MESSAGES,
    ),
]
Cursor = Annotated[
    str | None, Field(max_length=2000, description="Of the page before, together with the same arguments.")
]
_MOST_TOKENS = Field(ge=200, le=200000)
MaxTokens = Annotated[
    int | None,
    _MOST_TOKENS,
    Field(description="Most tokens of the answer, about; what has no room comes by the cursor."),
]
MaxTokensInAll = Annotated[
    int | None,
    _MOST_TOKENS,
    Field(description="Most tokens of the answer, about; what has no room is left out, and `cut` says so."),
]


def _moment(read: Callable[[str], datetime]) -> BeforeValidator:
    def validate(value: object) -> object:
        if value is None:
            return None
        if not isinstance(value, str) or len(value) > _LONGEST:
            raise ValueError("a moment is a short text, such as 7d or 2026-11-24")
        try:
            return read(value)
        except UsageError as error:
            raise ValueError(str(error)) from error

    return BeforeValidator(validate, json_schema_input_type=str)


def _duration(value: object) -> object:
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise ValueError("a duration is a short text, such as 2h or 7d")
    try:
        return times.parse_age(value).total_seconds()
    except UsageError as error:
        raise ValueError(str(error)) from error


Timeframe = Annotated[
    float | None,
    BeforeValidator(_duration, json_schema_input_type=str),
    Field(description="How far back from now; for `recent` two hours where nothing is said.", examples=["2h", "7d"]),
]
_EXAMPLES = ["2h", "7d", "2026-11-24", "2026-11-24T08:30Z"]
Since = Annotated[
    datetime | None,
    _moment(times.parse_since),
    Field(description="From then on: so long ago, or a moment; UTC unless it says.", examples=_EXAMPLES),
]
Until = Annotated[
    datetime | None,
    _moment(times.parse_until),
    Field(description="Before then; a date means the end of its day.", examples=_EXAMPLES),
]
