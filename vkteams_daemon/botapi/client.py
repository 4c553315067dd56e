"""Speaks HTTP with the Bot API: typed errors, time limits, and a token that no text that leaves here ever holds."""

from __future__ import annotations

import contextlib
import email.utils
import json
import re
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter

from vkteams_daemon.botapi.facts import ident
from vkteams_daemon.botapi.refusal import refusal
from vkteams_daemon.errors import (
    ApiError,
    ApiProtocolError,
    ApiServerError,
    ApiUnreachable,
    ConfigError,
    NotBotApi,
    RateLimited,
)

MAX_BODY = 256 * 2**20  # bytes after decompression


@dataclass(frozen=True, slots=True)
class BotInfo:
    """Who the token belongs to."""

    user_id: str
    nick: str | None
    first_name: str | None


class BotClient:
    """One HTTP session with the Bot API; safe for one thread at a time, `abort` from any.

    Args:
        url: the installation's base URL, with or without /bot/v1 and a trailing slash.
        token: the bot's token.
        connect_timeout: seconds for a connection.
        read_margin: seconds beyond a poll's own time until it has failed; also the limit of every other call.
        ca_file: PEM file of a private certificate authority, or "".
        proxy: proxy URL, or "" for the environment's.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        connect_timeout: float = 10.0,
        read_margin: float = 15.0,
        ca_file: str = "",
        proxy: str = "",
    ) -> None:
        self.url = base_url(url)
        self._token = token
        self._connect_timeout = connect_timeout
        self._read_margin = read_margin
        self._sockets = _Sockets()
        self._session = requests.Session()
        adapter = _Adapter(self._sockets)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        self._session.headers["User-Agent"] = "vkteams-daemon"
        if ca_file:
            self._session.verify = ca_file
        if proxy:
            self._session.proxies = {"http": proxy, "https": proxy}

    def __repr__(self) -> str:
        return f"BotClient({self.url!r})"

    def self_get(self) -> BotInfo:
        """Who the token belongs to.

        Raises:
            Unauthorised: the token is refused.
            NotBotApi: something else answers at the URL.
            ApiError: any other branch of errors.ApiError.
        """
        try:
            answer = self.call("self/get")
        except ApiProtocolError as error:
            raise NotBotApi(
                f"{self.url}: what answers there is not the Bot API", hint="Check api.url, and the proxy on the way."
            ) from error
        user_id = ident(answer.get("userId"))
        if user_id is None:
            raise NotBotApi(f"{self.url}: self/get answers without a userId", hint="Check api.url.")
        nick, first = answer.get("nick"), answer.get("firstName")
        return BotInfo(user_id, nick if isinstance(nick, str) else None, first if isinstance(first, str) else None)

    def poll(self, last_event_id: int, poll_time: int) -> bytes:
        """The body of one events/get, which acknowledges every event up to `last_event_id` for good.

        Args:
            last_event_id: the cursor; only ever a committed one.
            poll_time: seconds the API may hold the request.
        """
        params = {"lastEventId": last_event_id, "pollTime": poll_time}
        return self._get("events/get", params, poll_time + self._read_margin)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer of any other method, `ok` checked; lists repeat their key, None is left out."""
        body = self._get(method, params, self._read_margin)
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ApiProtocolError(f"{method}: the answer is not JSON") from error
        if not isinstance(answer, dict):
            raise ApiProtocolError(f"{method}: the answer is not an object")
        if answer.get("ok") is False:
            raise refusal(answer.get("description"))
        return answer

    def abort(self) -> None:
        """End the request in flight, from any thread: its caller gets ApiUnreachable at once."""
        self._sockets.shut()

    def close(self) -> None:
        """Give the connections back."""
        self._session.close()

    def _get(self, method: str, params: dict[str, Any], limit: float) -> bytes:
        # requests' read timeout starts anew with every byte; the timer bounds the whole of a trickling answer.
        deadline = threading.Timer(limit + self._connect_timeout + self._read_margin, self.abort)
        deadline.daemon = True
        deadline.start()
        try:
            with self._session.get(
                f"{self.url}/{method}",
                params={"token": self._token, **params},
                timeout=(self._connect_timeout, limit),
                stream=True,
                allow_redirects=False,
            ) as response:
                body = _bounded(response)
                _check(response, body, method)
                return body
        except (OSError, urllib3.exceptions.HTTPError, ValueError) as error:
            failure = self._failure(method, error)
        finally:
            deadline.cancel()
        # Raised outside the except clause: the library's exception holds the URL, and with it the token, and would
        # stay reachable as __context__.
        raise failure

    def _failure(self, method: str, error: Exception) -> Exception:
        problems = requests.exceptions
        if isinstance(error, problems.InvalidURL | problems.InvalidSchema | problems.MissingSchema):
            return ConfigError(f"api.url: {self.url!r} is not a URL that can be asked")
        if isinstance(error, problems.SSLError):
            return ApiUnreachable(
                f"{self.url}: its certificate cannot be verified",
                hint="Set api.ca_file to the PEM file of your authority.",
            )
        if isinstance(error, problems.ContentDecodingError | ValueError) and not isinstance(error, problems.Timeout):
            return ApiProtocolError(f"{method}: the answer cannot be decoded")
        return ApiUnreachable(f"{self.url}: {reason(error)}", hint="Check api.url and the network.")


def base_url(url: str) -> str:
    """The URL with /bot/v1 and without a trailing slash; ConfigError where it is no http(s) URL."""
    url = url.strip().rstrip("/")
    if not re.fullmatch(r"https?://[^/\s?#]+[^\s?#]*", url):
        raise ConfigError(f"api.url: {url!r} is not an http:// or https:// URL")
    return url if url.endswith("/bot/v1") else f"{url}/bot/v1"


def reason(error: BaseException) -> str:
    """Why a request failed, in a few words that hold no URL."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, requests.exceptions.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke in mid-answer"
    text = re.sub(r"\S*(?:token=|\?)\S*", "…", str(error))
    for known, words in _KNOWN_REASONS:
        if known in text:
            return words
    return type(error).__name__


_KNOWN_REASONS = (
    ("Name or service not known", "its name cannot be resolved"),
    ("Temporary failure in name resolution", "its name cannot be resolved"),
    ("No address associated", "its name cannot be resolved"),
    ("Connection refused", "the connection is refused"),
    ("No route to host", "there is no route to it"),
    ("Network is unreachable", "the network is unreachable"),
    ("Read timed out", "no answer in time"),
    ("Connection reset", "the connection was reset"),
    ("Remote end closed", "the connection was closed without an answer"),
    ("aborted", "the connection was closed without an answer"),
    ("Tunnel connection failed", "the proxy refuses the connection"),
    ("Cannot connect to proxy", "the proxy cannot be reached"),
)


def _bounded(response: requests.Response) -> bytes:
    chunks, size = [], 0
    for chunk in response.iter_content(2**18):
        size += len(chunk)
        if size > MAX_BODY:
            raise ApiProtocolError(f"the answer is larger than {MAX_BODY >> 20} MiB")
        chunks.append(chunk)
    return b"".join(chunks)


def _check(response: requests.Response, body: bytes, method: str) -> None:
    status = response.status_code
    if status == 200:
        return
    wait = retry_after(response.headers.get("Retry-After"))
    error: ApiError
    if status in (401, 403):
        error = refusal("Invalid token")
    elif status == 429:
        error = RateLimited("the Bot API asks to slow down", retry_after=wait)
    elif status >= 500:
        error = ApiServerError(f"{method}: the server answers {status}", retry_after=wait)
    else:
        error = ApiProtocolError(f"{method}: the server answers {status}")
    raise error


def retry_after(header: str | None) -> float | None:
    """Seconds to wait by a Retry-After header (seconds, or an HTTP date: RFC 9110, 10.2.3); None without one."""
    if not header:
        return None
    with contextlib.suppress(ValueError):
        value = float(header)
        return value if 0 <= value < 86400 * 7 else None
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    return None


class _Sockets:
    """The sockets of one session, so that another thread can end what waits on them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()

    def add(self, sock: socket.socket) -> None:
        with self._lock:
            self._open = {known for known in self._open if known.fileno() >= 0} | {sock}

    def shut(self) -> None:
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    # The raw shutdown also wakes a thread inside TLS.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _Adapter(HTTPAdapter):
    """An adapter whose connections enter their socket in `_Sockets` once they are connected."""

    def __init__(self, sockets: _Sockets) -> None:
        self._sockets = sockets
        super().__init__(pool_connections=2, pool_maxsize=2)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._watch(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._watch(manager)
        return manager

    def _watch(self, manager: Any) -> None:
        pools = {"http": urllib3.HTTPConnectionPool, "https": urllib3.HTTPSConnectionPool}
        manager.pool_classes_by_scheme = {scheme: self._watched(pool) for scheme, pool in pools.items()}

    def _watched(self, pool: Any) -> Any:
        sockets = self._sockets

        class Connection(pool.ConnectionCls):  # type: ignore[misc]
            def connect(self) -> None:
                super().connect()
                sockets.add(self.sock)

        return type(pool.__name__, (pool,), {"ConnectionCls": Connection})
