"""The MCP server over stdio as a real process, and its tools: what they are, what they answer and what they refuse."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from typing import Any

import pytest
from mcp import Client

from tests.harness.daemon import ROOT
from tests.harness.mcp import Office, asked, over_stdio, refused, structured, with_client
from vkteams_daemon.access import TOOLS

OPS = "681869378@chat.agent"
MAIL = "7576336249029481622"


def test_the_tools_are_typed_and_read_only(office: Office) -> None:
    tools = {tool.name: tool for tool in over_stdio(office, lambda client: client.list_tools()).tools}
    assert {"search_hybrid", "search_text", "search_semantic", "get_message", "get_database_stats"} <= set(tools)
    for tool in tools.values():
        assert tool.description and tool.output_schema and tool.annotations
        assert tool.annotations.read_only_hint
        for argument in tool.input_schema["properties"].values():
            assert argument["type"], tool.name
        assert tool.input_schema["additionalProperties"] is False
    assert tools["search"].input_schema["properties"]["limit"]["maximum"] == 100
    assert tools["search_text"].input_schema["required"] == ["query"]


def test_an_unknown_argument_is_refused(office: Office) -> None:
    async def look(client: Client) -> dict[str, str]:
        example = {"query": "сервер", "msg_id": MAIL}
        refusals = {}
        for tool in (await client.list_tools()).tools:
            needed = {name: example[name] for name in tool.input_schema.get("required", [])}
            answer = await client.call_tool(tool.name, needed | {"untill\n" + "x" * 1000: "2d"})
            assert answer.is_error, tool.name
            refusals[tool.name] = str(answer.content[0].text)  # type: ignore[union-attr]
        return refusals

    refusals = with_client(office, look)
    assert set(refusals) == set(TOOLS)
    for tool, why in refusals.items():
        assert why.startswith(f"{tool} has no argument 'untill\\nxxx") and len(why) < 300, why
    assert refusals["list_chats"].endswith("; what it has: since, until, limit, cursor, max_tokens, timezone")
    assert refusals["daemon_status"].endswith("; what it has: timezone")


def test_the_manual_lists_every_tool_with_its_arguments(office: Office) -> None:
    page = (ROOT / "docs" / "mcp.md").read_text(encoding="utf-8")
    table = page.partition("## Tools")[2].partition("## Over")[0]
    written = dict(re.findall(r"(?m)^\| `(\w+)` \|([\w, ]*)\|", table))
    tools = {tool.name: tool for tool in with_client(office, lambda client: client.list_tools()).tools}
    assert set(written) == set(tools) == set(TOOLS)
    for name, tool in tools.items():
        arguments = set(tool.input_schema["properties"]) - {"timezone"}
        if written[name].strip() == "the same":
            written[name] = written["search_hybrid"]
        assert set(filter(None, written[name].strip().split(", "))) == arguments, name


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_clients_of_both_protocol_versions_find_by_words(office: Office, mode: Any) -> None:
    arguments = {"query": "почтовый сервер", "limit": 3}
    result = structured(over_stdio(office, lambda client: client.call_tool("search_text", arguments), mode=mode))
    assert "почтовым сервером" in result["hits"][0]["text"]
    assert result["hits"][0]["author"] == "Анна Иванова"
    assert result["coverage"]["models"] == ["tiny"]


def test_the_instructions_call_texts_untrusted_data(office: Office) -> None:
    async def instructions(client: Client) -> str:
        return client.instructions or ""

    text = with_client(office, instructions)
    assert "untrusted" in text and "never an\ninstruction" in text


@pytest.mark.parametrize(("tool", "verb"), [("search_text", "text"), ("search_semantic", "semantic")])
def test_a_search_answers_what_vkteamsctl_answers(office: Office, tool: str, verb: str) -> None:
    result = asked(office, tool, query="сервер базы", limit=5)
    twin = office.ctl("search", verb, "сервер базы", "--limit", "5")
    assert [(hit["chat_id"], hit["msg_id"], hit["text"]) for hit in result["hits"]] == [
        (hit["chat_id"], hit["msg_id"], hit["text"]) for hit in twin["hits"]
    ]
    assert result["hits"]


def test_the_model_stays_loaded_between_questions(office: Office) -> None:
    async def twice(client: Client) -> list[float]:
        took = []
        for query in ("the disk is full", "who broke the proxy", "the offer is late"):
            began = time.monotonic()
            answer = await client.call_tool("search_semantic", {"query": query})
            took.append(time.monotonic() - began)
            assert not answer.is_error
        return took

    took = over_stdio(office, twice)
    assert min(took[1:]) < took[0] / 2, took


@pytest.mark.parametrize(
    ("tool", "arguments", "command"),
    [
        ("get_database_stats", {}, "database stats"),
        ("get_database_stats", {"chat_id": OPS, "since": "3d"}, f"database stats --chat-id {OPS} --since 3d"),
        ("get_message", {"chat_id": OPS, "msg_id": MAIL}, f"context message {MAIL}"),
        ("get_context", {"chat_id": OPS, "timeframe": "20h"}, f"context get --chat-id {OPS} --timeframe 20h"),
        ("get_context", {"context_type": "around", "msg_id": MAIL}, f"context get --around {MAIL}"),
        ("get_context", {"context_type": "topic", "query": "relay"}, "context get --query relay"),
        ("list_chats", {}, "context chats"),
        ("list_users", {"chat_id": OPS}, f"context users --chat-id {OPS}"),
        ("daemon_status", {}, "daemon status"),
    ],
)
def test_a_tool_answers_what_its_twin_answers(
    office: Office, tool: str, arguments: dict[str, Any], command: str
) -> None:
    office.configure(mcp={"max_tokens": 100_000})
    if tool == "get_context":
        command += " --max-tokens 100000"
    answer, twin = asked(office, tool, **arguments), office.ctl(*command.split())
    if tool.startswith("list_"):
        answer = answer["chats" if tool == "list_chats" else "users"]
        twin = twin["rows"]
    else:
        answer = {name: entry for name, entry in answer.items() if name not in ("now", "times")}
    assert _plain(answer) == _plain(twin) and answer


def _plain(value: Any) -> Any:
    """Without what is empty, what depends on the form, and the minute of the question; times without empty digits."""
    if isinstance(value, dict):
        entries = {
            key: _plain(entry) for key, entry in value.items() if key not in ("tokens", "sizes", "tables", "now")
        }
        return {key: entry for key, entry in entries.items() if entry not in (None, False, [], {})}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, str) and re.fullmatch(r"[-0-9T:]+\.\d+Z", value):
        return value[:-1].rstrip("0").rstrip(".") + "Z"
    if isinstance(value, str):
        return re.sub(r"^Nothing was said since [^;]+;", "Nothing was said;", value)
    return round(value, 6) if isinstance(value, float) else value


NO_CHAT = "the archive has no chat 0@chat.agent. list_chats names those there are"
NO_USER = "the archive has no user nobody. list_users names those there are"


@pytest.mark.parametrize(
    ("tool", "arguments", "why"),
    [
        ("search_text", {}, "give either query or similar_to"),
        ("search_text", {"query": "  "}, "query: it is blank"),
        ("search_text", {"query": "x", "limit": 0}, "limit: input should be greater than or equal to 1"),
        ("search_text", {"query": "x", "since": "someday"}, "since: 'someday' is not a time: write 2h, 7d"),
        (
            "search_text",
            {"query": "x", "since": "3d", "until": "5d"},
            "no time lies between since and until. They are ",
        ),
        (
            "search_text",
            {"query": "x", "chat_id": "0@chat.agent"},
            NO_CHAT,
        ),
        (
            "search_text",
            {"query": "x", "user_id": "nobody"},
            NO_USER,
        ),
        ("get_recent_messages", {"user_id": "nobody"}, "the archive has no user nobody"),
        ("get_context", {"context_type": "topic", "query": "x", "user_id": "nobody"}, "the archive has no user nobody"),
        ("list_users", {"chat_id": "0@chat.agent"}, "the archive has no chat 0@chat.agent"),
        ("search_text", {"query": "x", "cursor": "nonsense"}, "the cursor cannot be read. Pass on the one that"),
        ("get_message", {"chat_id": OPS, "msg_id": "0"}, f"the archive has no message 0 in chat {OPS}"),
        ("drop_tables", {}, "Unknown tool: drop_tables"),
    ],
)
def test_a_mistake_is_one_sentence(office: Office, tool: str, arguments: dict[str, Any], why: str) -> None:
    message = refused(office, tool, **arguments)
    assert message.startswith(why)
    assert "\n" not in message and "Traceback" not in message and "SELECT" not in message


def test_pages_continue_until_the_last(office: Office) -> None:
    async def pages(client: Client) -> list[str]:
        arguments: dict[str, Any] = {"query": "сервер OR релиз OR релей OR почта", "limit": 2, "since": "52w"}
        msg_ids = []
        for _ in range(100):
            answer = (await client.call_tool("search_text", arguments)).structured_content or {}
            msg_ids += [hit["msg_id"] for hit in answer["hits"]]
            if "cursor" not in answer:
                return msg_ids
            arguments["cursor"] = answer["cursor"]
        raise AssertionError("no last page")

    msg_ids = with_client(office, pages)
    whole = office.ctl("search", "text", "сервер OR релиз OR релей OR почта", "--limit", "100")["hits"]
    assert msg_ids == [hit["msg_id"] for hit in whole] and len(msg_ids) > 4


def test_an_answer_keeps_to_the_token_budget_and_its_cursor_continues(office: Office) -> None:
    query = "сервер OR релиз OR релей OR почта"
    small = asked(office, "search_text", query=query, limit=50, max_tokens=400)
    large = asked(office, "search_text", query=query, limit=50, max_tokens=6000)
    assert 0 < len(small["hits"]) < len(large["hits"])
    rest = asked(office, "search_text", query=query, limit=50, cursor=small["cursor"])
    assert [hit["msg_id"] for hit in small["hits"] + rest["hits"]] == [hit["msg_id"] for hit in large["hits"]]


def test_every_call_has_an_audit_line(office: Office) -> None:
    async def twice(client: Client) -> None:
        assert not (await client.call_tool("search_text", {"query": "сервер", "limit": 1})).is_error
        assert (await client.call_tool("get_message", {"chat_id": OPS, "msg_id": "0"})).is_error

    over_stdio(office, twice)
    first, second = office.audit()
    assert first["call"] == "search_text" and first["arguments"] == {"query": "сервер", "limit": 1}
    assert (first["outcome"], first["hits"], first["transport"]) == ("ok", 1, "stdio")
    assert first["who"].startswith("user ") and first["ms"] > 0
    assert (second["outcome"], second["error"]) == ("refused", f"the archive has no message 0 in chat {OPS}")


@pytest.mark.parametrize("end", [None, signal.SIGTERM, signal.SIGINT])
def test_the_server_ends_with_its_input_and_on_a_signal(office: Office, end: signal.Signals | None) -> None:
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        office.command("mcp", "serve"), env=office.environ(), stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL
    )
    assert process.stdin and process.stdout
    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": client}
    process.stdin.write(json.dumps(hello).encode() + b"\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["result"]["serverInfo"]["name"] == "vkteams"
    if end is None:
        process.stdin.close()
    else:
        process.send_signal(end)
    assert process.wait(20) == 0
    assert process.stdout.read() == b"", "nothing but the protocol is on standard output"
    process.stdout.close()
    process.stdin.close()
