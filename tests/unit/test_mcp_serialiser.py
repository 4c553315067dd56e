"""The JSON of the answers: no invisible character comes out of any field of any tool, and the schema describes it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import types
import typing
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from mcp.server.mcpserver.tools import Tool

from vkteams_daemon.access import TOOLS, Access
from vkteams_daemon.config import Config
from vkteams_daemon.mcp.archive_reader import Reader
from vkteams_daemon.mcp.serialiser import to_json, to_text
from vkteams_daemon.mcp.server import Server
from vkteams_daemon.search.history.results import Lag
from vkteams_daemon.search.messages import ArchivedMessage
from vkteams_daemon.search.results import Hit, RetrieverScore
from vkteams_daemon.serving.audit import Audit
from vkteams_daemon.system.redaction import Secrets

HOSTILE, VISIBLE = "say\u202e it\u200b \x1b[2J" + chr(0xE0041), "say it [2J"
NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


def _tools() -> dict[str, Tool]:
    server = Server(Reader(Config(), Access("me")), Audit(Secrets(), "stdio"))
    return {name: tool for name in TOOLS if (tool := server._tool_manager.get_tool(name))}


def _hostile(kind: Any) -> Any:
    """A value of this type in which every text is hostile and nothing is empty."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{field.name: _hostile(hints[field.name]) for field in dataclasses.fields(kind)})  # type: ignore[operator]
    if origin in (types.UnionType, typing.Union):
        return _hostile(arguments[0])
    if origin is typing.Literal:
        return arguments[0]
    if origin in (list, tuple):
        return origin([_hostile(arguments[0])])
    if origin is dict:
        return {HOSTILE: _hostile(arguments[1])}
    if kind is Any:
        return [HOSTILE, {"a": (HOSTILE,)}]
    return {str: HOSTILE, int: 7, float: 0.5, bool: True, datetime: NOW, date: NOW.date()}[kind]


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for pair in value.items() for entry in pair for text in _texts(entry)]
    if isinstance(value, list):
        return [text for entry in value for text in _texts(entry)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("name", TOOLS)
def test_every_text_of_every_answer_is_visible_and_as_its_schema_says(name: str) -> None:
    tool = _tools()[name]
    answer = _hostile(typing.get_type_hints(tool.fn)["return"])
    result: Any = tool.fn_metadata.convert_result(answer)
    texts = _texts(result.structured_content)
    assert VISIBLE in texts and not [text for text in texts if HOSTILE in text or "\u200b" in text]
    assert json.loads(result.content[0].text) == result.structured_content
    jsonschema.validate(result.structured_content, tool.output_schema or False)


def test_schemas_take_their_descriptions_from_the_docstrings_below_the_fields() -> None:
    schema = _tools()["get_recent_messages"].output_schema or {}
    assert schema["properties"]["cut"]["description"] == "Whether a text was shortened to fit the answer"
    assert "required" not in schema, "a transcript stands in the place of the messages"
    assert (_tools()["list_chats"].output_schema or {})["required"] == ["chats"], "what may be left out is not required"


def test_schemas_have_the_types_of_what_is_nested_once_and_the_names_of_what_is_nested_deeper() -> None:
    hit = (_tools()["search"].output_schema or {})["properties"]["hits"]["items"]["properties"]
    assert hit["sent_at"] == {"type": "string", "format": "date-time"} and hit["user_id"] == {"type": "string"}
    names = "chat_id, msg_id, user_id, author, sent_at, text, reply_to_msg_id, edited, parts, quotes, own_text, files,"
    names += " known_by_quote"
    assert hit["context"] == {"type": "array", "items": {"type": "object", "description": names}}


def test_the_tools_are_short() -> None:
    """An agent pays for them in every chat."""
    server = Server(Reader(Config(), Access("me")), Audit(Secrets(), "stdio"))
    tools = [tool.model_dump(by_alias=True, exclude_none=True) for tool in asyncio.run(server.list_tools())]
    answers = [tool.pop("outputSchema") for tool in tools]
    assert sum(len(to_text(tool).encode()) for tool in tools) <= 10_240
    assert sum(len(to_text(answer).encode()) for answer in answers) <= 12_288


def test_a_value_that_could_hide_a_text_is_refused() -> None:
    for value in (b"bytes", {"a set"}, object(), timedelta(1)):
        with pytest.raises(TypeError, match="has no form in JSON"):
            to_json([value])


def test_fields_with_their_defaults_are_left_out_and_required_ones_stay() -> None:
    message = ArchivedMessage("c", "m", None, None, NOW, "", None, False, ())
    assert to_json(message) == {"chat_id": "c", "msg_id": "m", "sent_at": "2026-11-25T12:00:00Z", "text": ""}
    assert to_json(Lag()) == {}


def test_a_hit_that_nothing_ranks_has_no_score() -> None:
    hit = Hit(chat_id="c", chat_title=None, msg_id="m", user_id=None, author=None, sent_at=NOW, text="x",
              reply_to_msg_id=None, legs=(RetrieverScore("text", 1),))  # fmt: skip
    assert to_json(hit)["legs"] == [{"name": "text", "rank": 1}]
    assert not {"score", "snippet"} & to_json(hit).keys()


def test_moments_keep_their_offset_and_the_text_has_no_spaces() -> None:
    moscow = NOW.astimezone(timezone(timedelta(hours=3))).replace(microsecond=1200)
    assert to_text({"at": moscow, "day": NOW.date()}) == '{"at":"2026-11-25T15:00:00.001200+03:00","day":"2026-11-25"}'


def test_the_server_offers_exactly_the_tools_that_a_token_may_name() -> None:
    server = Server(Reader(Config(), Access("me")), Audit(Secrets(), "stdio"))
    assert {tool.name for tool in asyncio.run(server.list_tools())} == set(TOOLS)
