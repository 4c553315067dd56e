"""The MCP server over HTTP, as a real process on a free port: tokens, what each may see, names and origins."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp.types import ElicitRequestParams, ElicitResult

from tests.harness.mcp import HttpServer, Office
from tests.harness.waiting import until
from vkteams_daemon.access import Access
from vkteams_daemon.config import Config
from vkteams_daemon.daemon import status as status_file
from vkteams_daemon.mcp import metrics
from vkteams_daemon.mcp.archive_reader import Reader
from vkteams_daemon.mcp.metrics import McpEndpoint
from vkteams_daemon.mcp.tools.pagination import message_cursor

OPS, THREAD, LUNCH = "681869378@chat.agent", "693938330@chat.agent", "684120415@chat.agent"
MAIL = "7576336249029481622"
ALL, SOME, LATE = "all-" + "a" * 40, "some-" + "b" * 40, "late-" + "c" * 40
TOKENS = f"""
[tokens.everything]
sha256 = "{hashlib.sha256(ALL.encode()).hexdigest()}"

[tokens.operations]
token = "{SOME}"
chats = ["{OPS}"]
tools = ["search_text", "search_hybrid", "get_message", "get_database_stats"]

[tokens.lately]
token = "{LATE}"
since = 2026-01-01
"""


@pytest.fixture
def tokens(office: Office) -> Path:
    """The tokens file of the configuration."""
    file = office.directory / "tokens.toml"
    file.touch(0o600)
    file.write_text(TOKENS, encoding="utf-8")
    office.configure(mcp={"tokens_file": str(file)})
    return file


Serve = Callable[..., HttpServer]


@pytest.fixture
def serve(office: Office) -> Iterator[Serve]:
    """Starts servers, and ends them."""
    started: list[HttpServer] = []

    def start(address: str = "127.0.0.1:0") -> HttpServer:
        started.append(HttpServer(office, address))
        return started[-1]

    yield start
    for server in started:
        server.end()


def _post(url: str, message: dict[str, Any], headers: dict[str, str]) -> tuple[int, str]:
    """The HTTP status of a message, and the session that the answer names."""
    headers_sent = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"} | headers
    request = urllib.request.Request(url, json.dumps(message).encode(), headers_sent)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status), answer.headers.get("Mcp-Session-Id", "")
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, ""


def _hello(url: str, **headers: str) -> str:
    """The session that a hello opens; empty where it is refused."""
    return _greeted(url, headers)[1]


def _status(url: str, **headers: str) -> int:
    """The HTTP status of a hello."""
    return _greeted(url, headers)[0]


def _greeted(url: str, headers: dict[str, str]) -> tuple[int, str]:
    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    return _post(url, {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": client}, headers)


def test_loopback_needs_no_token(serve: Serve) -> None:
    server = serve()
    assert server.asked("search_text", query="почтовый сервер")["hits"]
    assert server.asked("search_text", query="почтовый сервер", mode="legacy")["hits"]
    assert [line["who"] for line in server.office.audit()] == ["anybody on this machine"] * 2
    assert {line["transport"] for line in server.office.audit()} == {"http"}


def test_with_a_tokens_file_every_client_needs_a_token(serve: Serve, tokens: Path) -> None:
    server = serve()
    assert _status(server.url) == 401
    assert _status(server.url, Authorization="Bearer ") == 401
    assert _status(server.url, Authorization=f"Bearer {ALL[:-1]}") == 401
    assert _status(server.url, Authorization=f"Basic {ALL}") == 401
    assert _status(server.url, Authorization=f"Bearer {ALL}") == 200
    assert ALL not in server.office.said.read_text()


def test_a_token_gives_only_its_own_chats_and_their_threads(serve: Serve, tokens: Path) -> None:
    server = serve()
    whole = server.asked("search_text", token=ALL, query="Лесная OR хинкали OR сервер", limit=100, chat_id="all")
    part = server.asked("search_text", token=SOME, query="Лесная OR хинкали OR сервер", limit=100)
    assert {hit["chat_id"] for hit in whole["hits"]} >= {OPS, LUNCH}
    assert {hit["chat_id"] for hit in part["hits"]} <= {OPS, THREAD}
    assert part["hits"]
    lunch = next(hit for hit in whole["hits"] if hit["chat_id"] == LUNCH)
    thread = server.asked("search_text", token=SOME, query="сервер OR реле OR релей", chat_id=THREAD)
    assert thread["mode"] == "text"
    why = f"{LUNCH} is not one of the chats that you may see; list_chats names them"
    assert server.refused("search_text", token=SOME, query="хинкали", chat_id=LUNCH) == why
    assert server.refused("get_message", token=SOME, chat_id=LUNCH, msg_id=lunch["msg_id"]) == why
    assert "no message" in server.refused("get_message", token=SOME, msg_id=lunch["msg_id"])
    assert server.refused("get_database_stats", token=SOME, chat_id=LUNCH) == why
    assert server.refused("search_text", token=ALL, query="сервер", user_id="x").startswith("the archive has no user x")
    hidden = server.refused("search_text", token=SOME, query="сервер", user_id="x")
    assert hidden.startswith("there is no such person among those you may see: x"), "nor who is elsewhere"
    statistics = server.asked("get_database_stats", token=SOME)
    assert statistics["chats"] == 2 and {chat["chat_id"] for chat in statistics["busiest"]} == {OPS, THREAD}
    assert "sizes" not in statistics


def test_a_client_with_a_token_does_not_see_the_database_errors(office: Office, serve: Serve, tokens: Path) -> None:
    why = "the database cannot be reached: connection to server at 10.0.0.7, port 5432 failed"
    status = status_file.new("1.0", "all")
    blocker = "psql of the role dba, process 77 at 10.0.0.9"
    status.database = status_file.Database(state="down", last_error=why, blocked_by=blocker)
    status.api = status_file.Api(state="backoff", last_error="https://api.corp.example: 502")
    status.warnings = [why]
    (office.directory / "run").mkdir()
    status_file.write(status, office.directory / "run" / "vkteamsd.status.json")
    server = serve()
    file = server.asked("daemon_status", token=ALL)["file"]
    hidden = "see the daemon's log"
    assert file["database"] == {"state": "down", "last_error": hidden, "blocked_by": hidden}
    assert file["api"]["last_error"] == hidden and file["warnings"] == [hidden]
    assert "10.0.0" not in json.dumps(server.asked("daemon_status", token=LATE)), "nor one that may not see everything"
    office.configure(mcp={"tokens_file": ""})
    file = serve().asked("daemon_status")["file"]
    assert file["database"]["last_error"] == why and file["database"]["blocked_by"] == blocker


def test_what_waits_in_the_spool_is_counted_for_those_who_may_see_everything(
    office: Office, serve: Serve, tokens: Path
) -> None:
    """Its number and its age depend on chats that the others may not see."""
    status = status_file.new("1.0", "all")
    status.database = status_file.Database(state="down")
    since = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    status.spool = status_file.Spool(events=3, bytes=999, since=since)
    (office.directory / "run").mkdir()
    path = office.directory / "run" / "vkteamsd.status.json"
    status_file.write(status, path)
    server = serve()

    def gaps(token: str) -> list[str]:
        answer = server.asked("search_text", token=token, query="сервер", chat_id=OPS)
        return list(answer["coverage"].get("gaps", []))

    whole = "3 events wait in the daemon's spool since 2026-01-02 03:04 UTC and cannot be found yet"
    assert whole in gaps(ALL)
    assert whole in office.ctl("search", "text", "сервер")["coverage"]["gaps"]
    assert gaps(SOME) == gaps(LATE) == ["the daemon cannot reach its database, so the newest messages may be missing"]
    assert server.asked("daemon_status", token=ALL)["file"]["spool"]["events"] == 3
    assert server.asked("daemon_status", token=LATE).keys() == {"now", "status", "age"}
    status.database = status_file.Database(state="ok")
    status_file.write(status, path)
    assert whole in gaps(ALL)
    assert gaps(SOME) == gaps(LATE) == []


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_call_can_be_cancelled_over_http(office: Office, serve: Serve, mode: str) -> None:
    async def look(client: Client) -> None:
        with psycopg.connect(office.url) as holder:
            holder.execute("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")
            with anyio.move_on_after(2.0) as taken_back:
                await client.call_tool("search_text", {"query": "сервер", "chat_id": "all"})
            assert taken_back.cancelled_caught
            assert (await client.list_tools()).tools
            holder.rollback()
        assert not (await client.call_tool("search_text", {"query": "сервер", "chat_id": "all"})).is_error

    server = serve()
    server.with_client(look, mode=mode)
    until(lambda: len(office.audit()) == 2, 20, "two audit lines")
    assert sorted(line["outcome"] for line in office.audit()) == ["cancelled", "ok"]


def test_a_session_belongs_to_the_token_that_opened_it(serve: Serve, tokens: Path) -> None:
    server = serve()
    session = _hello(server.url, Authorization=f"Bearer {ALL}")
    assert session
    listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
    for token, status in ((SOME, 404), (ALL, 200)):
        headers = {"Authorization": f"Bearer {token}", "Mcp-Session-Id": session}
        assert _post(server.url, listing, headers)[0] == status


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_the_user_is_asked_which_chat_over_http(serve: Serve, mode: str) -> None:
    questions = []

    async def choose(context: Any, params: ElicitRequestParams) -> ElicitResult:
        questions.append(params.message)
        return ElicitResult(action="accept", content={"chat_id": LUNCH})

    async def search(client: Client) -> set[str]:
        answer = await client.call_tool("search_text", {"query": "сервер OR хинкали", "limit": 100})
        return {hit["chat_id"] for hit in (answer.structured_content or {})["hits"]}

    assert serve().with_client(search, mode=mode, elicitation_callback=choose) == {LUNCH}
    assert questions == ["Which chat is the question about?"]


def test_a_token_gives_only_its_own_tools(serve: Serve, tokens: Path) -> None:
    server = serve()

    async def names(client: Client) -> set[str]:
        return {tool.name for tool in (await client.list_tools()).tools}

    assert server.with_client(names, token=SOME) == {
        "search_text", "search_hybrid", "get_message", "get_database_stats",
    }  # fmt: skip
    assert server.refused("search_semantic", token=SOME, query="x") == "you may not use search_semantic"
    assert not {"search_semantic"} - server.with_client(names, token=ALL)


def test_no_tool_or_resource_shows_another_chat(office: Office, serve: Serve, tokens: Path) -> None:
    tokens.write_text(TOKENS.partition("tools = ")[0], encoding="utf-8")
    server = serve()
    # What was forwarded stands in both.
    foreign = "SELECT text FROM messages GROUP BY text HAVING bool_and(chat_id <> ALL(%s)) AND length(text) > 20"
    theirs = [text for (text,) in office.rows(foreign, [OPS, THREAD])] + [LUNCH, "Лесная, 7"]
    ((stranger,),) = office.rows(
        "SELECT min(user_id) FROM (SELECT user_id FROM messages GROUP BY user_id"
        " HAVING bool_and(chat_id <> ALL(%s))) AS s", [OPS, THREAD]
    )  # fmt: skip
    theirs.append(stranger)

    async def look(client: Client) -> list[str]:
        answers = []
        example = {"query": "сервер OR хинкали OR offer", "chat_id": OPS, "msg_id": MAIL}
        for tool in (await client.list_tools()).tools:
            required = tool.input_schema.get("required", []) + (["query"] if tool.name == "search" else [])
            arguments = {name: example[name] for name in required}
            answer = await client.call_tool(tool.name, arguments)
            assert not answer.is_error, (tool.name, answer.content)
            answers.append(answer.model_dump_json())
        for kind, more in (
            ("recent", {"timeframe": "52w"}),
            ("topic", {"query": "хинкали OR сервер"}),
            ("user-profile", {"user_id": "a.ivanova@corp.example"}),
            ("around", {"msg_id": MAIL}),
        ):
            answers.append((await client.call_tool("get_context", {"context_type": kind} | more)).model_dump_json())
        nobody = await client.call_tool("get_context", {"context_type": "user-profile", "user_id": stranger})
        assert nobody.is_error
        answers += [one.model_dump_json() for one in (await client.list_resources()).resources]
        answers.append((await client.get_prompt("summarise_day", {})).model_dump_json())
        for forbidden in (
            client.read_resource(f"vkteams://chat/{LUNCH}"),
            client.get_prompt("summarise_day", {"chat_id": LUNCH}),
        ):
            with pytest.raises(MCPError, match="is not one of the chats that you may see"):
                await forbidden
        return answers

    answers = server.with_client(look, token=SOME)
    assert len(answers) > 15
    for answer in answers:
        assert not [text for text in theirs if json.dumps(text, ensure_ascii=False)[1:-1] in answer]


def test_a_token_sees_nothing_from_before_its_date(office: Office, serve: Serve, tokens: Path) -> None:
    ((middle,),) = office.rows("SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY sent_at) FROM messages")
    tokens.write_text(TOKENS.replace("since = 2026-01-01", f"since = {middle.isoformat()}"), encoding="utf-8")
    server = serve()
    query = "сервер OR почта OR релиз OR релей OR хинкали"
    whole = server.asked("search_text", token=ALL, query=query, limit=100)
    seen = server.asked("search_text", token=LATE, query=query, limit=100, since="52w")
    early = [hit for hit in whole["hits"] if hit["sent_at"] < middle.strftime("%Y-%m-%dT%H:%M:%SZ")]
    assert early and seen["hits"]
    assert {hit["msg_id"] for hit in seen["hits"]} == {hit["msg_id"] for hit in whole["hits"] if hit not in early}
    assert seen["coverage"]["archived_since"] == middle.strftime("%Y-%m-%dT%H:%M:%SZ")
    why = f"the archive has no message {early[0]['msg_id']} in chat {early[0]['chat_id']}"
    assert server.refused("get_message", token=LATE, chat_id=early[0]["chat_id"], msg_id=early[0]["msg_id"]) == why
    ((later,),) = office.rows("SELECT count(*) FROM messages WHERE sent_at >= %s", middle)
    counted = server.asked("get_database_stats", token=LATE, since="2020-01-01")
    assert counted["messages"] == later
    assert counted["models"][0]["messages"] <= later


def test_a_forged_cursor_shows_no_more(office: Office, serve: Serve, tokens: Path) -> None:
    ((middle,),) = office.rows("SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY sent_at) FROM messages")
    tokens.write_text(TOKENS.replace("since = 2026-01-01", f"since = {middle.isoformat()}"), encoding="utf-8")
    server = serve()
    query = "сервер OR почта OR релиз OR релей OR хинкали"
    page = server.asked("search_text", token=ALL, query=query, limit=2, since="2020-01-01")
    rest = server.asked("search_text", token=LATE, query=query, limit=100, since="2020-01-01", cursor=page["cursor"])
    early = middle.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert not [hit for hit in rest["hits"] if hit["sent_at"] < early]
    recent = server.asked(
        "get_recent_messages", token=LATE, cursor=message_cursor(middle + timedelta(hours=1), "~", "~")
    )
    assert recent["messages"] and not [message for message in recent["messages"] if message["sent_at"] < early]


def test_a_token_is_withdrawn_without_a_restart(serve: Serve, tokens: Path) -> None:
    server = serve()
    assert _status(server.url, Authorization=f"Bearer {SOME}") == 200
    tokens.write_text(TOKENS.partition("[tokens.operations]")[0], encoding="utf-8")
    assert _status(server.url, Authorization=f"Bearer {SOME}") == 401
    assert _status(server.url, Authorization=f"Bearer {ALL}") == 200
    tokens.write_text("tokens =", encoding="utf-8")
    assert _status(server.url, Authorization=f"Bearer {ALL}") == 401, "an unreadable file lets nobody in"


def test_other_names_and_origins_are_refused(office: Office, serve: Serve) -> None:
    office.configure(mcp={"hosts": ["chats.corp.example"]})
    server = serve()
    assert _status(server.url, Host="evil.example") == 421
    assert _status(server.url, Host="chats.corp.example") == 200
    assert _status(server.url, Origin="https://evil.example") == 403
    assert _status(server.url, Origin="https://chats.corp.example") == 200


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_other_addresses_than_loopback_need_a_tokens_file(office: Office, address: str) -> None:
    code, message = office.failed("mcp", "serve", "--http", address)
    assert code == 64 and "is not this machine's loopback, and no client would need a token" in message


def test_other_addresses_than_loopback_with_a_tokens_file(serve: Serve, tokens: Path) -> None:
    server = serve("0.0.0.0:0")
    server.url = server.url.replace("0.0.0.0", "127.0.0.1")
    assert _status(server.url) == 401
    assert server.asked("search_text", token=ALL, query="сервер")["hits"]


def test_a_port_in_use_is_refused(office: Office) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code, message = office.failed("mcp", "serve", "--http", f"127.0.0.1:{port}")
    assert code == 73 and f"cannot listen on 127.0.0.1:{port}: Address already in use" in message


def test_a_wrong_tokens_file_is_refused(office: Office, tokens: Path) -> None:
    tokens.write_text(f"[tokens.a]\ntoken = '{ALL}'\ntools = ['drop']", encoding="utf-8")
    code, message = office.failed("mcp", "serve", "--http", "127.0.0.1:0")
    assert code == 78 and "tokens.a: there is no tool drop" in message and ALL not in message


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_on_a_signal(serve: Serve, signum: signal.Signals) -> None:
    server = serve()
    server.asked("search_text", query="сервер")
    os.kill(server.process.pid, signum)
    until(lambda: server.process.poll() is not None, 30, "the end")
    assert server.process.returncode == 0


def test_metrics_and_probes_at_an_address_of_their_own(office: Office, serve: Serve, tokens: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    office.configure(mcp={"tokens_file": str(tokens), "metrics": f"127.0.0.1:{port}"})
    server = serve()

    def get(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return str(answer.read().decode())

    assert json.loads(get("/livez"))["passed"] and json.loads(get("/readyz"))["checks"] == {"database": "ok"}
    server.call("search_text", token=ALL, query="сервер", chat_id=OPS)
    assert 'vkteams_search_seconds_count{mode="text"} 1.0' in get("/metrics")
    code, message = office.failed("mcp", "serve", "--http", "127.0.0.1:0")
    assert code == 73 and "mcp.metrics: cannot listen on" in message


def test_server_that_begins_is_not_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address of the probes answers before the event loop runs."""
    endpoint = McpEndpoint("127.0.0.1:0", Reader(Config(), Access("me")))
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(endpoint.live)
        assert not asked.done()
        loop = asyncio.new_event_loop()
        endpoint.begin(loop)
        assert loop.run_until_complete(asyncio.wrap_future(asked, loop=loop)).passed
    loop.close()
    monkeypatch.setattr(metrics, "_TURN", 0.1)
    assert endpoint.live().reasons == ("the event loop does not go on",)
    endpoint._server.stop()
