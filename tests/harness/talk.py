"""An archive that a test fills with messages, through the writer.

`talk`   an archive with `say`, `edit` and `delete`; times are minutes after `START`
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.harness.cluster import on_cluster
from tests.harness.writer import awake
from vkteams_daemon.botapi.events import Event, read
from vkteams_daemon.config import Config
from vkteams_daemon.options import Database as DatabaseOptions
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.ingest.writer import StoreResult, Writer

OPS, DEV = "681869378@chat.agent", "681869379@chat.agent"
ANNA, PETR, VERA = "a.ivanova@corp.example", "p.petrov@corp.example", "v.lis@corp.example"
NAMES = {ANNA: ("Анна", "Иванова"), PETR: ("Пётр", ""), VERA: ("Вера", "Лис")}
TITLES = {OPS: "Эксплуатация", DEV: "Development"}
START = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)


def moment(minutes: float) -> datetime:
    """So many minutes after START."""
    return START + timedelta(minutes=minutes)


class Talk:
    """Chats in which people say things, each in a batch of its own; the test chooses the message ids."""

    def __init__(self, url: str, start: datetime = START) -> None:
        self.url = url
        self.start = start
        self.database = Database(Config(database=DatabaseOptions(url=url, distributed=on_cluster(url))))
        self.database.open(migrate=False)
        self.writer = Writer(self.database.connect, "1000000001", nick="opsbot")
        assert self.writer.acquire()
        self.written: list[Event] = []
        self._number = 0
        self._sent: dict[tuple[str, str], int] = {}

    def say(
        self, msg_id: str, text: str | None, *, at: float = 0, who: str | None = ANNA, chat: str = OPS,
        answers: str = "", below: tuple[str, str] | None = None, parts: tuple[dict[str, Any], ...] = (),
    ) -> None:  # fmt: skip
        """A message `at` minutes after the start; `below` is the message that the chat hangs on as a thread."""
        more: dict[str, Any] = {"text": text} if text is not None else {}
        if answers:
            quoted = {"msgId": answers, "timestamp": int(self.start.timestamp()), "text": "…"}
            parts = ({"type": "reply", "payload": {"message": quoted}}, *parts)
        if below:
            more["parent_topic"] = {"chatId": below[0], "messageId": below[1], "type": "message"}
        if parts:
            more["parts"] = list(parts)
        self._sent[chat, msg_id] = self._at(at)
        self._store("newMessage", msgId=msg_id, timestamp=self._at(at), **self._of(who, chat), **more)

    def edit(self, msg_id: str, text: str, *, at: float = 1, who: str = ANNA, chat: str = OPS) -> None:
        """An edit."""
        times = {"timestamp": self._sent[chat, msg_id], "editedTimestamp": self._at(at)}
        self._store("editedMessage", msgId=msg_id, text=text, **times, **self._of(who, chat))

    def delete(self, msg_id: str, *, chat: str = OPS) -> None:
        """A deletion."""
        self._store("deletedMessage", msgId=msg_id, chat=self._chat(chat), timestamp=self._sent[chat, msg_id])

    def event(self, kind: str, **payload: Any) -> StoreResult:
        """Any other event."""
        return self._store(kind, **payload)

    def many(self, texts: list[str], *, chat: str = OPS, who: str = ANNA, first: int = 1, seconds: int = 60) -> None:
        """Messages `m1`, `m2`, … in one batch, so many seconds apart."""
        events = [
            self._event("newMessage", msgId=f"m{first + n}", text=text, timestamp=self._at(0) + (first + n) * seconds,
                        **self._of(who, chat))
            for n, text in enumerate(texts)
        ]  # fmt: skip
        self._write(events)

    def rows(self, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Rows of a statement on a connection of its own."""
        with self.database.connect() as connection:
            return connection.execute(statement.encode(), arguments or None).fetchall()

    def execute(self, statement: str, *arguments: Any) -> None:
        """Run a statement."""
        with self.database.connect() as connection:
            connection.execute(statement.encode(), arguments or None)

    def connection(self) -> Connection:
        """A connection of the test's own."""
        return self.database.connect()

    def copied(self, url: str) -> Talk:
        """This talk, closed by now, going on in a copy of its database."""
        talk = Talk(url, self.start)
        talk.written, talk._number, talk._sent = list(self.written), self._number, dict(self._sent)
        return talk

    def close(self) -> None:
        """Close every connection."""
        self.writer.close()
        self.database.close()

    def _store(self, kind: str, **payload: Any) -> StoreResult:
        return self._write([self._event(kind, **payload)])

    def _write(self, events: list[dict[str, Any]]) -> StoreResult:
        body = json.dumps({"ok": True, "events": events}, ensure_ascii=False).encode()
        batch = read(body, datetime.now(UTC))
        self.written += batch
        return awake(self.writer).store(batch)

    def _event(self, kind: str, **payload: Any) -> dict[str, Any]:
        self._number += 1
        return {"eventId": self._number, "type": kind, "payload": payload}

    def _at(self, minutes: float) -> int:
        return int((self.start + timedelta(minutes=minutes)).timestamp())

    def _of(self, who: str | None, chat: str) -> dict[str, Any]:
        if who is None:
            return {"chat": self._chat(chat)}
        first, last = NAMES.get(who, ("", ""))
        names = {key: name for key, name in (("firstName", first), ("lastName", last)) if name}
        return {"chat": self._chat(chat), "from": {"userId": who, **names}}

    def _chat(self, chat: str) -> dict[str, str]:
        title = {"title": TITLES[chat]} if chat in TITLES else {}
        return {"chatId": chat, "type": "group" if chat.endswith("@chat.agent") else "private", **title}


@pytest.fixture
def talk(database_url: str) -> Iterator[Talk]:
    """An empty archive to talk in."""
    talk = Talk(database_url)
    yield talk
    talk.close()
