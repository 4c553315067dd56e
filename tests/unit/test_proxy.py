"""Each method of the proxy has its effect on a connection."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.harness.proxy import Proxy
from tests.harness.waiting import until


class Echo:
    """A server that sends everything back and counts it."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.received = b""
        self.ended = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self.listener.accept()[0],), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while piece := client.recv(65536):
                self.received += piece
                client.sendall(piece)
        self.ended += 1


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.listener.shutdown(socket.SHUT_RDWR)
    server.listener.close()


@pytest.fixture
def proxy(echo: Echo, open_proxy: Callable[[int], Proxy]) -> Proxy:
    return open_proxy(echo.port)


def _connect(proxy: Proxy, timeout: float = 10.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=timeout)


def _receive(client: socket.socket, count: int) -> bytes:
    answer = b""
    while len(answer) < count and (piece := client.recv(count - len(answer))):
        answer += piece
    return answer


def test_without_a_fault_everything_passes(proxy: Proxy) -> None:
    block = bytes(range(256)) * 1000
    with _connect(proxy) as client:
        threading.Thread(target=client.sendall, args=(block,)).start()
        assert _receive(client, len(block)) == block
        assert proxy.connections == 1
    until(lambda: proxy.connections == 0, what="the end of the connection")


def test_an_answer_after_a_half_close_still_arrives(proxy: Proxy) -> None:
    with _connect(proxy) as client:
        client.sendall(b"last words")
        client.shutdown(socket.SHUT_WR)
        assert _receive(client, 100) == b"last words"


def test_reset_breaks_open_connections(proxy: Proxy) -> None:
    with _connect(proxy) as client:
        client.sendall(b"a")
        assert _receive(client, 1) == b"a"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_black_hole_swallows_and_heals(proxy: Proxy, echo: Echo) -> None:
    with _connect(proxy, timeout=0.3) as client, _connect(proxy, timeout=0.3) as gone:
        client.sendall(b"a")
        assert _receive(client, 1) == b"a"
        proxy.black_hole()
        client.sendall(b"lost")
        with pytest.raises(TimeoutError):
            client.recv(1)
        gone.close()
        assert echo.ended == 0
        proxy.heal()
        client.settimeout(10)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with _connect(proxy) as client:
        client.sendall(b"b")
        assert _receive(client, 1) == b"b"
    assert echo.received == b"ab"


def test_deaf_proxy_accepts_and_sends_nothing(proxy: Proxy, echo: Echo) -> None:
    proxy.deaf()
    with _connect(proxy, timeout=0.3) as client:
        client.sendall(b"anybody?")
        with pytest.raises(TimeoutError):
            client.recv(1)
    assert echo.received == b""


def test_slow_lets_single_bytes_through(proxy: Proxy) -> None:
    proxy.slow(10)
    with _connect(proxy) as client:
        started = time.monotonic()
        client.sendall(b"abc")
        assert client.recv(10) == b"a"
        assert _receive(client, 2) == b"bc"
        assert time.monotonic() - started >= 0.2


def test_delay_delays_both_directions(proxy: Proxy) -> None:
    proxy.delay(0.2)
    with _connect(proxy) as client:
        started = time.monotonic()
        client.sendall(b"abc")
        assert _receive(client, 3) == b"abc"
        assert time.monotonic() - started >= 0.4  # there and back


@pytest.mark.parametrize("keep", [True, False])
def test_cut_at_a_pattern(proxy: Proxy, echo: Echo, keep: bool) -> None:
    proxy.cut_at(b"COMMIT", keep=keep)
    with _connect(proxy) as client:
        client.sendall(b"one")
        assert _receive(client, 3) == b"one"
        client.sendall(b"now COMMIT")
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(100) in (b"", b"now COMMIT")
            assert client.recv(100) == b""
    until(lambda: echo.ended, what="the end of the server's connection")
    assert echo.received == (b"onenow COMMIT" if keep else b"one")
    assert proxy.cuts == 1
    with _connect(proxy) as client:  # a cut happens once
        client.sendall(b"COMMIT")
        assert _receive(client, 6) == b"COMMIT"


def test_cut_after_a_number_of_bytes_of_the_answer(proxy: Proxy) -> None:
    proxy.cut_after(4)
    with _connect(proxy) as client:
        client.sendall(b"0123456789")
        assert _receive(client, 100) == b"0123"


def test_stopped_proxy_refuses_and_listens_again_on_its_port(proxy: Proxy) -> None:
    port = proxy.port
    with _connect(proxy) as client:
        client.sendall(b"hello")
        assert _receive(client, 5) == b"hello"
        proxy.stop()
        with pytest.raises(ConnectionRefusedError):
            _connect(proxy)
        client.sendall(b"still here")
        assert _receive(client, 10) == b"still here"
    proxy.start()
    assert proxy.port == port
    _connect(proxy).close()


def test_target_that_does_not_listen_breaks_the_connection(echo: Echo, open_proxy: Callable[[int], Proxy]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    with contextlib.suppress(ConnectionResetError), _connect(open_proxy(free)) as client:
        assert client.recv(1) == b""


def test_address_in_a_url_is_replaced(proxy: Proxy) -> None:
    assert proxy.before("postgresql://u:p@127.0.0.1:5/db?x=1") == f"postgresql://u:p@127.0.0.1:{proxy.port}/db?x=1"
    assert proxy.before("http://localhost:80/bot/v1") == f"http://127.0.0.1:{proxy.port}/bot/v1"
