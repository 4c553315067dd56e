"""A TCP proxy with faults, for a test to put in front of the Bot API or the database.

    with Proxy(port) as proxy:                  # or the fixture: proxy = open_proxy(port)
        url = f"http://127.0.0.1:{proxy.port}"  # or, for a DSN: proxy.before(database_url)
        proxy.freeze_after(3)                   # as if SIGSTOP stopped the client after three messages to PostgreSQL
    proxy.call_after(3, stop)               # or stop it really, while everything is forwarded as before
    proxy.cut_at(b"COMMIT", keep=True)      # forward it, then break the connection: the answer is never seen

A fault applies to open and to new connections until `heal`. A cut happens once.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

_PIECE = 65536
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST


@dataclass(frozen=True)
class _Cut:
    """Break the connection at `pattern` in the stream, or after `after` bytes of it."""

    upstream: bool
    pattern: bytes
    after: int
    keep: bool
    reset: bool


class Proxy:
    """Listens on a free port of 127.0.0.1 and forwards everything to `port`.

    Attributes:
        port: the port on which it listens. It stays the same through `stop` and `start`.
        accepted: how many connections it has accepted.
        cuts: how many connections a cut has broken.
        frozen: set while `freeze_after` holds everything.
        messages: messages of PostgreSQL's protocol that have passed to the target, without those of the log-in.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._target = (host, port)
        self._listener: socket.socket | None = None
        self._changed = threading.Condition()
        self._links: set[_Link] = set()
        self._threads: list[threading.Thread] = []
        self._cut: _Cut | None = None
        self._deaf = False
        self._silent = False
        self._delay = 0.0
        self._rate = 0.0
        self._freeze_at: int | None = None
        self._call: tuple[int, Callable[[], None]] | None = None
        self.frozen = threading.Event()
        self.messages = 0
        self.accepted = 0
        self.cuts = 0
        self.port = 0
        self.start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def before(self, url: str) -> str:
        """The URL with this proxy's address instead of its own."""
        return re.sub(r"(//(?:[^@/]*@)?)[^/?]*", rf"\g<1>127.0.0.1:{self.port}", url, count=1)

    def start(self) -> None:
        """Listen (again)."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        self.port, self._listener = listener.getsockname()[1], listener
        self._acceptor = self._spawn(self._accept, listener)

    def stop(self) -> None:
        """Refuse new connections. Open ones go on."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            self._acceptor.join(30)  # as long as it accepts, the port is not closed
            listener.close()

    def heal(self) -> None:
        """Forward everything again. The bytes that a black hole swallowed stay lost, and its connections break."""
        with self._changed:
            swallowed = self._silent or self.frozen.is_set()
            self._freeze_at = self._call = None
            self.frozen.clear()
            self._deaf = self._silent = False
            self._delay = self._rate = 0.0
            self._cut = None
            self._changed.notify_all()
        if swallowed:
            self.reset()
        if self._listener is None:
            self.start()

    def reset(self) -> None:
        """Break every open connection with RST."""
        for link in self._open():
            link.end(reset=True)

    def black_hole(self) -> None:
        """Swallow everything in both directions. Connections are accepted and stay open."""
        with self._changed:
            self._silent = True

    def deaf(self) -> None:
        """Accept connections, and neither connect to the target nor forward anything."""
        with self._changed:
            self._deaf = True

    def slow(self, bytes_per_second: float = 1.0) -> None:
        """Forward this many bytes a second, in each direction of each connection."""
        with self._changed:
            self._rate = bytes_per_second

    def delay(self, seconds: float = 1.0) -> None:
        """Delay every piece by this many seconds."""
        with self._changed:
            self._delay = seconds

    def cut_at(self, pattern: bytes, *, upstream: bool = True, keep: bool = False, reset: bool = False) -> None:
        """Break the next connection that carries the pattern in one piece.

        Args:
            pattern: bytes that must not straddle two pieces of 64 KiB; a single short message does not.
            upstream: search the bytes of the client; otherwise those of the server.
            keep: forward the piece before breaking; otherwise nothing of it.
            reset: break with RST instead of FIN.
        """
        self._cut = _Cut(upstream, pattern, 0, keep, reset)

    def cut_after(self, count: int, *, upstream: bool = False, reset: bool = False) -> None:
        """Break the next connection that has carried `count` more bytes in this direction, exactly there."""
        self._cut = _Cut(upstream, b"", count, True, reset)

    def freeze_after(self, count: int) -> None:
        """Hold everything once so many more messages have passed to a PostgreSQL server, as if the client were stopped.

        The connections stay open, and nothing is read from either side: what is sent fills the system's buffers.
        """
        with self._changed:
            self._freeze_at = self.messages + count

    def call_after(self, count: int, action: Callable[[], None]) -> None:
        """Call `action` when so many more messages have come for a PostgreSQL server, before the last one passes."""
        with self._changed:
            self._call = (self.messages + count, action)

    def close(self) -> None:
        """End all connections and threads."""
        self.stop()
        deadline = time.monotonic() + 30
        for thread in self._threads:
            while thread.is_alive() and time.monotonic() < deadline:
                self.reset()  # again: a connection that was just accepted may not have been open before
                thread.join(0.1)
        assert not any(thread.is_alive() for thread in self._threads), "a thread of the proxy does not end"

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._open())

    def _open(self) -> list[_Link]:
        with self._changed:
            return list(self._links)

    def _spawn(self, target: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=arguments, daemon=True, name="proxy")
        self._threads = [*(t for t in self._threads if t.is_alive()), thread]
        thread.start()
        return thread

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._spawn(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        link = _Link(client)
        with self._changed:
            self._links.add(link)
            deaf = self._deaf or self._silent or self.frozen.is_set()
        try:
            if deaf:
                self._swallow(client)
                return
            try:
                server = socket.create_connection(self._target, timeout=10)
            except OSError:
                link.end(reset=True)
                return
            server.settimeout(None)
            if not link.attach(server):
                return
            back = self._spawn(self._pump, link, server, client, False)
            self._pump(link, client, server, True)
            back.join()
        finally:
            link.end(reset=False)
            with self._changed:
                self._links.discard(link)

    def _swallow(self, source: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while source.recv(_PIECE):
                pass

    def _pump(self, link: _Link, source: socket.socket, target: socket.socket, upstream: bool) -> None:
        carried = 0
        try:
            while piece := source.recv(_PIECE):
                if self._silent or (link.dropping and not upstream):
                    continue
                if upstream:
                    piece = self._at_freeze(link, piece)
                elif self.frozen.is_set():
                    piece = b""
                cut, piece = self._at_cut(piece, carried, upstream)
                # A quick answer must not reach the client before the connection is broken.
                link.dropping = link.dropping or (cut is not None and upstream)
                self._forward(link, target, piece)
                carried += len(piece)
                if cut is not None:
                    self.cuts += 1
                    link.end(reset=cut.reset)
                    return
                self._wait_while(lambda: self.frozen.is_set() and not link.ended)
            # A black hole does not forward the end of a connection either.
            self._wait_while(lambda: self._silent and not link.ended)
            if not link.ended:
                target.shutdown(socket.SHUT_WR)
        except OSError:
            link.end(reset=True)

    def _at_freeze(self, link: _Link, piece: bytes) -> bytes:
        """Count the messages of the piece; returns the part of it that passes before everything is frozen."""
        with self._changed:
            if self.frozen.is_set():
                return b""
            for end in link.framing.ends(piece):
                self.messages += 1
                if self._call and self.messages >= self._call[0]:
                    self._call[1]()
                    self._call = None
                if self.messages == self._freeze_at:
                    self.frozen.set()
                    return piece[:end]
        return piece

    def _at_cut(self, piece: bytes, carried: int, upstream: bool) -> tuple[_Cut | None, bytes]:
        with self._changed:
            cut = self._cut
            if cut is None or cut.upstream != upstream:
                return None, piece
            if cut.pattern:
                at = piece.find(cut.pattern)
                if at < 0:
                    return None, piece
                # Forward the piece as a whole or not at all: the server must be able to act on it.
                rest = piece if cut.keep else b""
            elif carried + len(piece) <= cut.after:
                return None, piece
            else:
                rest = piece[: cut.after - carried]
            self._cut = None
            return cut, rest

    def _forward(self, link: _Link, target: socket.socket, piece: bytes) -> None:
        if self._delay:
            self._wait(link, self._delay)
        while self._rate and piece:
            target.sendall(piece[:1])
            piece = piece[1:]
            self._wait(link, 1 / self._rate)
        if piece:
            target.sendall(piece)

    def _wait(self, link: _Link, seconds: float) -> None:
        """Wait until the time has passed, the connection has ended, or the fault is over."""
        deadline = time.monotonic() + seconds
        self._wait_while(lambda: not link.ended and bool(self._delay or self._rate) and time.monotonic() < deadline)

    def _wait_while(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            while condition():
                self._changed.wait(0.05)


class _Framing:
    """Finds the messages in what a client says to PostgreSQL. The first message has no type, and no TLS is spoken."""

    def __init__(self) -> None:
        self._header = b""
        self._size = 4  # of the header: the length, after the first message also the type
        self._left = 0  # bytes of the message's body that are still to come

    def ends(self, piece: bytes) -> Iterator[int]:
        """The places in the piece where a message ends, except messages of the log-in."""
        at = 0
        while at < len(piece):
            if not self._left:
                taken = piece[at : at + self._size - len(self._header)]
                self._header += taken
                at += len(taken)
                if len(self._header) < self._size:
                    return
                self._left = int.from_bytes(self._header[-4:], "big") - 4
            passed = min(self._left, len(piece) - at)
            self._left -= passed
            at += passed
            if not self._left:
                counts = self._size == 5 and self._header[:1] != b"p"
                self._header, self._size = b"", 5
                if counts:
                    yield at


class _Link:
    """One connection through the proxy."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.server: socket.socket | None = None
        self.ended = self.dropping = False
        self.framing = _Framing()
        self._lock = threading.Lock()

    def attach(self, server: socket.socket) -> bool:
        """Keep the connection to the target; false, and close it, if this link has been ended meanwhile."""
        with self._lock:
            if self.ended:
                server.close()
            else:
                self.server = server
            return not self.ended

    def end(self, *, reset: bool) -> None:
        with self._lock:
            if self.ended:
                return
            self.ended = True
            for end in (self.client, self.server):
                if end is None:
                    continue
                with contextlib.suppress(OSError):
                    if reset:
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    # This wakes the thread that reads from it; close() alone would not.
                    end.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
                end.close()


@pytest.fixture
def open_proxy() -> Iterator[Callable[[int], Proxy]]:
    """Makes proxies in front of a port of this machine; the end of the test closes them."""
    with contextlib.ExitStack() as made:
        yield lambda port: made.enter_context(Proxy(port))
