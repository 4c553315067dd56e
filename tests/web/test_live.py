"""The page of what is new, while it is open: it is told when there is something new for its visitor, and only then."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import pytest

from tests.harness.talk import ANNA, DEV, OPS, PETR, VERA, Talk
from vkteams_daemon.config import Config
from vkteams_daemon.options import Database as DatabaseOptions
from vkteams_daemon.options import Oidc, Web
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.serving.audit import Audit
from vkteams_daemon.system.redaction import Secrets
from vkteams_daemon.web import live as live_module
from vkteams_daemon.web.application import Application
from vkteams_daemon.web.live import MAX_STREAMS_OF_ONE, Live
from vkteams_daemon.web.session import Sessions, new_session
from vkteams_daemon.web.visitor import Admission

PROXY = "192.0.2.1"
ISSUER = Oidc(issuer="https://sso.corp.example", client_id="page")


class Stream:
    """One request to the application, in the loop of the test."""

    def __init__(
        self, app: Application, path: str, headers: dict[str, str], method: str = "GET", body: str = ""
    ) -> None:
        self.body = b""
        self.status = 0
        self._gone = asyncio.Event()
        self._request = body.encode()
        self._asked = False
        path, _, query = path.partition("?")
        scope = {
            "type": "http", "method": method, "path": path, "query_string": query.encode(), "scheme": "http",
            "headers": [(name.encode(), value.encode()) for name, value in {"host": "127.0.0.1", **headers}.items()],
            "client": (PROXY, 1), "server": ("127.0.0.1", 80), "http_version": "1.1", "root_path": "",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
        }  # fmt: skip
        self.task = asyncio.get_running_loop().create_task(app.asgi(scope, self._receive, self._send))  # type: ignore[arg-type]

    async def end(self) -> Stream:
        """Wait for the end of the answer."""
        async with asyncio.timeout(20):
            await self.task
        return self

    async def leave(self) -> None:
        """The browser closes the page."""
        self._gone.set()
        await self.end()

    @property
    def told(self) -> bool:
        """Whether it has said that there is something new."""
        return b"event: news" in self.body

    async def _receive(self) -> Any:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._request, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.status = message.get("status", self.status)
        self.body += message.get("body", b"")


class Served:
    """The application on an archive in which Petr is in one chat, with its open pages."""

    def __init__(self, talk: Talk, archive: Archive) -> None:
        self.talk, self.archive = talk, archive
        self.live = Live(archive, interval=0.02)
        self.sessions = Sessions(b"k" * 32)
        web = Web(trusted_proxies=(PROXY,))
        config = Config(database=DatabaseOptions(url=talk.url), web=web)
        self.app = Application(
            config, archive, Admission(web, ISSUER), self.sessions, Audit(Secrets(), "http", face="web"), "127.0.0.1",
            live=self.live,
        )  # fmt: skip
        self.looks = 0
        look = self.live._look

        def counted(listeners: Any) -> Any:
            told = look(listeners)
            self.looks += 1
            return told

        self.live._look = counted  # type: ignore[method-assign]

    async def open(self, user: str = PETR, **headers: str) -> Stream:
        """Load the page and begin to listen, as its script does."""
        sent = headers or {"x-forwarded-user": user}
        since = self.talk.start.strftime("%Y-%m-%dT%H:%M:%S")
        page = await Stream(self.app, f"/today?since={since}", sent).end()
        address = re.search(r'data-live="([^"]+)"', page.body.decode())
        assert address, page.body
        return Stream(self.app, unescape(address[1]), sent)

    async def looked(self, times: int = 2) -> None:
        """Wait until it has looked at the archive so many times from now on."""
        looks = self.looks
        await until(lambda: self.looks >= looks + times)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def served(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    talk = Talk(database_url, datetime.now(UTC) - timedelta(minutes=30))
    talk.say("1", "good morning", who=PETR)
    talk.say("2", "another chat", who=VERA, chat=DEV)
    for chat, user in ((OPS, PETR), (OPS, ANNA), (DEV, VERA)):
        talk.execute(
            "INSERT INTO rosters (chat_id, tried_at, read_at) VALUES (%s, now(), now()) ON CONFLICT DO NOTHING", chat
        )
        talk.execute(
            "INSERT INTO roster_members (chat_id, user_id, since, role) VALUES (%s, %s, '-infinity', 'member')",
            chat,
            user,
        )
    monkeypatch.setattr(live_module, "_SHARE", 0)
    with Archive(talk.url) as archive:
        yield Served(talk, archive)
    talk.close()


@asynccontextmanager
async def closing(served: Served) -> AsyncIterator[None]:
    try:
        yield
    finally:
        served.live.close()
        await asyncio.sleep(0)


def test_a_page_is_told_what_is_new_in_the_visitors_chats_alone(served: Served) -> None:
    async def story() -> None:
        async with closing(served):
            mine, hers = await served.open(), await served.open(VERA)
            await served.looked()
            served.talk.say("3", "a word", at=1, who=VERA, chat=DEV)
            await hers.end()
            await served.looked()
            assert hers.told and not mine.told and not mine.task.done()
            served.talk.say("4", "an answer", at=2, who=ANNA)
            await mine.end()
            assert mine.told and mine.status == 200
            # What was said between the page and its stream is told at once.
            late = await served.open()
            served.talk.delete("4")
            await late.end()
            assert late.told
            # An edit as well, and each further one; not an edit in a chat of others.
            for text in ("a better word", "the best word"):
                edited, foreign = await served.open(), await served.open(VERA)
                await served.looked()
                served.talk.edit("1", text, who=PETR, at=len(text))
                await edited.end()
                await served.looked()
                assert edited.told and not foreign.told
                await foreign.leave()

    asyncio.run(story())


def test_who_is_removed_from_a_chat_sees_no_more_of_it(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with closing(served):
            page = await served.open()
            await served.looked()
            served.talk.execute(
                "UPDATE roster_members SET until = now() WHERE chat_id = %s AND user_id = %s", OPS, PETR
            )
            served.talk.say("3", "about Petr", at=1, who=ANNA)
            await page.end()
            assert page.told, "the page loads itself again, without the chat"
            later = await served.open()
            served.talk.say("4", "more about Petr", at=2, who=ANNA)
            await served.looked()
            assert not later.told
            await later.leave()
            # Without a word in any chat, too.
            monkeypatch.setattr(live_module, "_RECHECK", 0.0)
            hers = await served.open(VERA)
            served.talk.execute("UPDATE roster_members SET until = now() WHERE user_id = %s", VERA)
            await hers.end()
            assert hers.told

    asyncio.run(story())


def test_a_stream_ends_with_the_sign_in(served: Served) -> None:
    async def story() -> None:
        async with closing(served):
            session = replace(new_session(), user=PETR, until=int(time.time()) + 3600)
            cookie = f"vkteams={served.sessions.write(session)}"
            page, other = await served.open(cookie=cookie), await served.open(VERA)
            await served.looked()
            form = f"token={served.sessions.form_token(session)}"
            out = await Stream(served.app, "/sign-out", {"cookie": cookie}, "POST", form).end()
            await page.end()
            assert out.status == 200 and not page.told and not other.task.done()
            short = replace(new_session(), user=PETR, until=int(time.time()) + 2)
            ending = await served.open(cookie=f"vkteams={served.sessions.write(short)}")
            await ending.end()
            assert not ending.told and time.time() < short.until + 5
            assert (await Stream(served.app, "/today/live?since=2026-01-01", {}).end()).status == 401

    asyncio.run(story())


def test_streams_are_bounded_hold_no_connection_and_end_with_the_server(served: Served) -> None:
    async def story() -> None:
        pages = [await served.open() for _ in range(MAX_STREAMS_OF_ONE)]
        more = await (await served.open()).end()
        assert more.status == 429
        await served.looked(3)
        pool = served.archive._database.pool
        await until(lambda: pool.get_stats()["pool_available"] == pool.get_stats()["pool_size"])
        asked = pool.get_stats()["requests_num"]
        looks = served.looks
        await served.looked(3)
        assert pool.get_stats()["requests_num"] - asked <= served.looks - looks + 1, "one question for all of them"
        await pages[0].leave()
        again = await served.open()
        await served.looked()
        assert not again.task.done()
        served.live.close()
        for page in (*pages, again):
            await page.end()
            assert not page.told and page.status == 200

    asyncio.run(story())
