"""The application: its addresses, and who may open them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from vkteams_daemon import times
from vkteams_daemon.config import Config
from vkteams_daemon.daemon.status import read_backlog
from vkteams_daemon.errors import NotFound, UsageError, VkTeamsError
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.serving.audit import Audit, Call
from vkteams_daemon.serving.questions import Questions
from vkteams_daemon.web import activity_page, chat_page, health_page, search_page, today_page
from vkteams_daemon.web.activity_page import ActivityForm, ActivityPages
from vkteams_daemon.web.charts import Charts, Picture
from vkteams_daemon.web.cookies import Cookies
from vkteams_daemon.web.guard import POLICY, Guard
from vkteams_daemon.web.language import Language
from vkteams_daemon.web.live import EventStream, Live
from vkteams_daemon.web.names import Names
from vkteams_daemon.web.note_translation import note_in
from vkteams_daemon.web.oidc import SignIn
from vkteams_daemon.web.page_answers import PageAnswers, here
from vkteams_daemon.web.pages import Pages
from vkteams_daemon.web.search_page import SearchForm, SearchPage
from vkteams_daemon.web.session import Sessions, new_session
from vkteams_daemon.web.session_forms import SessionForms
from vkteams_daemon.web.sign_in import SignInPages
from vkteams_daemon.web.static_files import StaticFiles
from vkteams_daemon.web.visitor import Admission, Visitor

T = TypeVar("T")

log = logging.getLogger(__name__)


class Application:
    """The page.

    Args:
        config: the whole configuration.
        archive: answers the questions; the caller closes it.
        admission: decides who is asking.
        sessions: reads and writes the cookies.
        audit: writes a line for every question.
        host: the name on which the page listens.
        sign_in: signs people in by OpenID Connect, if that is configured.
        live: tells open pages that there is something new; the caller closes it.

    Attributes:
        questions: asks the archive, also for what is served beside the page.
    """

    def __init__(
        self,
        config: Config,
        archive: Archive,
        admission: Admission,
        sessions: Sessions,
        audit: Audit,
        host: str,
        sign_in: SignIn | None = None,
        live: Live | None = None,
    ) -> None:
        self._config = config
        self._archive = archive
        self._admission = admission
        self._cookies = Cookies(sessions, admission, secure=config.web.url.startswith("https:"))
        self._audit = audit
        files = StaticFiles()
        self._answers = PageAnswers(
            Pages(config.web, files.version), self._cookies, admission, config.search.timezone
        )  # fmt: skip
        self._names = Names()
        self._activity_pages = ActivityPages()
        self._live = live or Live(archive)
        self.questions = Questions(lambda: archive, config.database.pool_size)
        forms = SessionForms(self._cookies, self._answers, self._live)
        routes = [
            Route("/", self._archive_page("search", self._search)),
            Route("/c/{chat:path}", self._archive_page("chat", self._chat)),
            Route("/m/{chat}/{message:path}", self._archive_page("message", self._message)),
            Route("/today", self._today),
            Route("/today/live", self._today_live),
            Route("/activity", self._archive_page("activity", self._activity)),
            Route("/activity/{picture}.svg", self._archive_page("picture", self._picture)),
            Route("/health", self._archive_page("health", self._health)),
            Route("/health/lag.svg", self._archive_page("lag", self._lag)),
            Route("/settings", forms.settings, methods=["POST"]),
            Route("/sign-out", forms.sign_out, methods=["POST"]),
            Route("/static/{name}", files.answer),
        ]
        if sign_in is not None:
            pages = SignInPages(sign_in, self._cookies, admission, audit, self._answers.not_signed_in)
            routes += [Route("/sign-in", pages.begin), Route("/signed-in", pages.finish)]
        app = Starlette(
            routes=routes, exception_handlers={404: self._answers.nothing_here, 405: self._answers.nothing_here}
        )
        self.asgi: ASGIApp = Guard(app, host, config.web.url)

    def _archive_page(
        self, what: str, answer: Callable[[Request, Archive, Language, Visitor], tuple[str, dict[str, Any]] | Picture]
    ) -> Callable[[Request], Awaitable[Response]]:
        """An address that shows something of the archive: to a visitor, in their language, and audited."""

        async def endpoint(request: Request) -> Response:
            language, session = self._answers.language(request)
            visitor = self._admission.visitor(request, session)
            if visitor is None and self._admission.by_oidc:
                back = urlencode({"back": here(request)})
                return RedirectResponse(f"/sign-in?{back}", 303, headers={"cache-control": "no-store"})
            if visitor is None:
                return self._answers.page(
                    request, "message.html", language, session, None, 401,
                    title=language.gettext("Nobody has signed you in"),
                    text=language.gettext("The archive is shown to people whom the company's proxy has signed in."),
                )  # fmt: skip
            call = Call(visitor.access.name, None, what, dict(request.query_params) | request.path_params)
            status = 200
            try:
                found = await self._ask(lambda archive: answer(request, archive, language, visitor), visitor, language)
                if isinstance(found, Picture):
                    return _svg(found)
                template, shown = found
                call.hits = len(shown["page"].hits) if isinstance(shown.get("page"), SearchPage) else None
            except (NotFound, UsageError) as error:
                call.outcome, call.error, status = "refused", str(error), 404
                template = "message.html"
                shown = {
                    "title": language.gettext("Nothing is here for you to see"),
                    "text": language.gettext("There is no such page, or it is of a chat that you are not a member of."),
                }
            except VkTeamsError as error:
                call.outcome, call.error, status = "refused", str(error), 503
                log.warning("the page could not be shown: %s", error)
                template = "message.html"
                shown = {
                    "title": language.gettext("The archive does not answer"),
                    "text": language.gettext("Try again in a minute. If it stays so, tell its administrator."),
                }
            except Exception as error:
                call.outcome, call.error, status = "refused", type(error).__name__, 500
                log.exception("the page failed")
                template = "message.html"
                shown = {
                    "title": language.gettext("The page has failed"),
                    "text": language.gettext("This is a fault of the program, and its log has the reason."),
                }
            except BaseException:
                call.outcome = "cancelled"
                raise
            finally:
                self._audit.write(call)
            return self._answers.page(request, template, language, session, visitor, status, **shown)

        return endpoint

    async def _ask(self, question: Callable[[Archive], T], visitor: Visitor, language: Language) -> T:
        """The answer to a question, which runs in a thread of its own and sees what the visitor may see."""

        def ask(archive: Archive) -> T:
            with times.in_zone(language.zone):
                return question(archive)

        return await self.questions.ask(visitor.access, ask)

    def _search(
        self, request: Request, archive: Archive, language: Language, visitor: Visitor
    ) -> tuple[str, dict[str, Any]]:
        form = SearchForm.of(dict(request.query_params))
        kinds = search_page.kind_names(language.gettext)
        if form.empty:
            chats, people = self._names.of(archive, visitor.access)
            return "home.html", {"form": form, "chats": chats, "people": people, "kinds": kinds}
        page = search_page.search(archive, form, language)
        if backlog := read_backlog(self._config.status_file, restricted=visitor.access.restricted):
            page.gaps.append(note_in(language, backlog))
        return "search.html", {"form": form, "page": page, "kinds": kinds}

    def _chat(
        self, request: Request, archive: Archive, language: Language, _: Visitor
    ) -> tuple[str, dict[str, Any]]:  # fmt: skip
        page = chat_page.read(archive, _id(request.path_params["chat"]), dict(request.query_params), language)
        return "chat.html", {"page": page}

    def _message(
        self, request: Request, archive: Archive, language: Language, _: Visitor
    ) -> tuple[str, dict[str, Any]]:  # fmt: skip
        chat, message = _id(request.path_params["chat"]), _id(request.path_params["message"])
        return "chat.html", {"page": chat_page.read_around(archive, chat, message, language)}

    async def _today(self, request: Request) -> Response:
        """What is new since the last look. The address says since when, so that a reload shows the same."""
        now = datetime.now(UTC)
        if today_page.parse_since(request.query_params.get("since"), now) is not None:
            return await self._archive_page("today", self._news)(request)
        session = self._cookies.session(request) or new_session()
        since = today_page.since_last_look(session.looked, now).replace(microsecond=0)
        answer = RedirectResponse(f"/today?since={since:%Y-%m-%dT%H:%M:%S}", 303, headers={"cache-control": "no-store"})
        if self._admission.visitor(request, session) is not None:
            self._cookies.give(answer, request, replace(session, looked=int(now.timestamp())))
        return answer

    def _news(
        self, request: Request, archive: Archive, language: Language, _: Visitor
    ) -> tuple[str, dict[str, Any]]:  # fmt: skip
        now = datetime.now(UTC)
        since = today_page.parse_since(request.query_params.get("since"), now) or now - today_page.FIRST_LOOK
        chats = today_page.chats(archive, since)
        address = {"since": request.query_params["since"], "mark": today_page.mark(archive, chats, since)}
        return "today.html", {
            "since": since, "news": today_page.read(archive, chats, since), "live": f"/today/live?{urlencode(address)}",
            "messages": sum(chat.messages for chat in chats),
        }  # fmt: skip

    async def _today_live(self, request: Request) -> Response:
        """Server-sent events: the page with this mark is told when there is something new for its visitor."""
        session = self._cookies.session(request)
        visitor = self._admission.visitor(request, session)
        since = today_page.parse_since(request.query_params.get("since"), datetime.now(UTC))
        # A browser does not try again after one of these.
        if visitor is None:
            return Response(status_code=401)
        if since is None or request.method != "GET":
            return Response(status_code=404)
        call = Call(visitor.access.name, None, "live", dict(request.query_params))
        if not self._live.has_room(visitor.access):
            call.outcome, call.error = "refused", "too many pages are open"
            self._audit.write(call)
            return Response(status_code=429)
        until = session.until if session is not None and session.signed_in() else None
        mark = request.query_params.get("mark", "")[:100]
        listener = self._live.open(visitor.access, since, mark, session.id if session else None, until)

        def ended() -> None:
            self._live.close_listener(listener)
            self._audit.write(call)

        return EventStream(listener, ended)

    def _activity(
        self, request: Request, archive: Archive, language: Language, visitor: Visitor
    ) -> tuple[str, dict[str, Any]]:
        form = ActivityForm.of(dict(request.query_params))
        chats, _ = self._names.of(archive, visitor.access)
        page = self._activity_pages.page(archive, visitor.access, form, language)
        return "activity.html", {"page": page, "chats": chats, "spans": activity_page.SPANS}

    def _picture(self, request: Request, archive: Archive, language: Language, visitor: Visitor) -> Picture:
        asked = request.query_params
        form = ActivityForm.of(dict(asked))
        name = request.path_params["picture"]
        return self._activity_pages.picture(archive, visitor.access, form, name, _charts(request), language)

    def _health(
        self, request: Request, archive: Archive, language: Language, visitor: Visitor
    ) -> tuple[str, dict[str, Any]]:
        if not visitor.administrator:
            raise NotFound("the health is for administrators")
        page = health_page.read(self._archive, self._config)
        return "health.html", {
            "page": page, "states": health_page.state_names(language), "note": lambda text: note_in(language, text),
        }  # fmt: skip

    def _lag(self, request: Request, archive: Archive, language: Language, visitor: Visitor) -> Picture:
        if not visitor.administrator:
            raise NotFound("the health is for administrators")
        return health_page.draw_lag(self._archive, _charts(request), language)


def _charts(request: Request) -> Charts:
    return Charts(dark="dark" in request.query_params, narrow="narrow" in request.query_params)


def _svg(picture: Picture) -> Response:
    headers = {"cache-control": "no-store", POLICY: picture.policy}
    return Response(picture.svg, media_type="image/svg+xml", headers=headers)


def _id(text: str) -> str:
    if "\0" in text or len(text) > 400:
        raise NotFound("there is no such id")
    return text
