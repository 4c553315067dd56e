"""The arguments that several tools take: their types, bounds, descriptions and examples."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from vkteams_daemon import times
from vkteams_daemon.errors import UsageError


def _check_id(value: object) -> object:
    if isinstance(value, int | float):
        raise ValueError("an id is a text, in quotes: as a number it loses its last digits beyond 2^53")
    if isinstance(value, str) and "\0" in value:
        raise ValueError("an id has no zero byte")
    return value


# The schema has no pattern: some clients refuse a schema with a regular expression that they do not support.
_Id = Annotated[str, BeforeValidator(_check_id, json_schema_input_type=str), Field(min_length=1, max_length=300)]
_MAX_TIME = 50  # characters of a moment or a span of time

ChatId = Annotated[
    _Id | None,
    Field(description="This chat, or `all`. Left out: the only chat there is, or the user is asked, or all."),
]
UserId = Annotated[_Id | None, Field(description="Only what this person wrote; list_users names them.")]
_Name = Annotated[str, BeforeValidator(_check_id, json_schema_input_type=str), Field(min_length=1, max_length=300)]
ChatName = Annotated[_Name | None, Field(description="Instead of chat_id: its title, or a part of it.")]
UserName = Annotated[_Name | None, Field(description="Instead of user_id: a name, a part of one, or an e-mail.")]
Has = Annotated[
    list[Literal["file", "image", "video", "voice", "link", "mention"]] | None,
    Field(max_length=6, description="Only messages with all of these."),
]
Mentions = Annotated[_Name | None, Field(description="Only messages that mention this person.")]
Edited = Annotated[bool, Field(description="Only edited messages.")]
Sort = Annotated[Literal["best", "new"], Field(description="The best or the newest first.")]
OneChat = Annotated[_Id | None, Field(description="The chat of the message; looked up if left out.")]
OneMessage = Annotated[_Id, Field(description="The message.", examples=["7576322310144000017"])]
Around = Annotated[
    _Id | None,
    Field(description="The message that `around` is about; with chat_id if several chats have such a msg_id."),
]
Cursor = Annotated[
    str | None, Field(max_length=2000, description="The cursor of the page before, with the same arguments.")
]
_TOKEN_RANGE = Field(ge=200, le=200000)
MaxTokens = Annotated[
    int | None, _TOKEN_RANGE, Field(description="Most tokens of the answer; the cursor gives the rest.")
]
MaxTokensInAll = Annotated[
    int | None,
    _TOKEN_RANGE,
    Field(description="Most tokens of the answer; `cut` says that something was left out."),
]


def check_said(value: str) -> str:
    """Refuse a blank query.

    Raises:
        ValueError: it has no character that can be seen.
    """
    if not value.strip():
        raise ValueError("it is blank")
    return value


def _parsed(parse: Callable[[str], object], expected: str) -> BeforeValidator:
    """Parse a text as vkteamsctl parses its options; `expected` says what the argument is."""

    def validate(value: object) -> object:
        if value is None:
            return None
        if not isinstance(value, str) or len(value) > _MAX_TIME:
            raise ValueError(expected)
        try:
            return parse(value)
        except UsageError as error:
            raise ValueError(str(error)) from error

    return BeforeValidator(validate, json_schema_input_type=str)


_MOMENT = "a moment is a short text, such as 7d or 2026-11-24"
_DURATION = "a duration is a short text, such as 2h or 7d"
Timeframe = Annotated[
    float | None,
    _parsed(lambda text: times.parse_age(text).total_seconds(), _DURATION),
    Field(
        description="How far back from now; two hours for `recent`, otherwise everything.",
        examples=["2h", "7d"],
    ),
]
Since = Annotated[
    datetime | None,
    _parsed(times.parse_since, _MOMENT),
    Field(
        description="Only from this moment on (UTC).",
        examples=["7d", "2026-11-24T08:30Z"],
    ),
]
Until = Annotated[
    datetime | None,
    _parsed(times.parse_until, _MOMENT),
    Field(description="Only before this moment; a date means the end of its day.", examples=["2026-11-24"]),
]
