"""The arguments that clients really send (null, blank, ids as numbers), and the schemas that they can read."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from mcp import Client

from tests.harness.mcp import Office, with_client
from vkteams_daemon.mcp.server import CLIENT_KEYS

SELF_EXPLAINING = {"limit", "cursor", "max_tokens", "until", "timezone"}
NEEDED = {"query": "сервер", "msg_id": "7576336249029481622"}


def _schemas(value: Any) -> Iterator[dict[str, Any]]:
    """Every schema within a schema."""
    if isinstance(value, dict):
        yield value
        for entry in value.values():
            yield from _schemas(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _schemas(entry)


def test_the_strictest_client_can_read_every_schema(office: Office) -> None:
    """No regular expression, no null, and one type for each argument."""
    tools = with_client(office, lambda client: client.list_tools()).tools
    for tool in tools:
        for name, argument in tool.input_schema["properties"].items():
            assert isinstance(argument.get("type"), str), (tool.name, name)
            assert argument.get("description") or tool.name != "search" or name in SELF_EXPLAINING, (tool.name, name)
            assert argument.get("default", 1) is not None, (tool.name, name)
            for schema in _schemas(argument):
                assert not schema.keys() & {"pattern", "anyOf", "oneOf", "$ref"}, (tool.name, name)
        assert len(json.dumps(tool.input_schema, ensure_ascii=False)) < 4000, tool.name


def test_a_null_or_blank_optional_argument_counts_as_left_out(office: Office) -> None:
    blanks = itertools.cycle((None, "", "  "))  # most arguments belong to several tools, and get another one with each

    async def look(client: Client) -> None:
        for tool in (await client.list_tools()).tools:
            required = tool.input_schema.get("required", []) + (["query"] if tool.name == "search" else [])
            needed = {name: NEEDED[name] for name in required}
            plain = await client.call_tool(tool.name, needed)
            assert not plain.is_error, plain.content
            for name, value in zip(sorted(tool.input_schema["properties"]), blanks, strict=False):
                answer = await client.call_tool(tool.name, needed | {name: value})
                assert answer.is_error is (name in required), (tool.name, name, value, answer.content)
                assert "nobody foresaw" not in str(answer.content), (tool.name, name, value)

    with_client(office, look)


def test_a_number_too_long_to_write_is_refused_and_audited(office: Office) -> None:
    too_long = 10**5000

    async def look(client: Client) -> None:
        for value in (too_long, [too_long]):
            answer = await client.call_tool("get_recent_messages", {"chat": value})
            assert answer.is_error and "nobody foresaw" not in str(answer.content)

    with_client(office, look)
    assert [line["arguments"]["chat"] for line in office.audit()] == [
        "int that cannot be shown",
        "list that cannot be shown",
    ]


def test_keys_that_clients_add_are_ignored_in_any_spelling_and_audited(office: Office) -> None:
    keys = {*CLIENT_KEYS, "tool_call_id", "session_id", "Session-Id", "chat_input"}

    async def look(client: Client) -> None:
        answer = await client.call_tool("search_text", {"query": "сервер", **dict.fromkeys(keys, "x")})
        assert not answer.is_error and (answer.structured_content or {})["hits"]

    with_client(office, look)
    (line,) = office.audit()
    assert set(line["ignored"]) == keys


@pytest.mark.parametrize(
    ("tool", "arguments", "why"),
    [
        ("search_text", {"query": "x", "chatid": "1"}, "search_text has no argument 'chatid'; did you mean chat"),
        ("search_text", {"query": "x", "zzz": 1}, "search_text has no argument 'zzz'; what it has: query, limit"),
        ("get_context", {"msg_id": 7576322310144000105}, "msg_id: an id is a text, in quotes: as a number it loses"),
        ("get_message", {"msg_id": 1.5}, "msg_id: an id is a text"),
        ("search_text", {"query": "x", "chat_id": 681869378}, "chat_id: an id is a text"),
        ("list_chats", {"cursor": "W1tbW1s"}, "the cursor cannot be read"),
        ("get_recent_messages", {"cursor": "W1tbW1s"}, "the cursor cannot be read"),
        ("search_text", {"query": "x", "cursor": "W1tbW1s"}, "the cursor cannot be read"),
    ],
)
def test_what_is_wrong_is_said(office: Office, tool: str, arguments: dict[str, Any], why: str) -> None:
    answer = with_client(office, lambda client: client.call_tool(tool, arguments))
    assert answer.is_error
    assert str(answer.content[0].text).startswith(why)  # type: ignore[union-attr]
