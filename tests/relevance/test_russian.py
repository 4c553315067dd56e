"""The Russian set, found in a real archive: for each kind the share of queries with a relevant message among five.

The floors are what was measured, less one query. Paraphrases need a model that knows Russian, see `test_paraphrases`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from datetime import UTC, datetime

import psycopg
import pytest

from tests.harness import russian
from tests.harness.postgres import PostgresServer
from vkteams_daemon.botapi import events
from vkteams_daemon.search.archive import Archive, Mode
from vkteams_daemon.store import words
from vkteams_daemon.store.writing import Writer

FIRST = 5
START = 1_760_000_000  # seconds; minute 0 of the set
KINDS = [kind for kind in russian.KINDS if kind != "paraphrase"]


@pytest.fixture(scope="module")
def url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database with the set's messages, and no model."""
    with postgres_server.fresh() as url:
        write(url)
        yield url


@pytest.fixture(scope="module")
def archive(url: str) -> Iterator[Archive]:
    with Archive(url) as archive:
        yield archive


def write(url: str) -> None:
    """Write the messages as events of the Bot API."""
    people = russian.people()
    body = {"ok": True, "events": [_event(n, message, people) for n, message in enumerate(russian.messages(), 1)]}
    connect = functools.partial(psycopg.connect, url, autocommit=True)
    writer = Writer(connect, "1000000001")
    assert writer.acquire()
    writer.store(events.read(json.dumps(body).encode(), datetime.now(UTC)))
    writer.close()
    with connect() as connection:
        words.count(connection)


def _event(number: int, message: russian.Message, people: russian.People) -> dict[str, object]:
    first, last = people.users[message.user]
    payload: dict[str, object] = {
        "msgId": message.id,
        "chat": {"chatId": f"{message.chat}@chat.agent", "type": "group", "title": people.chats[message.chat]},
        "from": {"userId": f"{message.user}@corp.example", "firstName": first, "lastName": last},
        "timestamp": START + 60 * message.minute,
        "text": message.text,
    }
    if message.reply_to:
        payload["parts"] = [{"type": "reply", "payload": {"message": {"msgId": message.reply_to}}}]
    return {"eventId": number, "type": "newMessage", "payload": payload}


def found(archive: Archive, mode: Mode, kind: str) -> tuple[float, list[str]]:
    """The share of the kind's queries that were answered, and those that were not."""
    asked = [query for query in russian.queries() if query.kind == kind]
    missed = []
    for query in asked:
        hits = archive.search(query.query, mode=mode, limit=FIRST).hits
        if not {hit.msg_id for hit in hits} & set(query.relevant):
            missed.append(f"{query.id} {query.query} ({query.meant})")
    return 1 - len(missed) / len(asked), missed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["text", "hybrid"])
def test_kind_is_found(archive: Archive, mode: Mode, kind: str) -> None:
    share, missed = found(archive, mode, kind)
    assert share >= 0.95, f"{mode} {kind}: {share:.3f}; not found: {missed}"
