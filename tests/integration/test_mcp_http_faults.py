"""The MCP server's port before clients that mean no good, and its audit where nobody reads it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import pytest
from mcp import Client
from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client

from tests.harness.mcp import HttpServer, Office
from tests.harness.waiting import until

TOKEN = "the-right-token-" + "a" * 20
HEADER = b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
HALF = HEADER + b"X-Half: "
BODY = HEADER + b"Content-Length: 1000\r\n\r\n{"
CLIENT = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
HELLO = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": CLIENT}


@pytest.fixture
def tokens(office: Office) -> Office:
    """The configuration with a tokens file."""
    file = office.directory / "tokens.toml"
    file.touch(0o600)
    file.write_text(f'[tokens.one]\ntoken = "{TOKEN}"\n', encoding="utf-8")
    office.configure(mcp={"tokens_file": str(file)})
    return office


@pytest.fixture
def server(tokens: Office) -> Iterator[HttpServer]:
    """A server with a tokens file."""
    started = HttpServer(tokens, "127.0.0.1:0")
    yield started
    started.end()


QUICK = """
    from vkteams_daemon.mcp import http
    from vkteams_daemon.serving import connection_limits, refusals

    connection_limits.HEADER_TIMEOUT = 1.0
    connection_limits.BODY_TIMEOUT = 2.0
    http.SESSION_IDLE = 1.0
    refusals.PERIOD = 1.0
"""


def _changed(directory: Path, change: str) -> Path:
    """A script that runs vkteamsctl after this change."""
    script = directory / "changed.py"
    main = "import sys\nfrom vkteams_daemon.ctl.main import main\nsys.exit(main())\n"
    script.write_text(textwrap.dedent(change) + main, encoding="utf-8")
    return script


@pytest.fixture
def quick_server(tokens: Office, tmp_path: Path) -> Iterator[HttpServer]:
    """The same with waiting times of a second or two."""
    started = HttpServer(tokens, "127.0.0.1:0", script=_changed(tmp_path, QUICK))
    yield started
    started.end()


def _connected(server: HttpServer) -> socket.socket:
    """A connection that takes few bytes before its client reads them."""
    parts = urlsplit(server.url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(30)
    connection.connect((parts.hostname, parts.port))
    return connection


def _request(
    server: HttpServer, body: Any, path: str = "/mcp", method: str = "POST", **headers: str
) -> tuple[int, str, str]:
    """The status of an answer, its session, and its text."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)
    given = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    with contextlib.closing(connection):
        connection.request(method, path, body if isinstance(body, bytes) else json.dumps(body), given | headers)
        answer = connection.getresponse()
        return answer.status, answer.headers.get("Mcp-Session-Id", ""), answer.read().decode()


def _stop(server: HttpServer) -> None:
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0


def _refusals(office: Office) -> list[dict[str, Any]]:
    return [line for line in office.audit() if line.get("count")]


def _until_refused(server: HttpServer, why: str) -> None:
    until(lambda: why in [line["error"] for line in _refusals(server.office)], 30, "the audit's line")


@pytest.mark.parametrize("files", [1024, 100])
def test_half_sent_requests_shut_nobody_out(tokens: Office, files: int) -> None:
    """Many more than there may be connections, and than the process may open files."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    server = HttpServer(
        tokens, "127.0.0.1:0", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    )
    try:
        with contextlib.ExitStack() as stack:
            for sent in [HALF, BODY, b"", b"G", HEADER + b"\r\n" * 3] * 120:
                connection = stack.enter_context(_connected(server))
                with contextlib.suppress(ConnectionError):
                    connection.sendall(sent)
            assert server.asked("search_text", token=TOKEN, query="сервер")["hits"]
            for _ in range(3):
                stack.enter_context(_connected(server)).sendall(HALF)
                assert server.asked("search_text", token=TOKEN, query="сервер")["hits"]
        assert tokens.said.stat().st_size < 50_000
        _stop(server)
    finally:
        server.end()
    counted = [line for line in _refusals(tokens) if line["error"] == "too many connections"]
    assert len(counted) == 1 and counted[0]["count"] > 100 and counted[0]["address"] == "127.0.0.1"


def test_requests_that_do_not_arrive_in_time_end(quick_server: HttpServer) -> None:
    """Nothing, half a header, half a body, half the body of a request that is answered; and byte by byte."""
    answered = b"POST /else HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n{"
    admitted = HEADER + f"Authorization: Bearer {TOKEN}\r\nContent-Length: 1000\r\n\r\n{{".encode()
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(_connected(quick_server)) for _ in range(10)]
        open_ones = set(connections)
        for connection, sent in zip(connections, [b"", HALF, BODY, answered, admitted] * 2, strict=True):
            connection.sendall(sent)
            connection.setblocking(False)

        def ended() -> bool:
            for connection in list(open_ones):
                try:
                    if connections.index(connection) > 4:
                        connection.send(b"x")
                    if not connection.recv(10_000):
                        open_ones.remove(connection)
                except BlockingIOError:
                    pass
                except ConnectionError:
                    open_ones.remove(connection)
            return not open_ones

        until(ended, 30, "the end of all of them")
    _until_refused(quick_server, "the request did not arrive in time")


def test_an_answer_that_nobody_reads_ends(quick_server: HttpServer) -> None:
    """Requests that come without a pause, and whose answers stay where they are."""
    _, session, _ = _request(quick_server, HELLO, Authorization=f"Bearer {TOKEN}")
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).encode()
    header = f"Authorization: Bearer {TOKEN}\r\nMcp-Session-Id: {session}\r\nContent-Length: {len(body)}\r\n"
    accept = b"Accept: application/json, text/event-stream\r\n"
    with _connected(quick_server) as connection, pytest.raises(ConnectionError):
        while True:
            connection.sendall((HEADER + accept + header.encode() + b"\r\n" + body) * 1000)
    _until_refused(quick_server, "the client did not read its answer")


def test_a_session_that_nobody_uses_ends(quick_server: HttpServer) -> None:
    said = {"Authorization": f"Bearer {TOKEN}"}
    status, session, _ = _request(quick_server, HELLO, **said)
    assert status == 200 and session
    listing = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    said["Mcp-Session-Id"] = session
    assert _request(quick_server, listing, **said)[0] == 200
    half = rb'{"jsonrpc":"2.0","id":2,"method":"ping","params":{"_meta":{"words":"half of an emoji: \ud83d"}}}'
    assert _request(quick_server, half, **said)[0] == 200
    status, _, text = _request(quick_server, b"nonsense", **said)
    assert (status, json.loads(text)["error"]["code"]) == (400, -32700)

    def ended() -> str:
        # Each look would keep the session alive.
        threading.Event().wait(1.5)
        status, _, text = _request(quick_server, listing, **said)
        return text if status == 404 else ""

    assert (
        json.loads(until(ended, 30, "the end of the session"))["error"]["message"]
        == "the session has ended: connect again"
    )


FEW_SESSIONS = """
    from vkteams_daemon.mcp import http

    http.MAX_SESSIONS, http.MAX_SESSIONS_OF_ONE = 8, 5
"""
LISTING = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


@pytest.mark.parametrize("with_tokens", [True, False], ids=["tokens", "addresses"])
def test_a_client_that_opens_sessions_without_end_takes_its_own(
    office: Office, tmp_path: Path, with_tokens: bool
) -> None:
    """Nobody is kept out, and whoever asks keeps their session."""
    names = ("a", "b", "c") if with_tokens else ("",)
    said = {name: {"Authorization": f"Bearer {name * 40}"} if name else {} for name in names}
    if with_tokens:
        file = office.directory / "tokens.toml"
        file.touch(0o600)
        file.write_text("".join(f'[tokens.{name}]\ntoken = "{name * 40}"\n' for name in names), encoding="utf-8")
        office.configure(mcp={"tokens_file": str(file)})
    server = HttpServer(office, "127.0.0.1:0", script=_changed(tmp_path, FEW_SESSIONS))

    def opened(name: str) -> str:
        status, session, _ = _request(server, HELLO, **said[name])
        assert status == 200 and session
        return session

    def works(name: str, session: str) -> bool:
        status, _, _ = _request(server, LISTING, **said[name], **{"Mcp-Session-Id": session})
        assert status in (200, 404)
        return status == 200

    try:
        kept = {name: opened(name) for name in names}
        first = names[0]
        lost = [opened(first) for _ in range(4)]
        for _ in range(10):
            assert works(first, kept[first]), "the one that is used stays"
            lost.append(opened(first))
        assert [works(first, session) for session in lost] == 10 * [False] + 4 * [True]
        assert all(works(name, session) for name, session in kept.items()), "nobody else lost one"
        if with_tokens:
            for _ in range(4):
                opened("b")
            assert not works(first, lost[10]), "the one of all that was not used for longest"
            assert all(works(name, session) for name, session in kept.items())
    finally:
        server.end()


def test_refusals_are_counted_in_the_audit(server: HttpServer) -> None:
    for number in range(1000):
        status, _, text = _request(server, HELLO, Authorization=f"Bearer wrong-{number}")
        assert status == 401
    assert json.loads(text)["error"]["message"].startswith("this server does not know the token")
    right = {"Authorization": f"Bearer {TOKEN}"}
    for _ in range(3):
        assert _request(server, HELLO)[0] == 401
        for n in range(20):
            assert _request(server, HELLO, **right, Host=f"evil{n}.example")[0] == 421
            assert _request(server, HELLO, **right, Origin=f"https://evil{n}.example")[0] == 403
        assert _request(server, HELLO, path="/sse")[0] == 404
        assert _request(server, HELLO, **right, **{"Content-Type": "text/html"})[0] == 400
        assert _request(server, b"{" * 300_000, **right)[0] == 413
        with _connected(server) as connection:
            connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 400")
    _stop(server)
    assert server.office.said.stat().st_size < 50_000
    counts = {line["error"].partition(":")[0] + line["error"][-9:]: line["count"] for line in _refusals(server.office)}
    counted = sorted(line["count"] for line in _refusals(server.office))
    assert counted == [3, 3, 3, 3, 3, 60, 60, 1000], counts
    assert all(line["address"] == "127.0.0.1" and line["who"] is None for line in _refusals(server.office))
    assert "wrong-" not in server.office.said.read_text()


def test_the_official_client_says_what_is_wrong(server: HttpServer) -> None:
    async def said(token: str, path: str, headers: dict[str, str], mode: Any) -> str:
        given = headers | ({"Authorization": f"Bearer {token}"} if token else {})
        try:
            async with (
                create_mcp_http_client(given) as http_client,
                Client(streamable_http_client(server.url + path, http_client=http_client), mode=mode),
            ):
                return ""
        except Exception as error:  # noqa: BLE001  the client raises groups of groups of whatever
            return _leaf(error)

    for token, path, headers, sentence in [
        ("wrong" * 9, "", {}, "this server does not know the token of the request"),
        ("", "", {}, "this server needs a token: send it as `Authorization: Bearer TOKEN`"),
        (TOKEN, "x", {}, "nothing is served at this path: the server is at /mcp"),
        (TOKEN, "", {"Host": "evil.example"}, "the Host of the request is not a name of this server"),
        (TOKEN, "", {"Origin": "https://evil.example"}, "a web page of another origin may not ask this server"),
    ]:
        for mode in ("auto", "legacy"):
            assert asyncio.run(said(token, path, headers, mode)).startswith(sentence)


def _leaf(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)


CRASHES = {
    "sessions": """
        from mcp.server import streamable_http_manager as sdk
        whole = sdk.StreamableHTTPSessionManager.run

        @contextlib.asynccontextmanager
        async def run(self):
            async with whole(self):
                self._task_group.start_soon(crash)
                yield

        sdk.StreamableHTTPSessionManager.run = run
    """,
    "uvicorn": """
        import uvicorn
        uvicorn.Server.on_tick = lambda self, counter: crash()
    """,
    "stdio": """
        from mcp.server.lowlevel import Server
        Server.run = lambda *args, **kwargs: crash()
    """,
}


@pytest.mark.parametrize("what", CRASHES)
def test_a_server_that_fails_is_no_success(office: Office, tmp_path: Path, what: str) -> None:
    crash = "import contextlib\nasync def crash():\n    raise OSError('the moon')\n"
    script = _changed(tmp_path, crash + textwrap.dedent(CRASHES[what]))
    transport = [] if what == "stdio" else ["--http", "127.0.0.1:0"]
    done = subprocess.run(
        office.command("mcp", "serve", *transport, script=script), env=office.environ(), text=True,
        capture_output=True, timeout=60, check=False, input="",
    )  # fmt: skip
    assert done.returncode == 70, done.stderr
    assert "the MCP server failed" in done.stderr or "nobody told it to" in done.stderr
    assert "the moon" in done.stderr


def _pipe_that_nobody_reads(directory: Path) -> IO[bytes]:
    """It holds 4 KiB, fewer than the audit lines need."""
    fifo = directory / "fifo"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDWR)
    fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, 4096)
    return os.fdopen(reading, "wb", buffering=0)


def _full_disk(_: Path) -> IO[bytes]:
    return Path("/dev/full").open("wb")


def _gone_directory(directory: Path) -> IO[bytes]:
    gone = directory / "gone"
    gone.mkdir()
    file = (gone / "log").open("wb")
    (gone / "log").unlink()
    gone.rmdir()
    return file


def _gone_reader(_: Path) -> IO[bytes]:
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "wb")


def _serve_with(office: Office, standard_error: IO[bytes]) -> None:
    program = subprocess.Popen(
        office.command("mcp", "serve"), env=office.environ(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=standard_error, text=True,
    )  # fmt: skip
    with program:
        try:
            assert program.stdin and program.stdout
            for number in range(30):
                call = {"name": "list_chats", "arguments": {"wrong": "x" * 200}}
                message = HELLO if number == 0 else {"jsonrpc": "2.0", "method": "tools/call", "params": call}
                program.stdin.write(json.dumps(message | {"id": number}) + "\n")
                program.stdin.flush()
                assert json.loads(program.stdout.readline())["id"] == number
                if number == 0:
                    program.stdin.write('{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
            program.stdin.close()
            assert program.wait(30) == 0
        finally:
            program.kill()


def test_no_call_waits_for_standard_error(office: Office, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context(made(tmp_path))
            for made in (_pipe_that_nobody_reads, _full_disk, _gone_directory, _gone_reader)
        ]
        with ThreadPoolExecutor(len(streams)) as pool:
            list(pool.map(lambda stream: _serve_with(office, stream), streams))
