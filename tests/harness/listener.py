"""A server that sends exactly the bytes of a test, for answers that no real HTTP server would give.

`authority`   a certificate authority of this run, with a certificate for 127.0.0.1
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Speak = Callable[[socket.socket], None]


def answer(body: bytes | str, status: str = "200 OK", *headers: str) -> bytes:
    """A complete HTTP response."""
    content = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


class Listener:
    """Listens on the loopback interface. On each connection it waits for a request, then sends the response.

    Args:
        response: the bytes to send, or a function that is called with the socket.
        tls: a server context, for TLS.
        silent: accept connections and read and send nothing (no TLS handshake either), until it closes.

    Attributes:
        requests: the heads of the requests.
    """

    def __init__(
        self, response: bytes | Speak = b"", *, tls: ssl.SSLContext | None = None, silent: bool = False
    ) -> None:
        self.requests: list[str] = []
        self.silent = silent
        self._response = response
        self._tls = tls
        self._closing = threading.Event()
        self._open: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, name="listener")]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def accepted(self) -> int:
        """How many connections have come."""
        return len(self._open)

    def close(self) -> None:
        self._closing.set()
        # A connection of our own wakes accept() everywhere; shutdown() of a listening socket does so on Linux only.
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        self._threads[0].join(30)
        for sock in self._open:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(30)
        for sock in self._open:
            sock.close()
        self._listening.close()

    def wait(self, seconds: float) -> bool:
        """Wait for `seconds`, or until the server closes; false when it has closed. For a slow response."""
        return not self._closing.wait(seconds)

    def _accept(self) -> None:
        while True:
            sock, _ = self._listening.accept()
            if self._closing.is_set():
                sock.close()
                return
            self._open.append(sock)
            if not self.silent:
                thread = threading.Thread(target=self._serve, args=(sock,), name="listener's connection")
                self._threads.append(thread)
                thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._tls:
                sock = self._tls.wrap_socket(sock, server_side=True)
                self._open.append(sock)
            self.requests.append(head(sock))
            if callable(self._response):
                self._response(sock)
            else:
                sock.sendall(self._response)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(4096):
                    pass
        sock.close()


def head(sock: socket.socket) -> str:
    """The head of one request."""
    received = b""
    while b"\r\n\r\n" not in received and not received.startswith(b"\x16"):  # a TLS client hello has no empty line
        chunk = sock.recv(4096)
        if not chunk:
            break
        received += chunk
    return received.decode("latin-1")


class Authority:
    """A certificate authority. `ca_file` is for clients that trust it, `server()` for a server on 127.0.0.1."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.ca_file = directory / "ca.pem"
        self._directory = directory
        new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        self._openssl(*new, "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=Tests")
        self._openssl(*new, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=127.0.0.1")
        (directory / "names").write_text("subjectAltName=IP:127.0.0.1\n")
        self._openssl(
            "x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-out", "server.pem", "-days", "2", "-extfile", "names",
        )  # fmt: skip

    def server(self) -> ssl.SSLContext:
        """The context of a server on 127.0.0.1."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._directory / "server.pem", self._directory / "server.key")
        return context

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._directory, check=True, capture_output=True)


@pytest.fixture(scope="session")
def authority(session_tmp: Path) -> Authority:
    """A certificate authority of this run."""
    if not shutil.which("openssl"):
        pytest.skip("needs the openssl command to make certificates")
    return Authority(session_tmp / "authority")


@pytest.fixture
def listener() -> Iterator[Callable[..., Listener]]:
    """Makes Listeners; the end of the test closes them."""
    made: list[Listener] = []

    def make(response: bytes | Speak = b"", *, tls: ssl.SSLContext | None = None, silent: bool = False) -> Listener:
        made.append(Listener(response, tls=tls, silent=silent))
        return made[-1]

    yield make
    for one in made:
        one.close()
