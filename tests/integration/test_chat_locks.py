"""A transaction that folds a message holds the lock of its chat from before it reads the row until its commit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.harness.batches import CHAT, batch, edited, new, rows
from tests.harness.cluster import on_cluster
from tests.harness.waiting import until
from vkteams_daemon.store.derive import message_rows
from vkteams_daemon.store.ingest import refused_rows
from vkteams_daemon.store.ingest.writer import Writer
from vkteams_daemon.store.rebuild import replay

_LOCKS = "FROM pg_locks WHERE locktype = 'advisory' AND classid = 7691"
_HELD = f"SELECT count(*) {_LOCKS} AND granted AND pid = pg_backend_pid()".encode()
_WAITING = f"SELECT count(*) {_LOCKS} AND NOT granted".encode()


@pytest.fixture
def connect(database_url: str) -> Callable[[], psycopg.Connection[Any]]:
    return lambda: psycopg.connect(database_url, autocommit=True)


@pytest.fixture
def bots(connect: Callable[[], psycopg.Connection[Any]]) -> Iterator[list[Writer]]:
    writers = [Writer(connect, bot) for bot in ("1", "2")]
    for writer in writers:
        until(writer.acquire, 30, "the bot's lock")
    yield writers
    for writer in writers:
        writer.close()


@pytest.mark.parametrize("first", ["replay", "bot"])
def test_edit_waits_for_the_transaction_that_has_read_its_message(
    bots: list[Writer],
    connect: Callable[[], psycopg.Connection[Any]],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    first: str,
) -> None:
    if first == "bot" and on_cluster(database_url):
        pytest.skip("on a cluster one bot stores after the other")
    bots[0].store(batch(new(1, "m", "one")))
    second = threading.Thread(target=lambda: bots[1].store(batch(edited(2, "m", "two", 20))))
    save = message_rows.save_messages

    def saving(connection: psycopg.Connection[Any], *args: Any, **options: Any) -> int:
        monkeypatch.setattr(message_rows, "save_messages", save)
        second.start()
        with connect() as watcher:
            until(lambda: watcher.execute(_WAITING).fetchone() == (1,) or not second.is_alive(), 30, "the other")
        return save(connection, *args, **options)

    monkeypatch.setattr(message_rows, "save_messages", saving)
    if first == "replay":
        with connect() as connection:
            connection.execute("UPDATE messages SET text = 'damaged'")
            replay.everything(connection, erase=False)
    else:
        bots[0].store(batch(edited(3, "m", "three", 30)))
    second.join(30)
    expected = [("(2,two)",)] if first == "replay" else [("(3,three)",)]
    assert rows(database_url, "messages", "version, text") == expected
    earlier = {"replay": [("(1,one)",)], "bot": [("(1,one)",), ("(2,two)",)]}[first]
    assert rows(database_url, "message_versions", "version, text") == earlier


def test_halving_takes_the_locks_of_all_chats_first(
    bots: list[Writer], connect: Callable[[], psycopg.Connection[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If each part took its own locks, two transactions could wait for each other."""
    held: list[int] = []
    write = refused_rows.insert_or_quarantine

    def writing(connection: Any, *args: Any) -> Any:
        held.append((connection.execute(_HELD).fetchone() or (0,))[0])
        with monkeypatch.context() as inside:  # it calls itself for each half
            inside.setattr(refused_rows, "insert_or_quarantine", write)
            return write(connection, *args)

    monkeypatch.setattr(refused_rows, "insert_or_quarantine", writing)
    chats = [CHAT, "second@chat.agent", "third@chat.agent"]
    with connect() as connection:
        different = connection.execute("SELECT count(DISTINCT hashtext(c) & 1023) FROM unnest(%s::text[]) c", (chats,))
        assert different.fetchone() == (3,)
        connection.execute("ALTER TABLE messages ADD CONSTRAINT no_bad CHECK (text <> 'bad')")
        heard = batch(*(new(n, chat=chat, text="bad" if n == 2 else "good") for n, chat in enumerate(chats, 1)))
        assert bots[0].store(heard).quarantined == 1
        connection.execute("ALTER TABLE messages DROP CONSTRAINT no_bad")
        assert replay.quarantined(connection, erase=False).readable == 1
        replay.everything(connection, erase=False)
    assert held == [4, 2, 4], "and the chat of the trial"
