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

ChatId = Annotated[_Id | None, Field(description="The id of a chat, or `all`.")]
UserId = Annotated[_Id | None, Field(description="Only what the person of this id wrote.")]
_Name = Annotated[str, BeforeValidator(_check_id, json_schema_input_type=str), Field(min_length=1, max_length=300)]
ChatName = Annotated[_Name | None, Field(description="Title, part of it, or id; `all`.")]
UserName = Annotated[_Name | None, Field(description="Who wrote it: a name, part of it, or id.")]
Has = Annotated[
    list[Literal["file", "image", "video", "voice", "link", "mention"]] | None,
    Field(max_length=6, description="Only messages with all of these."),
]
Mentions = Annotated[_Name | None, Field(description="A person whom it mentions.")]
ReplyToUser = Annotated[_Name | None, Field(description="A person whom it answers.")]
Format = Annotated[
    Literal["json", "transcript"],
    Field(description="transcript: plain lines with short references, in half the tokens; read much with it."),
]
Edited = Annotated[bool, Field(description="Only edited messages.")]
Sort = Annotated[Literal["best", "new"], Field(description="The best or the newest first.")]
OptionalId = _Id | None
OneChat = Annotated[_Id | None, Field(description="If several chats have such a msg_id.")]
OneMessage = Annotated[_Id, Field(description="A msg_id, or a reference of a transcript.")]
Around = Annotated[_Id | None, Field(description="What `around` is about.")]
Cursor = Annotated[str | None, Field(max_length=2000)]
_TOKEN_RANGE = Field(ge=200, le=200000)
MaxTokens = Annotated[int | None, _TOKEN_RANGE]


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
    Field(description="How far back: 2h, 7d. Left out: two hours for `recent`."),
]
Since = Annotated[
    datetime | None,
    _parsed(times.parse_since, _MOMENT),
    Field(description="2h, 2026-11-24, 24.11 18:00, yesterday, last week."),
]
Until = Annotated[datetime | None, _parsed(times.parse_until, _MOMENT)]
