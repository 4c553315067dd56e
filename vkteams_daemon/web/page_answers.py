"""Answers with a page: in the language of the browser's choice, with its session, and never kept by a cache."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from vkteams_daemon.web.cookies import Cookies
from vkteams_daemon.web.language import Language, choose_zone, preferred
from vkteams_daemon.web.pages import Pages
from vkteams_daemon.web.session import LANGUAGES, Session, new_session
from vkteams_daemon.web.visitor import Admission, Visitor


class PageAnswers:
    """Makes the answers.

    Args:
        pages: the templates.
        cookies: reads and writes the cookies.
        admission: decides who is asking.
        timezone: the zone of a browser that does not tell its own, as `[search] timezone`.
    """

    def __init__(self, pages: Pages, cookies: Cookies, admission: Admission, timezone: str) -> None:
        self._pages = pages
        self._cookies = cookies
        self._admission = admission
        self._timezone = timezone

    def language(self, request: Request) -> tuple[Language, Session | None]:
        """The language of the answer, and the browser's session."""
        session = self._cookies.session(request)
        code = session.language if session else None
        code = code if code in LANGUAGES else preferred(request.headers.get("accept-language", ""))
        return Language(code, choose_zone(unquote(request.cookies.get("zone", "")), self._timezone)), session

    def page(
        self, request: Request, template: str, language: Language, session: Session | None,
        visitor: Visitor | None, status: int, **shown: Any,
    ) -> Response:  # fmt: skip
        """A page of a template; a browser without a session gets one.

        Args:
            request: the request.
            template: the template's name.
            language: of the page.
            session: the browser's.
            visitor: who is asking; None if nobody has signed them in.
            status: of HTTP.
            shown: what the template shows.
        """
        given = session or new_session()
        html = self._pages.render(
            template, language, theme=given.theme, token=self._cookies.sessions.form_token(given), visitor=visitor,
            here=here(request), by_oidc=self._admission.by_oidc, **({"again": None} | shown),
        )  # fmt: skip
        answer = HTMLResponse(html, status, headers={"cache-control": "no-store", "vary": "Cookie, Accept-Language"})
        if session is None:
            self._cookies.give(answer, request, given)
        return answer

    def not_signed_in(self, request: Request, status: int, reason: str) -> Response:
        """The page for somebody whom nobody has signed in, for this reason; without one for who has signed out."""
        language, session = self.language(request)
        title = language.gettext("Nobody has signed you in") if reason else language.gettext("You have signed out")
        return self.page(
            request, "message.html", language, session, None, status, title=title, text=reason,
            again="/sign-in" if self._admission.by_oidc else None,
        )  # fmt: skip

    async def nothing_here(self, request: Request, _: Exception) -> Response:
        """The page of an address that does not exist."""
        language, session = self.language(request)
        return self.page(
            request, "message.html", language, session, self._admission.visitor(request, session), 404,
            title=language.gettext("Nothing is here for you to see"),
            text=language.gettext("There is no such page, or it is of a chat that you are not a member of."),
        )  # fmt: skip


def here(request: Request) -> str:
    """The path and the query of a request."""
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")
