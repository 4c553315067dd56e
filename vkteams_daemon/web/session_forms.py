"""The forms that change a browser's session: its language and colours, and signing out."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from vkteams_daemon.web.cookies import Cookies, local_path
from vkteams_daemon.web.live import Live
from vkteams_daemon.web.page_answers import PageAnswers
from vkteams_daemon.web.session import LANGUAGES, THEMES, Session, new_session

_MAX_FORM = 4096  # bytes


class SessionForms:
    """Takes the forms.

    Args:
        cookies: reads and writes the cookies.
        answers: makes the page that follows.
        live: the open pages, which end when their person signs out.
    """

    def __init__(self, cookies: Cookies, answers: PageAnswers, live: Live) -> None:
        self._cookies = cookies
        self._answers = answers
        self._live = live

    async def settings(self, request: Request) -> Response:
        """Take over the language or the colours that a form of this page has chosen."""
        session, form = await self._form(request)
        if session is None:
            return _foreign_form()
        if form.get("language") in LANGUAGES:
            session = replace(session, language=form["language"])
        if "theme" in form:
            session = replace(session, theme=form["theme"] if form["theme"] in THEMES else None)
        answer = RedirectResponse(local_path(form.get("back", "/")), 303)
        self._cookies.give(answer, request, session)
        return answer

    async def sign_out(self, request: Request) -> Response:
        """Forget who has signed in."""
        session, _ = await self._form(request)
        if session is None:
            return _foreign_form()
        self._live.end_session(session.id)
        answer = self._answers.not_signed_in(request, 200, "")
        self._cookies.give(answer, request, replace(new_session(), language=session.language, theme=session.theme))
        return answer

    async def _form(self, request: Request) -> tuple[Session | None, dict[str, str]]:
        """The session and the fields of a form of this page; no session if the form is of another page."""
        session = self._cookies.session(request)
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_FORM:
                return None, {}
        form = {name: values[0] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}
        if session is None or not self._cookies.sessions.is_form_token(session, form.get("token", "")):
            return None, {}
        return session, form


def _foreign_form() -> Response:
    return Response(
        "This form is not of this page: go back, load the page again, and send it once more.", 403,
        media_type="text/plain",
    )  # fmt: skip
