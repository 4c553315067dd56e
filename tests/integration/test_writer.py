"""One batch is one transaction: which events are stored, and the cursor afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.harness.batches import (
    CHAT,
    SENT,
    batch,
    deleted,
    edited,
    event,
    members,
    new,
    pinned,
    record_lookups,
    rows,
    unpinned,
)
from tests.harness.waiting import until
from vkteams_daemon.errors import AlreadyRunning
from vkteams_daemon.store.admin import cursors
from vkteams_daemon.store.derive import message_fold
from vkteams_daemon.store.ingest.writer import StoreResult, Writer

BOT = "1000000001"


class Bot(Writer):
    """A writer that holds its lock, with queries for the rows that it has written."""

    def __init__(self, url: str, bot_id: str = BOT, **options: Any) -> None:
        self.url = url
        super().__init__(self._open_connection, bot_id, **options)
        until(self.acquire, 30, "the bot's lock")

    def _open_connection(self) -> psycopg.Connection[tuple[Any, ...]]:
        self.connection = psycopg.connect(self.url, autocommit=True)
        return self.connection

    def ids(self) -> list[int]:
        return [int(row[0]) for row in self.ask("SELECT event_id FROM events ORDER BY event_id")]

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as connection:
            return connection.execute(statement.encode()).fetchall()

    def text(self, msg_id: str) -> str | None:
        with psycopg.connect(self.url) as connection:
            row = connection.execute("SELECT text FROM messages WHERE msg_id = %s", (msg_id,)).fetchone()
        assert row, f"no message {msg_id}"
        return row[0]  # type: ignore[no-any-return]

    @property
    def last(self) -> int:
        assert self.cursor
        stored = self.ask(f"SELECT last_event_id, generation, epoch FROM bots WHERE bot_id = '{self._bot_id}'")
        assert stored == [(self.cursor.last_event_id, self.cursor.generation, self.cursor.epoch)]
        return self.cursor.last_event_id


@pytest.fixture
def bot(database_url: str) -> Iterator[Bot]:
    writer = Bot(database_url)
    yield writer
    writer.close()


@pytest.fixture
def open_bot(database_url: str) -> Iterator[Callable[..., Bot]]:
    made: list[Bot] = []

    def make(bot_id: str = BOT, **options: Any) -> Bot:
        made.append(Bot(database_url, bot_id, **options))
        return made[-1]

    yield make
    for writer in made:
        writer.close()


@pytest.mark.parametrize("size", [1, 150, 1000])
def test_one_transaction_for_a_batch_of_any_size(bot: Bot, size: int) -> None:
    for n in range(7):  # past the point where the driver begins to prepare statements
        bot.store(batch(*(new(n * size + i + 1, chat=f"c{n}", **{"from": {"userId": f"u{n}"}}) for i in range(size))))
    # Each row carries the transaction that wrote it.
    for table in ("events", "messages"):
        assert bot.ask(f"SELECT count(DISTINCT xmin::text) FROM {table}") == [(7,)]
    last = "(SELECT xmin::text FROM bots)"
    for table in ("events", "messages"):
        assert bot.ask(f"SELECT count(*) FROM {table} WHERE xmin::text = {last}") == [(size,)]
    for table in ("chats", "users"):
        assert bot.ask(f"SELECT count(*) FROM {table} WHERE xmin::text = {last}") == [(1,)]


def test_ten_thousand_events_in_one_batch(bot: Bot) -> None:
    events = batch(*(new(n, text=f"message {n}") for n in range(1, 10_001)))
    assert bot.store(events) == StoreResult(saved=10_000, queued=10_000, moved=True)
    assert bot.last == 10_000
    assert bot.ask("SELECT count(*), count(DISTINCT text) FROM messages") == [(10_000, 10_000)]


def test_messages_are_looked_up_once_another_bot_has_stored_one(
    open_bot: Callable[..., Bot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many new messages are inserted without a lookup, until the database refuses one as stored."""
    lookups = record_lookups(monkeypatch)
    first, second = open_bot("1"), open_bot("2")
    heard = [new(n) for n in range(1, 601)]
    edits = [edited(n + 1000, f"m{n}", "edited") for n in (7, 601)]
    first.store(batch(*heard[:300], deleted(2000, "m9")))
    first.store(batch(edits[0]))
    assert lookups == [1], "a message of the same batch needs no lookup"
    assert second.store(batch(*heard, edits[0], new(601), edits[1])) == StoreResult(saved=603, queued=301, moved=True)
    assert second.store(batch(*(new(n) for n in range(3001, 3301)))) == StoreResult(saved=300, queued=300, moved=True)
    assert lookups[1:] == [601, 300]
    assert first.ask("SELECT count(*), count(*) FILTER (WHERE version = 2), count(deleted_at) FROM messages") == [
        (901, 2, 1)
    ]
    assert first.ask("SELECT msg_id, text FROM message_versions ORDER BY 1") == [("m601", "hello"), ("m7", "hello")]


def test_new_message_takes_three_round_trips(bot: Bot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The beginning and the fence; the rows and the cursor; the commit. Each wait lets other programs come first."""
    for n in range(1, 9):  # past the point where the driver begins to prepare statements
        bot.store(batch(new(n)))
    lookups = record_lookups(monkeypatch)
    with (tmp_path / "trace").open("w") as trace:
        bot.connection.pgconn.trace(trace.fileno())
        assert bot.store(batch(new(9))) == StoreResult(saved=1, queued=1, moved=True)
        bot.connection.pgconn.untrace()
    assert (tmp_path / "trace").read_text().count("ReadyForQuery") == 3
    assert lookups == []


def test_small_batches_are_looked_up_once_another_bot_has_stored_a_message(
    open_bot: Callable[..., Bot], monkeypatch: pytest.MonkeyPatch
) -> None:
    lookups = record_lookups(monkeypatch)
    first, second = open_bot("1"), open_bot("2")
    first.store(batch(new(1), new(2)))
    assert lookups == []
    assert second.store(batch(new(1), new(2, text="said again"), new(3))) == StoreResult(saved=3, queued=2, moved=True)
    assert second.store(batch(new(4))) == StoreResult(saved=1, queued=1, moved=True)
    assert lookups == [3, 1]
    assert first.ask("SELECT msg_id, version FROM messages ORDER BY 1") == [("m1", 1), ("m2", 2), ("m3", 1), ("m4", 1)]


def test_payload_is_stored_as_received(bot: Bot) -> None:
    bot.store(batch(new(7, "m1", "Привет, ёж", extra={"a": [1, None]})))
    (stored,) = bot.ask("SELECT type, chat_id, user_id, subject, payload, raw, error FROM events")
    assert stored[:4] == ("newMessage", CHAT, "a.ivanova@corp.example", "m1")
    assert stored[4]["extra"] == {"a": [1, None]}
    assert stored[5:] == (None, None)
    assert bot.text("m1") == "Привет, ёж"


def test_repeated_batch_is_all_duplicates(bot: Bot) -> None:
    events = batch(new(1), new(2), edited(3, "m1", "x"))
    bot.store(events)
    before = {table: rows(bot.url, table) for table in ("events", "messages", "message_versions", "bots")}
    assert bot.store(events) == StoreResult(duplicate=3)
    assert {table: rows(bot.url, table) for table in before} == before


def test_repetition_within_a_batch_is_a_duplicate(bot: Bot) -> None:
    assert bot.store(batch(new(1), new(1), new(2))) == StoreResult(saved=2, duplicate=1, queued=2, moved=True)


def test_late_event_is_stored_and_takes_the_cursor_back(bot: Bot) -> None:
    """It may be the first id after an undetected id restart: 4 may be undelivered."""
    bot.store(batch(new(1), new(5)))
    outcome = bot.store(batch(new(3)))
    assert (outcome.saved, outcome.late, outcome.moved) == (1, 1, True)
    assert bot.last == 3
    assert bot.store(batch(new(5))) == StoreResult(duplicate=1, moved=True)
    assert bot.last == 5
    assert bot.ids() == [1, 3, 5]


def test_late_event_before_new_ones_leaves_the_cursor_at_the_last(bot: Bot) -> None:
    bot.store(batch(new(1), new(5)))
    assert bot.store(batch(new(3), new(7))).late == 1
    assert bot.last == 7


def test_cursor_follows_restarted_ids_in_gaps_until_they_collide(bot: Bot) -> None:
    bot.store(batch(*(new(number) for number in range(10, 101, 10))))
    for number in (1, 2):
        bot.store(batch(new(number, f"n{number}")))
        assert bot.last == number, "events above it are not delivered yet"
    outcome = bot.store(batch(*(new(number, f"n{number}") for number in range(3, 13))))
    assert outcome.restarted and (bot.last, bot.cursor and bot.cursor.generation) == (12, 2)
    assert len(bot.ids()) == 10 + 12


def test_cursor_follows_restarted_ids_of_filtered_events(open_bot: Callable[..., Bot]) -> None:
    bot = open_bot(chat_ids=[CHAT])
    bot.store(batch(new(100)))
    bot.store(batch(new(1, chat="other@chat.agent"), new(2, chat="other@chat.agent")))
    assert bot.last == 2
    bot.store(batch(new(3)))
    assert bot.last == 3 and bot.ids() == [3, 100]


def test_id_restart_within_a_batch_splits_it_into_two_generations(bot: Bot) -> None:
    bot.store(batch(*(new(number) for number in range(1, 998))))
    outcome = bot.store(batch(*(new(n) for n in (998, 999, 1000)), *(new(n, f"n{n}") for n in (1, 2, 3))))
    assert (outcome.saved, outcome.restarted) == (6, True)
    assert (bot.last, bot.cursor and bot.cursor.generation) == (3, 2)
    assert bot.ask("SELECT event_id FROM events WHERE generation = 2 ORDER BY 1") == [(1,), (2,), (3,)]
    assert not bot.store(batch(new(4, "n4"))).restarted


def test_event_from_before_an_id_restart_is_a_duplicate_in_the_next_batch(bot: Bot) -> None:
    bot.store(batch(*(new(number) for number in range(1, 8))))
    assert bot.store(batch(new(8), new(9), new(1, "n1"))).restarted
    assert bot.store(batch(new(2, "n2"), new(9), new(10, "n10"))) == StoreResult(
        saved=2, duplicate=1, queued=2, moved=True
    )
    assert (bot.last, len(bot.ids())) == (10, 9 + 3)


def test_event_above_a_lowered_cursor_is_a_duplicate(bot: Bot) -> None:
    bot.store(batch(new(1000)))
    assert bot.store(batch(new(1001), new(3))).late == 1
    assert bot.last == 3
    assert bot.store(batch(new(1001))) == StoreResult(duplicate=1, moved=True)
    other = [new(1001, "a"), new(1000, "b")]
    assert bot.store(batch(*other)).restarted and bot.last == 1000
    assert bot.store(batch(other[0])) == StoreResult(duplicate=1, moved=True)
    assert bot.last == 1001


def test_two_events_under_one_id_may_come_again_in_another_order(bot: Bot) -> None:
    one, other = new(5, "m1", "one"), new(5, "m2", "two")
    assert bot.store(batch(one, other)).saved == 2
    for again in ((other, one), (one, other), (one,), (other,)):
        assert bot.store(batch(*again)) == StoreResult(duplicate=len(again))
    bot.store(batch(new(6, "m6", "six")))
    assert bot.store(batch(new(6, "m7", "seven"), new(6, "m6", "six"))).saved == 1
    assert len(bot.ids()) == 4


def test_reformatted_unreadable_event_opens_no_generation(bot: Bot) -> None:
    bot.store(batch('{"eventId":1,"type":"newMessage","payload":{"msgId":"m1","b":2}}', new(2)))
    assert bot.store(batch('{"eventId":1,"type":"newMessage","payload":{"b":2, "msgId":"m1"}}', new(2))).duplicate == 2
    assert (bot.last, bot.ids()) == (2, [1, 2])


def test_event_of_a_thread_may_precede_the_thread_in_its_batch(open_bot: Callable[..., Bot]) -> None:
    bot = open_bot(chat_ids=[CHAT])
    said = new(
        1, "t1", "first", chat="thread@chat.agent", parent_topic={"chatId": CHAT, "messageId": "m0", "type": "thread"}
    )
    events = batch(deleted(3, "t1", chat="thread@chat.agent"), edited(2, "t1", "x", chat="thread@chat.agent"), said)
    assert bot.store(events).saved == 3


def test_gap_is_passed_over(bot: Bot) -> None:
    bot.store(batch(new(10), new(1000)))
    assert bot.last == 1000


def test_unordered_batch_moves_the_cursor_to_its_highest_id(bot: Bot) -> None:
    bot.store(batch(edited(9, "m3", "second"), new(3, text="first")))
    assert bot.last == 9
    assert bot.text("m3") == "second"


def test_event_without_a_usable_id_is_stored_once_and_moves_nothing(bot: Bot) -> None:
    nameless = [new(value, "m") for value in (None, "x", -5, 2**63, 1.5, True)]
    assert bot.store(batch(*nameless)).saved == 6
    assert bot.store(batch(*nameless)) == StoreResult(duplicate=6)
    assert bot.last == 0
    assert len(bot.ids()) == 6
    assert all(event_id < 0 for event_id in bot.ids())


def test_second_event_with_an_id_of_its_batch_gets_a_hash_key(bot: Bot) -> None:
    twins = [new(4, "a"), new(4, "b")]
    outcome = bot.store(batch(*twins))
    assert (outcome.saved, outcome.restarted) == (2, False)
    assert bot.text("a") == bot.text("b") == "hello"
    assert bot.last == 4
    assert bot.store(batch(*twins)) == StoreResult(duplicate=2)
    assert bot.store(batch(twins[1])) == StoreResult(duplicate=1), "alone it is still the same event"


def test_id_restart_opens_a_generation(bot: Bot) -> None:
    bot.store(batch(new(1, "a"), new(2, "b"), new(3, "c")))
    outcome = bot.store(batch(new(1, "x"), new(2, "y")))
    assert (outcome.restarted, outcome.saved, outcome.moved) == (True, 2, True)
    assert bot.cursor
    assert bot.cursor.generation == 2
    assert bot.last == 2
    assert bot.ask("SELECT generation, event_id FROM events ORDER BY 1, 2") == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)]
    assert bot.store(batch(new(3, "z"))).saved == 1, "an id of the old generation is new in this one"
    assert not bot.store(batch(new(1, "x"))).saved


def test_same_event_with_another_payload_opens_no_generation(bot: Bot) -> None:
    bot.store(batch(new(1, "a", "hello")))
    assert bot.store(batch(new(1, "a", "hello", added="field"))) == StoreResult(duplicate=1)


def test_quarantined_event_that_comes_again_is_no_restart(bot: Bot) -> None:
    broken = event(1, "newMessage", msgId="a")
    assert bot.store(batch(broken)).quarantined == 1
    assert bot.store(batch(broken)) == StoreResult(duplicate=1)
    other = event(1, "newMessage", msgId="b")
    for outcome in (bot.store(batch(other)), bot.store(batch(new(2)))):
        assert (outcome.saved, outcome.restarted) == (1, False), "an unreadable event proves no restart, and is stored"
    assert bot.store(batch(other)) == bot.store(batch(broken)) == StoreResult(duplicate=1)
    assert bot.store(batch(new(2, "another"), other)).restarted


def test_quarantined_event_read_by_a_later_version_is_no_restart(bot: Bot) -> None:
    bot.store(batch(new(1, "a")))
    with psycopg.connect(bot.url) as connection:
        # As a version stored it that could make nothing of it but its bytes.
        source = batch(new(1, "a"))[0].json.encode()
        connection.execute(
            "UPDATE events SET error = 'unknown', raw = %s, chat_id = NULL, subject = NULL, payload = NULL", (source,)
        )
    assert bot.store(batch(new(1, "a"))) == StoreResult(duplicate=1)


def test_cursor_set_back_by_hand_brings_only_duplicates(bot: Bot) -> None:
    events = batch(*(new(n) for n in range(1, 8)))
    bot.store(events)
    bot.close()
    cursors.set_cursor(lambda: psycopg.connect(bot.url, autocommit=True), BOT, 3)
    until(bot.acquire, 30, "the bot's lock")
    outcome = bot.store(events[3:] + batch(new(8)))
    assert (outcome.duplicate, outcome.saved, outcome.quarantined) == (4, 1, 0)
    assert bot.last == 8


def test_cursor_is_not_set_by_a_process_that_has_lost_the_lock_meanwhile(bot: Bot) -> None:
    bot.store(batch(new(1), new(2)))
    bot.close()
    opened: list[psycopg.Connection[Any]] = []

    def connect() -> psycopg.Connection[Any]:
        if opened:  # between its two connections it was stopped, and a daemon has taken over
            opened[0].close()
            until(bot.acquire, 30, "the bot's lock")
        opened.append(psycopg.connect(bot.url, autocommit=True))
        return opened[-1]

    with pytest.raises(AlreadyRunning, match=f"a daemon listens with bot {BOT}"):
        cursors.set_cursor(connect, BOT, 1)
    assert bot.store(batch(new(3))).saved == 1
    assert bot.last == 3


def test_cursor_set_back_moves_on_even_when_all_are_duplicates(bot: Bot) -> None:
    events = batch(*(new(n) for n in range(1, 8)))
    bot.store(events)
    bot.close()
    cursors.set_cursor(lambda: psycopg.connect(bot.url, autocommit=True), BOT, 3)
    until(bot.acquire, 30, "the bot's lock")
    assert bot.store(events[3:]) == StoreResult(duplicate=4, moved=True)
    assert bot.last == 7


def test_generation_opened_by_hand_stores_old_ids_again_and_messages_once(bot: Bot) -> None:
    bot.store(batch(new(1), new(2)))
    bot.close()
    cursors.restart_cursor(lambda: psycopg.connect(bot.url, autocommit=True), BOT)
    until(bot.acquire, 30, "the bot's lock")
    assert bot.last == 0
    assert bot.store(batch(new(1), new(2))).saved == 2
    assert bot.ask("SELECT count(*) FROM events") == [(4,)]
    assert bot.ask("SELECT count(*) FROM messages") == [(2,)]


def test_filter_drops_other_chats_and_the_cursor_passes(open_bot: Callable[..., Bot]) -> None:
    bot = open_bot(chat_ids=["Ours@corp.example"])
    outcome = bot.store(batch(new(1, chat="ours@Corp.example"), new(2, chat="theirs"), new(9, chat="theirs")))
    assert (outcome.saved, outcome.filtered) == (1, 2)
    assert bot.last == 9
    assert bot.ids() == [1]
    assert bot.store(batch(new(12, chat="theirs"))) == StoreResult(filtered=1, moved=True)


def test_thread_follows_its_parent_through_the_filter(open_bot: Callable[..., Bot]) -> None:
    topic = {"chatId": "1@chat.agent", "messageId": 7, "type": "message"}
    bot = open_bot(chat_ids=["1@Chat.Agent"])
    bot.store(batch(new(1, chat="thread", parent_topic=topic), new(2, chat="thread"), new(3, chat="other")))
    assert bot.ids() == [1, 2]
    bot.close()
    again = open_bot(chat_ids=["1@CHAT.AGENT"])
    again.store(batch(new(4, chat="thread")))
    assert again.ids() == [1, 2, 4], "it is known from the database"


def test_thread_that_another_bot_has_learned_of_passes_the_filter(open_bot: Callable[..., Bot]) -> None:
    topic = {"chatId": "ours", "messageId": 7, "type": "message"}
    bot, other = open_bot(chat_ids=["ours"]), open_bot("2", chat_ids=["ours"])
    other.store(batch(new(1, chat="thread", parent_topic=topic)))
    assert bot.store(batch(new(1, "m2", chat="thread"), new(2, chat="other"))).saved == 1
    assert bot.store(batch(new(3, chat="thread"))).saved == 1


def test_event_without_a_chat_passes_the_filter(open_bot: Callable[..., Bot]) -> None:
    bot = open_bot(chat_ids=["ours"])
    assert bot.store(batch(event(1, "callbackQuery", queryId="q"), event(2, "newMessage"))).saved == 2


def test_members_come_and_go(bot: Bot) -> None:
    bot.store(batch(members(1, "newChatMembers", "p", "q", by="boss")))
    bot.store(batch(members(2, "leftChatMembers", "p", by="boss2"), members(3, "newChatMembers", "q")))
    found = bot.ask("SELECT user_id, left_at IS NULL, added_by, removed_by FROM chat_members ORDER BY 1")
    assert found == [("p", False, "boss", "boss2"), ("q", True, None, None)]
    bot.store(batch(members(4, "newChatMembers", "p")))
    assert bot.ask("SELECT left_at, added_by, removed_by FROM chat_members WHERE user_id = 'p'") == [(None, None, None)]


def test_newest_names_win_and_missing_ones_stay(bot: Bot) -> None:
    def said(event_id: int, **names: str) -> dict[str, Any]:
        return new(event_id, **{"from": {"userId": "u", **names}})

    bot.store(batch(said(1, firstName="A", nick="n"), said(2, firstName="B")))
    bot.store(batch(said(3, lastName="L"), event(4, "changedChatInfo", chat={"chatId": CHAT}, title="New")))
    assert bot.ask("SELECT first_name, last_name, nick FROM users WHERE user_id = 'u'") == [("B", "L", "n")]
    assert bot.ask("SELECT title FROM chats") == [("New",)]


def test_pin_and_unpin(bot: Bot) -> None:
    bot.store(batch(new(1, "m"), pinned(2, "m", "hello")))
    assert bot.ask("SELECT pinned_at IS NOT NULL, version FROM messages") == [(True, 1)]
    bot.store(batch(unpinned(3, "m")))
    assert bot.ask("SELECT pinned_at FROM messages") == [(None,)]


@pytest.mark.parametrize("together", [True, False])
def test_erasing_blanks_the_message_its_versions_and_its_events(bot: Bot, together: bool) -> None:
    bot.erase = True
    story = [new(1, "m", "secret"), edited(2, "m", "still secret"), new(3, "other", "public"), deleted(4, "m")]
    for part in [story] if together else [[item] for item in story]:
        bot.store(batch(*part))
    assert bot.text("m") is None
    assert bot.ask("SELECT version, text FROM message_versions") == [(1, None)]
    assert bot.ask("SELECT event_id FROM events WHERE payload IS NULL ORDER BY 1") == [(1,), (2,), (4,)]
    assert bot.ask("SELECT count(*) FROM events WHERE chat_id IS NULL OR subject IS NULL") == [(0,)]
    assert "secret" not in str([rows(bot.url, table) for table in ("events", "messages", "message_versions")])


def test_erasing_blanks_every_one_of_many_versions(bot: Bot) -> None:
    bot.erase = True
    bot.store(batch(new(1, "m", "secret 0")))
    for n in range(1, 5):
        bot.store(batch(edited(n + 1, "m", f"secret {n}", 10 * n)))
    bot.store(batch(deleted(9, "m")))
    assert bot.ask("SELECT version, text FROM message_versions ORDER BY 1") == [(n, None) for n in range(1, 5)]


@pytest.mark.parametrize("order", ["before", "together", "after", "another bot"])
def test_a_reply_loses_the_quote_of_an_erased_message(bot: Bot, open_bot: Callable[..., Bot], order: str) -> None:
    quote = {"msgId": "m", "from": {"userId": "u"}, "text": "secret", "timestamp": SENT}
    parts = [{"type": "reply", "payload": {"message": quote}}]
    said, gone = new(1, "m", "secret"), deleted(2, "m")
    replies = [new(3, "r", "public", parts=parts), edited(4, "r", "public again", parts=parts), new(5, "s", "other")]
    bot.erase = True
    if order == "before":
        bot.store(batch(said, {**replies[0], "eventId": 2}))
        bot.store(batch({**gone, "eventId": 3}, *replies[1:]))
    elif order == "together":
        bot.store(batch(said, gone, *replies))
    else:
        bot.store(batch(said, gone))
        other = bot if order == "after" else open_bot("another")
        other.erase = True
        other.store(batch(*replies))
    assert bot.ask("SELECT msg_id, text, reply_to_msg_id FROM messages WHERE deleted_at IS NULL ORDER BY 1") == [
        ("r", "public again", "m"), ("s", "other", None),
    ]  # fmt: skip
    left = [{"type": "reply", "payload": {"message": {key: quote[key] for key in ("msgId", "timestamp", "from")}}}]
    assert bot.ask("SELECT parts FROM messages WHERE msg_id = 'r' UNION ALL SELECT parts FROM message_versions") == [
        (left,), (left,),
    ]  # fmt: skip
    everything = str([rows(bot.url, table) for table in ("events", "messages", "message_versions")])
    assert "secret" not in everything
    assert everything.count("public again") == 2
    assert bot.ask("SELECT count(*) FROM messages WHERE search @@ 'secret'::tsquery") == [(0,)]


def test_a_reply_keeps_the_quote_of_a_deleted_message_that_is_kept(bot: Bot) -> None:
    parts = [{"type": "reply", "payload": {"message": {"msgId": "m", "text": "said"}}}]
    bot.store(batch(new(1, "m", "said"), new(2, "r", "yes", parts=parts), deleted(3, "m")))
    assert bot.ask("SELECT msg_id FROM messages WHERE deleted_at IS NULL AND search @@ 'said'::tsquery") == [("r",)]


def test_late_edit_of_an_erased_message_is_erased(bot: Bot) -> None:
    bot.erase = True
    bot.store(batch(new(1, "m", "secret"), deleted(3, "m")))
    bot.store(batch(edited(2, "m", "secret again")))
    assert bot.text("m") is None
    assert "secret" not in str([rows(bot.url, table) for table in ("events", "messages", "message_versions")])


@pytest.mark.parametrize("count", [1, 300])
def test_later_events_of_other_types_about_an_erased_message_are_erased(
    bot: Bot, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    bot.erase = True
    bot.store(batch(new(1, "m", "secret"), deleted(2, "m"), new(3, "kept", "public")))
    chat = {"chatId": CHAT}
    about = [
        event(10 * n, kind, msgId=msg_id, chat=chat, text=text)
        for n in range(1, count + 1)
        for kind, msg_id, text in [("messageReaction", "m", "secret")]
    ]
    bot.store(batch(*about, event(10_000, "messageReaction", msgId="kept", chat=chat, text="public")))
    refuse = message_fold.fold

    def fold(message: Any, fact: Any, **options: Any) -> None:
        if fact.content and fact.content.text == "secret, refused":
            raise ValueError("a fault of this program")
        refuse(message, fact, **options)

    monkeypatch.setattr(message_fold, "fold", fold)
    assert bot.store(batch(edited(20_000, "m", "secret, refused"))).quarantined == 1
    assert bot.ask("SELECT event_id FROM events WHERE payload IS NOT NULL ORDER BY 1") == [(3,), (10_000,)]
    assert "secret" not in str(rows(bot.url, "events"))


def test_deletion_keeps_the_text_by_default_and_drops_its_vectors(bot: Bot) -> None:
    bot.ask("SELECT 1")
    with psycopg.connect(bot.url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO embedding_models (name, fingerprint, dims, state) VALUES ('m', 'f', 2, 'active')"
        )
        assert bot.store(batch(new(1, "m"), new(2, "n"))).queued == 2
        connection.execute("INSERT INTO embeddings VALUES (%s, 'm', 1, 'message', 0, 'h', '[1,0]')", (CHAT,))
        bot.store(batch(deleted(3, "m")))
        assert bot.text("m") == "hello"
        assert connection.execute("SELECT msg_id FROM embedding_queue").fetchall() == [("n",)]
        assert connection.execute("SELECT count(*) FROM embeddings").fetchone() == (0,)


def test_edit_is_embedded_again_even_after_its_text_was_parked(bot: Bot) -> None:
    with psycopg.connect(bot.url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO embedding_models (name, fingerprint, dims, state) VALUES ('m', 'f', 2, 'active')"
        )
        bot.store(batch(new(1, "m")))
        connection.execute("UPDATE embedding_queue SET attempts = 5, not_before = 'infinity', last_error = 'poison'")
        assert bot.store(batch(edited(2, "m", "healthy"))).queued == 1
        assert connection.execute("SELECT attempts, last_error FROM embedding_queue").fetchall() == [(0, None)]


def test_deletion_does_not_wait_for_a_worker_that_has_claimed_the_message(bot: Bot) -> None:
    with psycopg.connect(bot.url) as worker:
        worker.execute("INSERT INTO embedding_models (name, fingerprint, dims, state) VALUES ('m', 'f', 2, 'active')")
        worker.commit()
        bot.store(batch(new(1, "m")))
        worker.execute("SELECT 1 FROM embedding_queue FOR UPDATE")
        bot.store(batch(deleted(2, "m")))
        bot.store(batch(new(3, "n"), edited(4, "n", "other")))
        assert bot.last == 4


def test_empty_batch_changes_nothing(bot: Bot) -> None:
    assert bot.store([]) == StoreResult()


@pytest.mark.parametrize("where", ["msg", "chat", "author"])
def test_key_too_long_for_an_index_is_quarantined_and_its_batch_mate_stored(bot: Bot, where: str) -> None:
    long = "ё" * 3000
    culprit = {
        "msg": new(1, long),
        "chat": new(1, "m", chat=long),
        "author": new(1, "m", **{"from": {"userId": long}}),
    }[where]
    outcome = bot.store(batch(culprit, new(2)))
    assert (outcome.saved, outcome.quarantined) == (2, 1)
    assert bot.last == 2
    assert bot.ask("SELECT msg_id FROM messages") == [("m2",)]
    ((raw,),) = bot.ask("SELECT raw FROM events WHERE error IS NOT NULL")
    assert long in bytes(raw).decode()


def test_longest_keys_fit_into_every_index(bot: Bot) -> None:
    longest = "\N{GRINNING FACE}" * 255
    assert bot.store(batch(new(1, longest, chat=longest, **{"from": {"userId": longest}}))).quarantined == 0
    assert bot.ask("SELECT length(chat_id), length(msg_id), length(user_id) FROM messages") == [(255, 255, 255)]


def test_huge_texts_are_stored_and_their_beginning_is_searchable(bot: Bot) -> None:
    bot.store(batch(new(1, "m", "start " + "слово " * 200_000), new(2, "n", "x" * 2_000_000)))
    assert bot.ask("SELECT msg_id FROM messages WHERE search @@ to_tsquery('vkteams', 'start')") == [("m",)]
    assert bot.ask("SELECT length(text) FROM messages WHERE msg_id = 'n'") == [(2_000_000,)]


def test_edit_loads_only_versions_that_may_change(bot: Bot, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bot may edit one message for years."""
    bot.store(batch(new(1, "m1", "0"), *(edited(2 + n, "m1", str(n), after=n) for n in range(500))))
    loaded = []
    mark_stored = message_fold.Message.mark_stored

    def count(message: message_fold.Message, versions: list[message_fold.Version], unloaded: int = 0) -> None:
        loaded.extend(versions)
        mark_stored(message, versions, unloaded)

    monkeypatch.setattr(message_fold.Message, "mark_stored", count)
    bot.store(batch(edited(502, "m1", "newest", after=500)))
    assert len(loaded) == 1
    bot.store(batch(edited(503, "m1", "late", after=490)))
    assert len(loaded) == 1 + 11
    rows = bot.ask("SELECT version, text, edited_at, replaced_at FROM message_versions ORDER BY version")
    assert [row[:2] for row in rows[489:493]] == [(490, "488"), (491, "489"), (492, "490"), (493, "late")]
    assert [number for number, *_ in rows] == list(range(1, 503))
    assert all(one[3] == following[2] for one, following in pairwise(rows)), "each ends when the next one begins"
    assert bot.ask("SELECT version, text FROM messages") == [(503, "newest")]


@pytest.mark.parametrize("seed", range(6))
def test_edits_one_by_one_in_any_order_end_like_all_at_once(open_bot: Callable[..., Bot], seed: int) -> None:
    dice = random.Random(seed)
    said = [new(1, "m1", "begin", chat="a"), new(1, "m1", "begin", chat="a")]
    said += [edited(1, "m1", f"text {dice.randrange(4)}", after=dice.randrange(6), chat="a") for _ in range(14)]
    said += [
        {**said[0], "payload": {**said[0]["payload"], "text": "without its time"}},
        pinned(1, "m1", "pin", chat="a"),
    ]
    dice.shuffle(said)
    numbered = [{**item, "eventId": number} for number, item in enumerate(said, 1)]
    one, all_at_once = open_bot("1"), open_bot("2")
    for item in numbered:
        one.store(batch(item))
    other = [
        {**item, "payload": {**item["payload"], "chat": {**item["payload"]["chat"], "chatId": "b"}}}
        for item in numbered
    ]
    all_at_once.store(batch(*other))
    versions = "SELECT version, edited_at, text, format, parts, replaced_at FROM message_versions WHERE chat_id = '{}'"
    message = "SELECT version, edited_at, text FROM messages WHERE chat_id = '{}'"
    for statement in (versions + " ORDER BY version", message):
        assert one.ask(statement.format("a")) == one.ask(statement.format("b"))
    assert one.ask(message.format("a"))[0][0] > 3
