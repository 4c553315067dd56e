"""The session of a browser: a signed cookie that holds the chosen language and colours, and who has signed in."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import os
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vkteams_daemon import plain_file

log = logging.getLogger(__name__)

_KEY_BYTES = 32
_MAX_COOKIE = 3000  # characters
LANGUAGES = ("ru", "en")
THEMES = ("light", "dark")


@dataclass(frozen=True, slots=True)
class Session:
    """What a browser has chosen.

    Attributes:
        id: a random text that ties forms to the browser.
        language: ru or en; None means the browser's own.
        theme: light or dark; None means the browser's own.
        user: the VK Teams id of the person who has signed in; None if nobody has.
        until: when the sign-in ends, in seconds since 1970.
        looked: when the page of what is new was looked at last, in seconds since 1970.
    """

    id: str
    language: str | None = None
    theme: str | None = None
    user: str | None = None
    until: int = 0
    looked: int = 0

    def signed_in(self) -> str | None:
        """Who has signed in, as long as that lasts."""
        return self.user if self.user and time.time() < self.until else None


class Sessions:
    """Reads and writes sessions.

    Args:
        key: signs them.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def read(self, cookie: str | None) -> Session | None:
        """The session of a cookie; None if this server has not signed it, or another version with other fields has."""
        fields = self.unseal("session", cookie)
        if fields is None or fields.keys() != Session.__dataclass_fields__.keys():
            return None
        return Session(**fields)

    def write(self, session: Session) -> str:
        """The cookie of a session."""
        return self.seal("session", asdict(session))

    def seal(self, purpose: str, fields: dict[str, Any]) -> str:
        """A signed cookie with these fields."""
        text = base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")
        return f"{text}.{self._sign(purpose, text)}"

    def unseal(self, purpose: str, cookie: str | None) -> dict[str, Any] | None:
        """The fields of a cookie of this purpose; None if this server has not signed it."""
        if not cookie or len(cookie) > _MAX_COOKIE or not cookie.isascii():
            return None
        text, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(signature, self._sign(purpose, text)):
            return None
        fields: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return fields

    def form_token(self, session: Session) -> str:
        """What a form of this session has to send, so that no other page can send it."""
        return self._sign("form", session.id)

    def is_form_token(self, session: Session, token: str) -> bool:
        """Whether a form belongs to this session."""
        return token.isascii() and hmac.compare_digest(token, self.form_token(session))

    def _sign(self, purpose: str, text: str) -> str:
        return hmac.new(self._key, f"{purpose}:{text}".encode(), hashlib.sha256).hexdigest()


def new_session() -> Session:
    """A session in which nothing is chosen yet."""
    return Session(secrets.token_urlsafe(16))


def read_key(file: Path) -> bytes:
    """The key of the file, which is made if it is absent; if that fails, a key for this run."""
    try:
        return _read(file)
    except OSError:
        pass
    key = secrets.token_bytes(_KEY_BYTES)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(key)
        return key
    except FileExistsError:  # another process was quicker, or the file is unreadable or too short
        pass
    except OSError as error:
        log.info(
            "%s cannot be written (%s): browsers lose their sign-in and their settings when the page restarts",
            file,
            error.strerror,
        )
        return key
    try:
        return _read(file)
    except OSError as error:
        log.warning(
            "%s cannot be read (%s): browsers lose their sign-in and their settings when the page restarts", file, error
        )
        return key


def _read(file: Path) -> bytes:
    key = plain_file.read(file)
    if len(key) < _KEY_BYTES:
        raise OSError(f"it has {len(key)} bytes")
    return key
