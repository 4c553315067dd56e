from __future__ import annotations

import gzip
import logging
import os
import socket
import struct
import threading
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from tests.harness.listener import Authority, Listener, answer, head
from tests.harness.waiting import until
from vkteams_daemon.botapi import client as client_module
from vkteams_daemon.botapi.client import BotClient, BotInfo, base_url, retry_after
from vkteams_daemon.errors import (
    ApiError,
    ApiMisconfigured,
    ApiProtocolError,
    ApiRefused,
    ApiServerError,
    ApiUnreachable,
    CertificateRefused,
    ConfigError,
    NotBotApi,
    PermissionRefused,
    RateLimited,
    Unauthorised,
    VkTeamsError,
)  # fmt: skip

TOKEN = "001.1234567890.0987654321:1000000042"
SECRET = ("1234567890", "0987654321")
SELF = answer('{"ok":true,"userId":"1000000042","nick":"opsbot","firstName":"Ops"}')
EVENTS = answer('{"ok":true,"events":[]}')
Listen = Callable[..., Listener]


@pytest.fixture(autouse=True)
def _no_token_in_the_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name.endswith("_CA_BUNDLE")]:
        monkeypatch.delenv(name)
    caplog.set_level(logging.DEBUG)
    yield
    for record in caplog.records:
        text = logging.Formatter("%(message)s").format(record)
        assert not any(part in text for part in SECRET), text


@pytest.fixture
def make() -> Iterator[Callable[..., BotClient]]:
    made: list[BotClient] = []

    def client(url: str, **settings: object) -> BotClient:
        limits = {"connect_timeout": 5.0, "read_margin": 5.0}
        made.append(BotClient(url, TOKEN, **(limits | settings)))  # type: ignore[arg-type]
        return made[-1]

    yield client
    for one in made:
        one.close()


Make = Callable[..., BotClient]


def _fails(action: Callable[[], object], expected: type[VkTeamsError], message: str = "") -> VkTeamsError:
    """The error of the action. None of its texts contains the token."""
    with pytest.raises(expected) as caught:
        action()
    error = caught.value
    assert type(error) is expected
    texts = [str(error), repr(error), error.hint, *traceback.format_exception(error)]
    chained: BaseException | None = error
    while chained is not None:
        texts += [repr(chained), repr(chained.args), repr(vars(chained))]
        chained = chained.__cause__ or chained.__context__
    for text in texts:
        assert not any(part in text for part in SECRET), text
    assert message in str(error)
    return error


def _in_thread(action: Callable[[], object]) -> tuple[threading.Thread, list[ApiError]]:
    raised: list[ApiError] = []

    def run() -> None:
        try:
            action()
        except ApiError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


# Requests


@pytest.mark.parametrize("spelling", ["", "/", "/bot/v1", "/bot/v1/"])
def test_all_four_spellings_of_the_url(listener: Listen, make: Make, spelling: str) -> None:
    server = listener(SELF)
    assert make(server.url + spelling).self_get() == BotInfo("1000000042", "opsbot", "Ops")
    assert server.requests[0].startswith("GET /bot/v1/self/get?token=001.1234567890.0987654321%3A1000000042 HTTP/1.1")


@pytest.mark.parametrize(
    "url",
    [
        "", "corp.example", "ftp://corp.example", "http://", "http:///bot/v1", "http://a b", "file:///etc/passwd",
        "http://corp.example:port/", "http://corp.example/?x=1234567890", "http://corp.example/#1234567890",
        "http://anna:1234567890@corp.example/", "http://1234567890@corp.example", "http://[::1", "http://a:b:c", "http://a:99999",
        "http://[::1::2::3]",
    ],
)  # fmt: skip
def test_a_wrong_url_is_refused_without_repeating_its_secrets(url: str) -> None:
    error = _fails(lambda: BotClient(url, TOKEN), ConfigError, "api.url: ")
    assert "1234567890" not in str(error)


@pytest.mark.parametrize("url", ["https://Corp.Example:8443/teams", "http://[::1]:80", "HTTPS://x", "http://10.0.0.1"])
def test_base_url_takes_hosts_ports_and_paths(url: str) -> None:
    assert base_url(url) == f"{url}/bot/v1"


def test_a_poll_sends_its_cursor_and_its_poll_time(listener: Listen, make: Make) -> None:
    server = listener(EVENTS)
    assert make(server.url).poll(41, 7) == b'{"ok":true,"events":[]}'
    assert "/events/get?token=" in server.requests[0]
    assert "&lastEventId=41&pollTime=7 " in server.requests[0]


def test_lists_repeat_their_key_and_none_is_left_out(listener: Listen, make: Make) -> None:
    server = listener(answer('{"ok":true,"msgId":"5"}'))
    fields = make(server.url).call("messages/sendText", chatId="a@b", text="да", msgId=["1", "2"], parseMode=None)
    assert fields == {"ok": True, "msgId": "5"}
    assert "&chatId=a%40b&text=%D0%B4%D0%B0&msgId=1&msgId=2 " in server.requests[0]


def test_the_token_is_in_no_repr(make: Make) -> None:
    client = make("http://127.0.0.1:9")
    assert repr(client) == "BotClient('http://127.0.0.1:9/bot/v1')"
    assert TOKEN not in f"{client} {vars(client).keys()}"


# Answers


@pytest.mark.parametrize(
    ("response", "expected", "text"),
    [
        (answer('{"ok":false,"description":"Invalid token"}'), Unauthorised, "refused the token"),
        (answer(f'{{"ok":false,"description":"Missing required parameter \'token\' {TOKEN}"}}'), Unauthorised, ""),
        (answer(f'{{"ok":false,"description":"bad request /x?token={TOKEN}"}}'), ApiRefused, "token=***"),
        (answer('{"description":"' + "x" * 5000 + '","ok" : false}'), ApiRefused, "xxx"),
        (answer('{"ok":false}'), ApiRefused, "no description"),
        (answer('{"ok":false,"description":"Ratelimit"}', "200 OK", "Retry-After: 7"), RateLimited, "slow down"),
        (answer('{"ok":false,"description":"Invalid token"}', "401 Unauthorized"), Unauthorised, "refused the token"),
        (answer("", "401 Unauthorized"), ApiProtocolError, "answers 401"),
        (answer("<html>", "407 Proxy Authentication Required"), ApiProtocolError, "answers 407"),
        (answer('{"ok":false,"description":"Permission denied"}', "403 Forbidden"), ApiRefused, "Permission denied"),
        (answer("<html>", "403 Forbidden"), ApiProtocolError, "answers 403"),
        (answer("<html>", "404 Not Found"), ApiProtocolError, "answers 404"),
        (answer("", "429 Too Many", "Retry-After: 7"), RateLimited, "slow down"),
        (answer("", "500 Oh"), ApiServerError, "answers 500"),
        (answer("<html>", "502 Bad Gateway", "Retry-After: 7"), ApiServerError, "answers 502"),
        (answer("<html>", "504 Gateway Timeout"), ApiServerError, "answers 504"),
        (answer("", "302 Found", "Location: http://127.0.0.1:9/"), ApiProtocolError, "answers 302"),
        (answer("", "204 No Content"), ApiProtocolError, "answers 204"),
        (answer("\x1f\x8bgarbage", "200 OK", "Content-Encoding: gzip"), ApiProtocolError, "cannot be decoded"),
        (answer(gzip.compress(b"x" * 9999)[:40], "200 OK", "Content-Encoding: gzip")[:-9], ApiUnreachable, "broke"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", ApiUnreachable, "broke in mid-answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"ok", ApiUnreachable, "broke in mid-answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", ApiUnreachable, "broke in mid-answer"),
        (b"", ApiUnreachable, "closed without an answer"), (b"SSH-2.0-OpenSSH_9.2\r\n", ApiUnreachable, ""),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", ApiProtocolError, "headers are too long"),
    ],
    ids=lambda value: value[:60] if isinstance(value, bytes) else None,
)  # fmt: skip
def test_a_failed_poll_raises_a_typed_error(
    listener: Listen, make: Make, response: bytes, expected: type[ApiError], text: str
) -> None:
    server = listener(response)
    error = _fails(lambda: make(server.url).poll(0, 1), expected, text)
    assert len(server.requests) == 1, "a request is not repeated, and a redirection not followed"
    if b"Retry-After" in response:
        assert getattr(error, "retry_after", None) == 7.0


@pytest.mark.parametrize(
    "response",
    [
        answer("<html>"), answer("null"), answer("[]"), answer('{"ok":true}'), answer('{"ok":true,"userId":null}'),
        answer("<html>", "404 Not Found"), answer("{" + '"a":{' * 5000), answer('{"userId":"\\u0000"}'), answer(""),
        answer("9" * 5000), answer("", "301 Moved", "Location: /"),
    ],
    ids=lambda value: value[-60:],
)  # fmt: skip
def test_self_get_recognises_another_server(listener: Listen, make: Make, response: bytes) -> None:
    _fails(make(listener(response).url).self_get, NotBotApi)


def test_a_name_keeps_printable_characters_only(listener: Listen, make: Make) -> None:
    response = answer(rb'{"userId":7,"nick":"\u0000op\ud800s\u001b[31m","firstName":5}')
    assert make(listener(response).url).self_get() == BotInfo("7", "ops[31m", None)


def test_a_compressed_answer(listener: Listen, make: Make) -> None:
    response = answer(gzip.compress(b'{"events":[]}'), "200 OK", "Content-Encoding: gzip")
    assert make(listener(response).url).poll(0, 1) == b'{"events":[]}'


@pytest.mark.parametrize("packed", [False, True])
def test_a_body_without_end_is_bounded(
    listener: Listen, make: Make, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MAX_BODY", 2**20)
    body = b" " * 2**24
    response = answer(gzip.compress(body), "200 OK", "Content-Encoding: gzip") if packed else answer(body)
    _fails(lambda: make(listener(response).url).poll(0, 1), ApiProtocolError, "larger than 1 MiB")


@pytest.mark.parametrize(
    ("begin", "again"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", b" " * 4096),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b" " * 4096 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0" * 4096),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: " + b"x" * 4096),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: " + b"x" * 4096 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", gzip.compress(b" " * 2**26)),
        (b"HTTP/1.1 200 OK\r\n", b"X: " + b"x" * 4096 + b"\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\nX: " + b"x" * 4096 + b"\r\n\r\n"),
        (b"", b"HTTP/1.1 200 OK" * 256),
        (b"HTTP/1.1 503 Unavailable\r\n\r\n", b"<p>" * 4096),
    ],
)
def test_an_answer_without_end_takes_little_memory(
    listener: Listen, make: Make, begin: bytes, again: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MAX_BODY", 2**20)
    sent = 0

    def endless(sock: socket.socket) -> None:
        nonlocal sent
        sock.sendall(begin)
        while sent < 2**26:
            sock.sendall(again)
            sent += len(again)

    client = make(listener(endless).url)
    tracemalloc.start()
    try:
        with pytest.raises(ApiError) as caught:
            client.poll(0, 1)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()
    # Of a page, the status says enough.
    assert type(caught.value) is (ApiServerError if b"503" in begin else ApiProtocolError)
    assert sent < 2**25, "it was read to the end"


def test_a_reset_connection(listener: Listen, make: Make) -> None:
    def reset(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    _fails(lambda: make(listener(reset).url).poll(0, 1), ApiUnreachable, "reset")


def test_a_refused_connection(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    _fails(make(f"http://127.0.0.1:{port}").self_get, ApiUnreachable, "the connection is refused")


def test_a_host_name_that_does_not_exist(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    _fails(make("http://no.example").self_get, ApiUnreachable, "its name cannot be resolved")


def test_an_impossible_host_name(make: Make) -> None:
    _fails(make(f"http://{'a' * 70}.example").self_get, ApiMisconfigured, "is not a URL that can be asked")


def test_the_second_address_is_tried(listener: Listen, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    server = listener(SELF)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        closed = listening.getsockname()
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in (closed, ("127.0.0.1", server.port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    assert make("http://two.example").self_get().nick == "opsbot"


# Time limits


def test_a_server_that_never_answers(listener: Listen, make: Make) -> None:
    server = listener(silent=True)
    client = make(server.url, read_margin=0.2, connect_timeout=0.2)
    _fails(lambda: client.poll(0, 0), ApiUnreachable, "no answer in time")


def _full() -> tuple[socket.socket, list[socket.socket]]:
    """A listening socket whose queue is full: the kernel neither accepts nor refuses a connection to it."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=0)
    waiting = []
    for _ in range(4):
        sock = socket.socket()
        sock.settimeout(0.2)
        waiting.append(sock)
        try:
            sock.connect(listening.getsockname())
        except TimeoutError:
            return listening, waiting
    pytest.skip("this kernel takes every connection")


def test_connecting_ends_at_the_connect_timeout(make: Make) -> None:
    listening, waiting = _full()
    client = make(f"http://127.0.0.1:{listening.getsockname()[1]}", connect_timeout=0.3)
    _fails(client.self_get, ApiUnreachable, "no connection in time")
    for sock in (listening, *waiting):
        sock.close()


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", b""])
def test_a_trickling_answer_ends_at_the_deadline(listener: Listen, make: Make, start: bytes) -> None:
    def trickle(sock: socket.socket) -> None:
        sock.sendall(start)
        while server.wait(0.02):
            sock.sendall(b" ")

    server = listener(trickle)
    client = make(server.url, read_margin=0.3, connect_timeout=0.1)
    began = time.monotonic()
    _fails(lambda: client.poll(0, 0), ApiUnreachable)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("phase", ["connecting", "greeting", "waiting", "waiting in TLS", "reading", "in the tunnel"])
def test_abort_ends_a_poll_at_once(listener: Listen, make: Make, authority: Authority, phase: str) -> None:
    closing: list[socket.socket] = []

    def wait(sock: socket.socket) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{" if phase == "reading" else b"")
        head(sock)

    if phase == "connecting":
        listening, waiting = _full()
        closing = [listening, *waiting]
        client = make(f"http://127.0.0.1:{listening.getsockname()[1]}", connect_timeout=100)
    elif phase == "in the tunnel":
        proxy = listener(wait)
        client = make("https://corp.example", proxy=proxy.url, connect_timeout=100)
    else:
        tls = phase in ("greeting", "waiting in TLS")
        server = listener(wait, tls=authority.server() if tls else None, silent=phase == "greeting")
        client = make(server.url, ca_file=str(authority.ca_file), connect_timeout=100)
    thread, raised = _in_thread(lambda: client.poll(0, 100))
    if phase == "connecting":
        until(lambda: client._sockets._open, what="the attempt")
    elif phase == "greeting":
        until(lambda: server.accepted, what="the connection")
    else:
        until(lambda: (proxy if phase == "in the tunnel" else server).requests, what="the request")
    began = time.monotonic()
    client.abort()
    thread.join(30)
    assert not thread.is_alive()
    assert time.monotonic() - began < 10
    assert [type(error) for error in raised] == [ApiUnreachable]
    for sock in closing:
        sock.close()


def test_an_aborted_answer_is_not_taken_for_complete(listener: Listen, make: Make) -> None:
    """Without a length the end of the connection is the end of the answer, so the client must remember the abort."""

    def say(sock: socket.socket) -> None:
        sock.sendall(b'HTTP/1.1 200 OK\r\n\r\n{"events":[]}')
        client.abort()
        head(sock)

    client = make(listener(say).url)
    _fails(lambda: client.poll(0, 100), ApiUnreachable)


def test_abort_during_a_name_look_up_is_not_lost(listener: Listen, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the name is looked up there is no socket to shut; the request ends as soon as there is one."""
    server = listener(silent=True)
    client = make(server.url)
    looked_up = socket.getaddrinfo

    def slow(*arguments: object, **settings: object) -> object:
        client.abort()
        return looked_up(*arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    began = time.monotonic()
    _fails(lambda: client.poll(0, 100), ApiUnreachable)
    assert time.monotonic() - began < 30


def test_abort_without_a_request_changes_nothing(listener: Listen, make: Make) -> None:
    client = make(listener(SELF).url)
    client.abort()
    assert client.self_get().nick == "opsbot"
    client.abort()
    assert client.self_get().nick == "opsbot"


def test_a_connection_is_used_again(listener: Listen, make: Make) -> None:
    def twice(sock: socket.socket) -> None:
        body = b'{"events":[]}'
        for _ in range(2):
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n" + body)
            server.requests.append(head(sock))

    server = listener(twice)
    client = make(server.url)
    for last in (1, 2):
        assert client.poll(last, 1) == b'{"events":[]}'
    assert server.accepted == 1


def test_closed_connections_are_forgotten(listener: Listen, make: Make) -> None:
    client = make(listener(EVENTS).url)
    for last in range(10):
        client.poll(last, 1)
    assert len(client._sockets._open) <= 3


# Certificates and proxies


def test_a_private_authority(listener: Listen, make: Make, authority: Authority) -> None:
    server = listener(SELF, tls=authority.server())
    assert make(server.url, ca_file=str(authority.ca_file)).self_get().nick == "opsbot"


def test_a_certificate_of_an_unknown_authority(
    listener: Listen, make: Make, authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = listener(SELF, tls=authority.server())
    error = _fails(make(server.url).self_get, CertificateRefused, "its certificate cannot be verified")
    assert "api.ca_file" in error.hint
    monkeypatch.setenv("CURL_CA_BUNDLE", str(tmp_path))
    _fails(lambda: make(server.url), ConfigError, f"CURL_CA_BUNDLE: {tmp_path} cannot be used: the directory holds no")
    (tmp_path / "0123abcd.0").touch()
    error = _fails(make(server.url).self_get, CertificateRefused, "its certificate cannot be verified")
    assert "in place of CURL_CA_BUNDLE" in error.hint
    assert server.requests == []


def test_a_certificate_for_another_name(listener: Listen, make: Make, authority: Authority) -> None:
    server = listener(SELF, tls=authority.server())
    url = server.url.replace("127.0.0.1", "localhost")
    _fails(make(url, ca_file=str(authority.ca_file)).self_get, CertificateRefused, "its certificate cannot be verified")


def test_https_to_a_plain_http_server(listener: Listen, make: Make) -> None:
    url = listener(SELF).url.replace("http:", "https:")
    _fails(make(url).self_get, ApiUnreachable, "TLS cannot be agreed on")


def test_options_override_the_environment(
    listener: Listen, make: Make, authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "other.pem").write_bytes(authority.ca_file.read_bytes())
    server = listener(SELF, tls=authority.server())
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "no.pem"))
    assert make(server.url, ca_file=str(authority.ca_file)).self_get().nick == "opsbot"
    proxy, other = listener(SELF), listener(answer("", "502 Bad Gateway"))
    monkeypatch.setenv("HTTP_PROXY", other.url)
    monkeypatch.setenv("http_proxy", other.url)
    assert make("http://corp.example", proxy=proxy.url).self_get().nick == "opsbot"


@pytest.mark.parametrize("content", [None, "", "no certificate", "-----BEGIN CERTIFICATE-----\nxx\n"])
def test_a_ca_file_that_cannot_be_used(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    _fails(lambda: BotClient("https://x", TOKEN, ca_file=str(file)), ConfigError, f"api.ca_file: {file} cannot be used")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_ca_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch(0o000)
    _fails(lambda: BotClient("https://x", TOKEN, ca_file=str(tmp_path / "ca.pem")), PermissionRefused)


def test_http_through_a_proxy(listener: Listen, make: Make) -> None:
    proxy = listener(SELF)
    assert make("http://corp.example:81", proxy=proxy.url).self_get().nick == "opsbot"
    assert proxy.requests[0].startswith("GET http://corp.example:81/bot/v1/self/get?token=")


def test_a_proxy_from_the_environment(listener: Listen, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = listener(SELF)
    monkeypatch.setenv("http_proxy", proxy.url)
    assert make("http://corp.example").self_get().nick == "opsbot"


def test_a_password_of_a_netrc_file_is_not_sent(
    listener: Listen, make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "netrc"
    file.write_text("default login me password hunter2\n", encoding="utf-8")
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))
    server = listener(SELF)
    make(server.url).self_get()
    assert "authorization" not in server.requests[0].lower()


def test_https_through_a_tunnel(listener: Listen, make: Make, authority: Authority) -> None:
    server = listener(SELF, tls=authority.server())

    def tunnel(sock: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", server.port)) as onward:
            sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_pump, args=(onward, sock))
            back.start()
            _pump(sock, onward)
            back.join(30)

    proxy = listener(tunnel)
    client = make(server.url, proxy=proxy.url, ca_file=str(authority.ca_file))
    assert client.self_get().nick == "opsbot"
    assert proxy.requests[0].startswith(f"CONNECT 127.0.0.1:{server.port} ")
    assert not any(part in proxy.requests[0] for part in SECRET)


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while chunk := source.recv(4096):
            target.sendall(chunk)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def test_a_proxy_that_refuses(listener: Listen, make: Make) -> None:
    proxy = listener(answer("", "407 Proxy Authentication Required"))
    proxied = f"http://anna:1234567890@127.0.0.1:{proxy.port}"
    _fails(make("https://corp.example", proxy=proxied).self_get, ApiUnreachable, "the proxy of api.proxy refuses")


def test_a_proxy_is_not_blamed_on_the_url(listener: Listen, make: Make, authority: Authority) -> None:
    """The proxy fails: its option or variable is named, and api.url is not."""
    proxy = listener(answer("", "502 Bad Gateway"))
    with pytest.raises(ApiUnreachable, match=r"proxy of api\.proxy refuses the connection, on the way to") as refused:
        make("https://corp.example", proxy=proxy.url).self_get()
    assert refused.value.hint == "Check api.proxy."
    server = listener(SELF, tls=authority.server())  # as a proxy that opens TLS, with a certificate of its own
    with pytest.raises(CertificateRefused) as untrusted:
        make(server.url).self_get()
    assert "proxy" not in untrusted.value.hint
    page = listener(answer("<html>a proxy's page"))
    with pytest.raises(NotBotApi) as page_refused:
        make("http://corp.example", proxy=page.url).self_get()
    assert page_refused.value.hint == "Check api.url and the proxy of api.proxy."


def test_the_place_of_a_refused_token_is_named(listener: Listen) -> None:
    server = listener(answer('{"ok":false,"description":"Invalid token"}'))
    client = BotClient(server.url, TOKEN, token_source="api.token_file (/etc/vkteams/token)")
    for ask in (client.self_get, lambda: client.poll(0, 1)):
        with pytest.raises(Unauthorised) as refused:
            ask()
        assert refused.value.hint.endswith("put it into api.token_file (/etc/vkteams/token).")
    client.close()


def test_a_proxy_that_cannot_be_reached(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    for url in ("https://corp.example", "http://corp.example"):
        client = make(url, proxy=f"http://anna:1234567890@127.0.0.1:{port}")
        _fails(client.self_get, ApiUnreachable, "the proxy of api.proxy cannot be reached")


# Retry-After


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None), ("", None), ("0", 0.0), ("7", 7.0), ("1.5", 1.5), ("-1", None), ("nan", None), ("inf", None),
        ("99999999999", 3600.0), ("soon", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600.0), ("Mon, 01 Jan 0001 00:00:00 GMT", 0.0), ("1, 2", None),
    ],
)  # fmt: skip
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert retry_after(header) == seconds


def test_retry_after_as_a_date() -> None:
    wait = retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True))
    assert wait is not None
    assert 60 < wait <= 100


def test_the_token_is_removed_from_the_librarys_log(
    listener: Listen, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    client = make(listener(b"HTTP/1.1 200 OK\r\nno header\r\n\r\n{}").url)
    client.call("self/get")
    messages = [record.getMessage() for record in caplog.records if "token=***" in record.getMessage()]
    assert any("GET /bot/v1/self/get" in text for text in messages)
    assert any("Failed to parse headers" in text for text in messages)
