"""Two applications behind one HTTP server: one of them answers at some paths, the other at all others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send


@dataclass(frozen=True, slots=True)
class Beside:
    """An application that answers at some paths beside another one.

    Attributes:
        app: the application; the lifespan of the server is its.
        paths: where it answers, and below.
        close: called when the server ends.
    """

    app: ASGIApp
    paths: tuple[str, ...]
    close: tuple[Callable[[], None], ...] = ()

    def over(self, other: ASGIApp) -> ASGIApp:
        """The application that passes each request on to one of the two."""

        async def passed_on(scope: Scope, receive: Receive, send: Send) -> None:
            path = scope.get("path", "")
            here = any(path == own or path.startswith(f"{own}/") for own in self.paths)
            await (self.app if here or scope["type"] == "lifespan" else other)(scope, receive, send)

        return passed_on
