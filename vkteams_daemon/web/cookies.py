"""The cookies of the page: signed, for the page alone, and over TLS bound to its host."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from vkteams_daemon.web.session import Session, Sessions
from vkteams_daemon.web.visitor import Admission

_SESSION = "vkteams"
_SESSION_AGE = 365 * 24 * 3600  # seconds


class Cookies:
    """Reads and writes the cookies.

    Args:
        sessions: signs them.
        admission: knows whether a request came over TLS.
        secure: whether every request does.
    """

    def __init__(self, sessions: Sessions, admission: Admission, *, secure: bool) -> None:
        self.sessions = sessions
        self._admission = admission
        self._secure = secure

    def session(self, request: Request) -> Session | None:
        """The browser's session; None if it has none that this server has signed."""
        return self.sessions.read(self.get(request, ""))

    def give(self, answer: Response, request: Request, session: Session) -> None:
        """Give the browser its session."""
        self.set(answer, request, "", self.sessions.write(session), _SESSION_AGE)

    def get(self, request: Request, purpose: str) -> str | None:
        """The cookie of a purpose."""
        return request.cookies.get(self._name(request, purpose))

    def set(self, answer: Response, request: Request, purpose: str, value: str, age: int) -> None:
        """Set the cookie of a purpose for so many seconds."""
        answer.set_cookie(
            self._name(request, purpose), value, max_age=age, path="/", secure=self._is_secure(request), httponly=True,
            samesite="lax",
        )  # fmt: skip

    def delete(self, answer: Response, request: Request, purpose: str) -> None:
        """Take the cookie of a purpose away."""
        self.set(answer, request, purpose, "", 0)

    def _name(self, request: Request, purpose: str) -> str:
        name = f"{_SESSION}-{purpose}" if purpose else _SESSION
        # Over TLS the prefix keeps another host of the domain from setting it.
        return f"__Host-{name}" if self._is_secure(request) else name

    def _is_secure(self, request: Request) -> bool:
        return self._secure or self._admission.is_secure(request)


def local_path(path: str) -> str:
    """The path if it is one of this page; otherwise the first page."""
    if not path.startswith("/") or path.startswith(("//", "/\\")) or any(ord(letter) < 33 for letter in path):
        return "/"
    return path
