"""The HTTP client of the Bot API: it has typed errors and time limits, and never shows the token in a text."""

from __future__ import annotations

import contextlib
import email.utils
import json
import math
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import requests
import urllib3

from vkteams_daemon.botapi import route
from vkteams_daemon.botapi.failures import failure, refusal
from vkteams_daemon.botapi.transport import Adapter, Sockets
from vkteams_daemon.botapi.values import parse_id
from vkteams_daemon.config import Config
from vkteams_daemon.errors import (
    ApiMisconfigured,
    ApiProtocolError,
    ApiServerError,
    ApiUnreachable,
    ConfigError,
    NotBotApi,
    PermissionRefused,
    RateLimited,
    Unauthorised,
    VkTeamsError,
)
from vkteams_daemon.system.deadlines import DEADLINES
from vkteams_daemon.system.text import printable

MAX_BODY = 64 * 2**20  # bytes of an answer with events, after decompression
MAX_ANSWER = 4 * 2**20  # bytes of every other answer, after decompression
MAX_PAGE = 2**16  # bytes that are read of an answer whose status is not 200
MAX_OVERHEAD = 2**20  # bytes; what an answer may take on the wire beyond its body: headers, sizes of chunks, trailers
MAX_RETRY_AFTER = 3600.0  # seconds; a longer wait would be taken for the end of the service
_REFUSED = re.compile(rb'"ok"\s*:\s*false')
_REFUSAL_PREFIX = 2**16  # bytes; `"ok": false` stands in these or the answer is not a refusal


@dataclass(frozen=True, slots=True)
class BotInfo:
    """The bot that the token belongs to."""

    user_id: str
    nick: str | None
    first_name: str | None


class BotClient:
    """One HTTP session with the Bot API. One thread may use it at a time; any thread may call `abort`.

    Args:
        url: the installation's base URL, with or without /bot/v1 and a trailing slash.
        token: the bot's token.
        connect_timeout: seconds for connecting.
        read_margin: seconds that a poll may take beyond its own poll time; also the limit of every other call.
        ca_file: PEM file of a private certificate authority, or "".
        proxy: proxy URL, or "" for the environment's.
        token_source: where the token was taken from, for messages.

    Raises:
        ConfigError: the URL, the proxy or the certificates cannot be used; a variable of the environment may name them.
        PermissionRefused: this user may not read the certificates.
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
        token_source: str = "api.token",
    ) -> None:
        self.url = base_url(url)
        self._token = token
        self._token_source = token_source
        self._connect_timeout = connect_timeout
        self._read_margin = read_margin
        self._sockets = Sockets()
        self._session = requests.Session()
        adapter = Adapter(self._sockets)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        self._session.headers["User-Agent"] = "vkteams-daemon"
        # Without it, requests would send the user's password for this host, or the default one, from a netrc file.
        self._session.auth = lambda request: request
        self._date: tuple[datetime, float] | None = None  # the last Date of the API, and when it came (monotonic)
        # Passed with every request: requests prefers the environment to the settings of the session.
        self._settings: dict[str, Any] = {}
        self._ca_file = ca_file
        route.check_certificates(self.url, ca_file)
        self._proxy = route.find_proxy(self.url, proxy)
        if ca_file:
            self._settings["verify"] = ca_file
        if proxy:
            self._settings["proxies"] = {"http": proxy, "https": proxy}

    def __repr__(self) -> str:
        return f"BotClient({self.url!r})"

    def self_get(self) -> BotInfo:
        """The bot that the token belongs to.

        Raises:
            Unauthorised: the API refuses the token.
            NotBotApi: something else answers at the URL, perhaps only for a while.
            ApiError: any other branch of errors.ApiError.
        """
        try:
            answer = self.call("self/get")
        except ApiProtocolError as error:
            raise NotBotApi(
                f"{self.url}: what answers there is not the Bot API ({error})",
                hint=self._places_to_check,
            ) from error
        user_id = _name(parse_id(answer.get("userId")))
        if user_id is None:
            raise NotBotApi(
                f"{self.url}: what answers there is not the Bot API (self/get: no userId)", hint=self._places_to_check
            )
        return BotInfo(user_id, _name(answer.get("nick")), _name(answer.get("firstName")))

    @property
    def _places_to_check(self) -> str:
        return f"Check api.url and the proxy of {self._proxy.source}." if self._proxy else "Check api.url."

    def poll(self, last_event_id: int, poll_time: int) -> bytes:
        """The body of one events/get. The request acknowledges every event up to `last_event_id` for ever.

        Args:
            last_event_id: the cursor. It must be committed.
            poll_time: seconds the API may hold the request.

        Raises:
            ApiError: any class of it, also for an answer with `ok: false`.
        """
        params = {"lastEventId": last_event_id, "pollTime": poll_time}
        return self._get("events/get", params, poll_time + self._read_margin, MAX_BODY)

    def poll_limit(self, poll_time: int) -> float:
        """Seconds after which a poll has ended, whatever the server does."""
        # The read timeout of requests starts anew with every byte. The deadline bounds an answer that trickles.
        return poll_time + self._connect_timeout + 2 * self._read_margin

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer of any other method.

        Args:
            method: its path, such as `messages/sendText`.
            **params: a list repeats its key; None is left out.

        Raises:
            ApiError: any class of it, also for an answer with `ok: false`.
        """
        body = self._get(method, params, self._read_margin, MAX_ANSWER)
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ApiProtocolError(f"{method}: the answer is not JSON") from error
        if not isinstance(answer, dict):
            raise ApiProtocolError(f"{method}: the answer is not an object")
        if answer.get("ok") is False:
            raise refusal(None)
        return answer

    def api_time(self) -> datetime | None:
        """The time by the API's clock, counted on from the last `Date` header; None before the first one."""
        if self._date is None:
            return None
        date, came = self._date
        return date + timedelta(seconds=time.monotonic() - came)

    def abort(self) -> None:
        """End the request in flight, from any thread: its caller gets ApiUnreachable at once.

        This also ends connecting and a TLS handshake. A name look-up cannot be ended: its request ends after it.
        """
        self._sockets.shut()

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _get(self, method: str, params: dict[str, Any], limit: float, max_body: int) -> bytes:
        deadline = limit + self._connect_timeout + self._read_margin
        self._sockets.begin(max_body + MAX_OVERHEAD)
        try:
            with (
                DEADLINES.limit(deadline, self.abort),
                self._session.get(
                    f"{self.url}/{method}",
                    params={"token": self._token, **params},
                    timeout=(self._connect_timeout, limit),
                    stream=True,
                    allow_redirects=False,
                    **self._settings,
                ) as response,
            ):
                body = _read_body(response, max_body)
                if self._sockets.ended:
                    raise ConnectionAbortedError("aborted")  # a body without a length looks complete wherever it ends
                self._check(response, body, method)
                self._remember_date(response.headers.get("Date"))
                return body
        except (OSError, urllib3.exceptions.HTTPError, ValueError) as error:
            problem = self._certificates_lost(error) or failure(
                self.url, method, error, self._proxy_source, route.authorities_variable(self._ca_file)
            )
        # Raised outside the except clause: the library's exception contains the URL with the token, and would stay
        # reachable as __context__.
        raise problem

    def _remember_date(self, header: str | None) -> None:
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            date = email.utils.parsedate_to_datetime(header or "")
            self._date = (date if date.tzinfo else date.replace(tzinfo=UTC), time.monotonic())

    @property
    def _proxy_source(self) -> str:
        return self._proxy.source if self._proxy else ""

    def _certificates_lost(self, error: Exception) -> VkTeamsError | None:
        """The error for a file of certificates that has gone since the start; None if another thing failed."""
        if isinstance(error, requests.RequestException):
            return None
        try:
            route.check_certificates(self.url, self._ca_file)
        except (ConfigError, PermissionRefused) as lost:
            return ApiMisconfigured(str(lost), hint=lost.hint)
        return None

    def _check(self, response: requests.Response, body: bytes, method: str) -> None:
        """Raise the error that the status and the `ok` of an answer stand for, if any."""
        status = response.status_code
        wait = retry_after(response.headers.get("Retry-After"))
        if status == 429:
            raise RateLimited("the Bot API asks to slow down", retry_after=wait)
        if status >= 500:
            raise ApiServerError(f"{method}: the server answers {status}", retry_after=wait)
        refused, description = _refused(body)
        if refused:
            text = description if isinstance(description, str) else ""
            error = refusal(text.replace(self._token, "***") if self._token else text, wait)
            if isinstance(error, Unauthorised):
                error.hint = f"Ask @metabot for the bot's token and put it into {self._token_source}."
            raise error
        if status == 407 and self._proxy:
            raise ApiUnreachable(
                f"{self.url}: the proxy of {self._proxy.source} asks for a user and a password",
                hint="Write http://USER:PASSWORD@HOST:PORT.",
            )
        if status != 200:
            # Any proxy can say 401, 403 or 407. That the token is wrong, only the Bot API can say, in its JSON.
            raise ApiProtocolError(f"{method}: the server answers {status}")


def make_client(config: Config, limit: float = math.inf) -> BotClient:
    """A client of the Bot API as `[api]` says; `limit` caps its time limits, in seconds.

    Raises:
        ConfigError: the URL or the ca_file cannot be used.
    """
    api = config.api
    return BotClient(
        api.url, api.token, connect_timeout=min(api.connect_timeout, limit), read_margin=min(api.read_margin, limit),
        ca_file=api.ca_file, proxy=api.proxy, token_source=config.token_source,
    )  # fmt: skip


def base_url(url: str) -> str:
    """The URL with /bot/v1 and without a trailing slash.

    Raises:
        ConfigError: it is not an http(s) URL, or has a part that could be a secret (a user and password, a query). The
            message does not repeat that part.
    """
    url = url.strip().rstrip("/")
    host = r"https?://(?:\[[0-9A-Fa-f:.]+\]|[^/\s?#@:\[\]]+)(?::[0-9]{1,5})?"
    if not re.fullmatch(rf"{host}(?:/[^\s?#]*)?", url, re.IGNORECASE):
        redacted = re.sub(r"[?#].*", "?…", re.sub(r"//[^/]*@", "//…@", url), flags=re.DOTALL)
        hint = "Write it like https://myteam.mail.ru/bot/v1, without a user, a query or a token."
        raise ConfigError(f"api.url: {redacted!r} is not an http:// or https:// URL", hint=hint)
    try:
        requests.Request("GET", url).prepare()  # refuses an impossible port or host name
    except (requests.RequestException, ValueError) as error:
        raise ConfigError(f"api.url: {url!r} is not a URL that can be asked") from error
    return url if url.endswith("/bot/v1") else f"{url}/bot/v1"


def _read_body(response: requests.Response, max_body: int) -> bytes:
    """The body. Of a page with another status than 200 only the beginning is read: its status says enough.

    Raises:
        ApiProtocolError: the body is longer than `max_body` bytes.
    """
    response.raw.enforce_content_length = True  # not the default of every version
    body = bytearray()
    for chunk in response.iter_content(2**16):
        body += chunk
        if response.status_code != 200 and len(body) > MAX_PAGE:
            break
        if len(body) > max_body:
            raise ApiProtocolError(f"the answer is larger than {max_body >> 20} MiB")
    return bytes(body)


def _refused(body: bytes) -> tuple[bool, Any]:
    """Whether an answer has `ok: false`, and its description."""
    if _REFUSED.search(body, 0, _REFUSAL_PREFIX):
        with contextlib.suppress(ValueError, RecursionError):
            answer = json.loads(body)
            if isinstance(answer, dict) and answer.get("ok") is False:
                return True, answer.get("description")
    return False, None


def _name(text: Any) -> str | None:
    """A name as a log and a database take it; None if the value is no text or has no printable character."""
    return printable(text) or None if isinstance(text, str) else None


def retry_after(header: str | None) -> float | None:
    """Seconds to wait according to a Retry-After header, an hour at most; None if it is missing or wrong.

    It is a number of seconds or an HTTP date (RFC 9110, 10.2.3).
    """
    if not header:
        return None
    wait = -1.0
    try:
        wait = float(header)
    except ValueError:
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            wait = max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    return min(wait, MAX_RETRY_AFTER) if 0 <= wait < math.inf else None
