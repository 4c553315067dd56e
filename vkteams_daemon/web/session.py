"""The session of a browser: a signed cookie that holds the chosen language and colours, and nothing of the archive."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

_KEY_BYTES = 32
_MAX_COOKIE = 1000  # characters
LANGUAGES = ("ru", "en")
THEMES = ("light", "dark")


@dataclass(frozen=True, slots=True)
class Session:
    """What a browser has chosen.

    Attributes:
        id: a random text that ties forms to the browser.
        language: ru or en; None means the browser's own.
        theme: light or dark; None means the browser's own.
    """

    id: str
    language: str | None = None
    theme: str | None = None


class Sessions:
    """Reads and writes sessions.

    Args:
        key: signs them.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def read(self, cookie: str | None) -> Session | None:
        """The session of a cookie; None if this server has not signed it."""
        if not cookie or len(cookie) > _MAX_COOKIE or not cookie.isascii():
            return None
        text, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(signature, self._sign("session", text)):
            return None
        fields = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return Session(fields["id"], fields.get("language"), fields.get("theme"))

    def write(self, session: Session) -> str:
        """The cookie of a session."""
        fields = {"id": session.id, "language": session.language, "theme": session.theme}
        text = base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")
        return f"{text}.{self._sign('session', text)}"

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
    """The key of the file, which is made if it is absent; where that fails, a key for this run."""
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
        log.info("%s cannot be written (%s): browsers lose their language when the page restarts", file, error.strerror)
        return key
    try:
        return _read(file)
    except OSError as error:
        log.warning("%s cannot be read (%s): browsers lose their language when the page restarts", file, error)
        return key


def _read(file: Path) -> bytes:
    key = file.read_bytes()
    if len(key) < _KEY_BYTES:
        raise OSError(f"it has {len(key)} bytes")
    return key
