"""The page, as a real process on an archive with rosters.

`page`   the archive of the built-in conversation, behind a proxy; who speaks in a chat is a member
"""

from __future__ import annotations

import html
import http.client
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.harness.mcp import Office, embedded, told
from tests.harness.postgres import PostgresServer
from tests.harness.talk import Talk
from tests.harness.waiting import until

PETR, ADMIN, STRANGER = "p.petrov@corp.example", "s.zhukov@corp.example", "nobody@corp.example"
USER_HEADER = "X-Forwarded-User"
_ROSTERS = (
    "INSERT INTO rosters (chat_id, tried_at, read_at) SELECT chat_id, now(), now() FROM chats"
    " WHERE parent_chat_id IS NULL AND type <> 'private'",
    "INSERT INTO roster_members (chat_id, user_id, since, role)"
    " SELECT DISTINCT m.chat_id, m.user_id, '-infinity'::timestamptz, 'member' FROM messages m"
    " JOIN rosters r ON r.chat_id = m.chat_id WHERE m.user_id IS NOT NULL",
)


class Answer:
    """What the page answered."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.text = response.read().decode("utf-8")

    @property
    def words(self) -> str:
        """What a person reads: the text of the main part without its markup."""
        main = re.sub(r"(?s)^.*<main[^>]*>|</main>.*$", "", self.text)
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", main)).split())

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies that it gave."""
        given = [value.partition(";")[0].partition("=") for value in self.headers.get_all("Set-Cookie") or ()]
        return {name: value for name, _, value in given}


class Page:
    """`vkteamsctl web serve` as a process of its own."""

    def __init__(self, office: Office, address: str = "127.0.0.1:0", *options: str) -> None:
        self.office = office
        before = office.said.stat().st_size if office.said.exists() else 0
        with office.said.open("a", encoding="utf-8") as said:
            self.process = subprocess.Popen(
                office.command("web", "serve", "--http", address, *options), env=office.environ() | {"TZ": "UTC"},
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said,
            )  # fmt: skip
        self.url = until(lambda: self._announced(before), 60, "the page's word where it is")
        self.port = int(self.url.rsplit(":", 1)[1].strip("/"))

    def get(self, path: str, user: str | None = PETR, **headers: str) -> Answer:
        """The answer to a request of this person, as the proxy passes it on."""
        return self.request("GET", path, user, headers)

    def request(
        self, method: str, path: str, user: str | None, headers: dict[str, str], body: str | None = None
    ) -> Answer:
        """The answer to any request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            named = {USER_HEADER: user} if user is not None else {}
            headers = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, {"Accept-Language": "en", **named, **headers})
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def end(self) -> int:
        """End the process; its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(30)

    def _announced(self, before: int) -> str:
        said = self.office.said.read_bytes()[before:].decode()
        assert self.process.poll() is None, said
        found = re.search(r"the page is at (http://\S+)", said)
        return found[1] if found else ""


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def give_rosters(url: str) -> None:
    """Whoever speaks in a chat is a member of it."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in _ROSTERS:
            connection.execute(statement.encode())


@pytest.fixture(scope="session")
def page_url(postgres_server: PostgresServer, tiny_model_dir: Path) -> Iterator[str]:
    """The archive behind the page; for reading only."""
    with postgres_server.fresh() as url:
        told(url)
        hostile(url)
        embedded(url, tiny_model_dir)
        give_rosters(url)
        yield url


@pytest.fixture(scope="session")
def page(page_url: str, tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Iterator[Page]:
    """The page behind a trusted proxy at 127.0.0.1."""
    office = Office(tmp_path_factory.mktemp("page"), page_url, models_dir)
    office.configure(web={"trusted_proxies": ["127.0.0.1"], "administrators": [ADMIN]})
    (office.directory / "state").mkdir()
    page = Page(office)
    yield page
    page.end()


HOSTILE_CHAT = "697777777@chat.agent"
SCRIPT = "<script>alert('zloydey')</script>"
RLO = "\u202e"


def hostile(url: str) -> None:
    """A chat in which every text, name and title wants to be more than a text."""
    talk = Talk(url)
    try:
        who = {"userId": PETR, "firstName": SCRIPT, "lastName": f"{RLO}\"'><img src=x onerror=alert(1)>"}
        chat = {"chatId": HOSTILE_CHAT, "type": "group", "title": f'<b>zloydey</b>{RLO}" onmouseover="alert(1)'}
        number = 900_000

        def say(msg_id: str, text: str, **more: Any) -> None:
            nonlocal number
            number += 1
            talk._number = number
            talk.event("newMessage", msgId=msg_id, timestamp=1_790_000_000 + number, text=text, chat=chat,
                       **{"from": who}, **more)  # fmt: skip

        say("h-script", f"zloydey {SCRIPT} \u200b{RLO}evil &lt;b&gt;")
        say("h-link", "zloydey click", format={"link": [
            {"offset": 0, "length": 7, "url": "javascript:alert(1)"},
            {"offset": 8, "length": 5, "url": "https://evil.example/\"onclick=\"alert(1)"}]})  # fmt: skip
        say("h-data", "zloydey data:text/html,<script>1</script> https://ok.example/a?b=<script>", format={"link": [
            {"offset": 0, "length": 4, "url": " javascript:alert(1)"}, {"offset": -4, "length": 10**30, "url": 7},
            {"offset": 4, "length": 4, "url": "JaVaScRiPt:alert(1)"}], "bold": {"offset": "x"}})  # fmt: skip
        say("h-huge", "zloydey " + "жук " * 30_000)
        say("h-nested", "zloydey bold", format={"bold": [{"offset": n, "length": 4} for n in range(9)] * 400})
        say("h-parts", "zloydey file", parts=[
            {"type": "file", "payload": {"fileId": "1", "filename": SCRIPT, "caption": f"caption {SCRIPT}"}},
            {"type": "forward", "payload": {"message": {"from": who, "text": f"forwarded {SCRIPT}", "msgId": "f"}}},
            {"type": "reply", "payload": {"message": {"from": who, "text": f"quoted {SCRIPT}", "msgId": "gone"}}},
        ])  # fmt: skip
        say("h-'\"><svg onload=alert(1)>/../#?", "zloydey id")
        say("h-marks", "zloydey **bold** ** and * **")
    finally:
        talk.close()
