"""Erasure of a person or a message: none of the words is in any row that SQL can see, also after what comes later."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.postgres import PostgresServer
from tests.harness.scale import drawn
from tests.harness.talk import ANNA, DEV, OPS, PETR, START, VERA, Talk, moment
from vkteams_daemon.botapi.events import read
from vkteams_daemon.errors import NotFound
from vkteams_daemon.store import erasure_rules, rosters, schema
from vkteams_daemon.store.admin import person_erasure, word_counts
from vkteams_daemon.store.admin.person_erasure import PersonErasureResult
from vkteams_daemon.store.derive import message_rows
from vkteams_daemon.store.ingest.writer import Writer
from vkteams_daemon.store.rebuild import erasure, replay

SENT = int(START.timestamp())
# Anna's words begin with сирень or ananas, and nobody else's do. Vera has said rosebud.
HERS = re.compile(r"сирен|ananas|Анна|Иванова", re.IGNORECASE)
ROSEBUD = re.compile(r"rosebud", re.IGNORECASE)
PERSON = {"userId": ANNA, "firstName": "Анна", "lastName": "Иванова"}
PRIVATE = {"chatId": ANNA, "type": "private", "title": "Анна Иванова"}


def _forward(msg_id: str, text: str, *, author: dict[str, str] | None = PERSON, **more: Any) -> dict[str, Any]:
    quoted = {"msgId": msg_id, "timestamp": SENT, "text": text, **({"from": author} if author else {}), **more}
    return {"type": "forward", "payload": {"message": quoted}}


def _reply(msg_id: str, text: str, *, author: dict[str, str] | None = PERSON) -> dict[str, Any]:
    quoted = {"msgId": msg_id, "timestamp": SENT, "text": text, **({"from": author} if author else {})}
    return {"type": "reply", "payload": {"message": quoted}}


@pytest.fixture(scope="module")
def story(postgres_server: PostgresServer) -> Iterator[Talk]:
    """Anna has spoken, and others have answered, forwarded, pinned and named her in every way; closed, to be copied."""
    with postgres_server.fresh() as url:
        talk = Talk(url)
        _tell(talk)
        talk.close()
        yield talk


@pytest.fixture
def told(postgres_server: PostgresServer, story: Talk) -> Iterator[Talk]:
    """The story, in a database of the test's own."""
    with postgres_server.fresh(template=story.url.rpartition("/")[2]) as url:
        talk = story.copied(url)
        yield talk
        talk.close()


def _tell(talk: Talk) -> None:
    talk.say("1", "сиреневый туман", parts=({"type": "file", "payload": {"fileId": "f", "caption": "ananas.jpg"}},))
    talk.edit("1", "сирень отцвела")
    talk.say("2", "ananas, deleted", at=2)
    talk.delete("2")
    talk.event("newMessage", msgId="3", chat=PRIVATE, timestamp=SENT, text="ananas aside", **{"from": PERSON})
    petr, vera = {"userId": PETR, "firstName": "Пётр"}, {"userId": VERA, "firstName": "Вера"}
    # Anna inside Vera's words inside Petr's message, and a reply that does not name her.
    inner = _forward("901", "rosebud", author=vera, parts=[_forward("902", "ananas inside")])
    talk.say("10", "смотри", who=PETR, at=3, parts=(inner, _reply("1", "сирень отцвела", author=None)))
    talk.say("11", "сиреневый туман", who=PETR, at=4, parts=(_forward("1", "сиреневый туман"),))
    mention = {"type": "mention", "payload": PERSON}
    talk.say("12", f"@[{ANNA}] когда?", who=VERA, at=5, parts=(mention,))
    talk.edit("12", "уже неважно, rosebud", who=VERA, at=6)
    talk.event(
        "pinnedMessage", msgId="1", chat=talk._chat(OPS), timestamp=SENT, text="сирень отцвела", **{"from": PERSON}
    )
    button = {"msgId": "13", "chat": talk._chat(OPS), "from": vera, "timestamp": SENT, "parts": [_reply("1", "сирень")]}
    talk.event("callbackQuery", queryId="q1", callbackData="ananas:yes", message={"msgId": "13"}, **{"from": PERSON})
    talk.event("callbackQuery", queryId="q2", callbackData="no", message=button, **{"from": petr})
    talk.event("newChatMembers", chat=talk._chat(OPS), newMembers=[PERSON, vera], addedBy=petr)
    talk.event("leftChatMembers", chat=talk._chat(DEV), leftMembers=[vera], removedBy=PERSON)
    talk.event("newMessage", text="ananas, but no chat", **{"from": PERSON})  # quarantined
    talk.say("14", "nul \0 in it", who=PETR, at=7, parts=(_forward("1", "ananas \0 raw"),))
    with talk.connection() as connection:
        names = {"type": "private", "title": "Анна Иванова", "about": "сирень"}
        rosters.save(connection, ANNA, moment(0), names, {ANNA: "member"}, bot_id="1000000001")
        group = {"type": "group", "title": "ops", "about": None}
        rosters.save(connection, OPS, moment(0), group, {ANNA: "admin"}, bot_id="1000000001")
    talk.execute("INSERT INTO embedding_models (name, fingerprint, dims, state) VALUES ('m', 'f', 2, 'active')")
    talk.execute("INSERT INTO embeddings SELECT chat_id, msg_id, 1, 'message', 0, 'h', '[1,0]' FROM messages")
    talk.execute("INSERT INTO embedding_queue SELECT chat_id, msg_id, 1, 'message' FROM messages")
    talk.execute("INSERT INTO words VALUES ('once', 1)")
    with talk.connection() as connection:
        word_counts.count_words(connection, now=True)
    talk.execute("ANALYZE")


def _erase(talk: Talk, *people: str, **options: Any) -> PersonErasureResult:
    with talk.connection() as connection:
        return person_erasure.erase(connection, people, by="dpo", **options)


def _seen(talk: Talk, words: re.Pattern[str]) -> list[str]:
    """The tables whose rows have one of these words in any form that SQL can see, statistics included."""
    tables = talk.rows(
        "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relkind = 'r'"
        " AND c.relnamespace = current_schema::regnamespace"
    )
    found = []
    for table in [*(name for (name,) in tables), "pg_stats"]:
        # raw is bytea, whose text is hexadecimal.
        source = "convert_from(raw, 'UTF8') || t::text" if table == "events" else "t::text"
        rows = talk.rows(f"SELECT coalesce({source}, t::text) FROM {table} t")
        found += [f"{table}: {row[0][:300]}" for row in rows if words.search(_unescaped(row[0]))]
    return found


def _unescaped(text: str) -> str:
    return re.sub(r"\\u([0-9a-f]{4})", lambda match: chr(int(match[1], 16)), text)


def _left(talk: Talk, table: str, columns: str = "msg_id") -> list[str]:
    return [row[0] for row in talk.rows(f"SELECT {columns} FROM {table} ORDER BY 1")]


def test_none_of_the_words_and_names_is_in_any_row(told: Talk) -> None:
    assert len(_seen(told, HERS)) > 15
    keys = told.rows("SELECT bot_id, generation, event_id, type, chat_id, subject, user_id FROM events ORDER BY 3")
    done = _erase(told, ANNA)
    assert _seen(told, HERS) == []
    assert (done.messages, done.versions, done.vectors, done.locked, done.held) == (3, 1, 3, 0, 0)
    assert (done.repeated, done.names, done.memberships) == (4, 3, 3)
    assert _left(told, "messages") == ["10", "11", "12", "14"]
    # What others have said stays, with its place.
    assert told.rows("SELECT text FROM messages WHERE msg_id IN ('10', '12') ORDER BY msg_id") == [
        ("смотри\nrosebud",), ("уже неважно, rosebud",),
    ]  # fmt: skip
    assert told.rows("SELECT text, parts->0::int->'payload'::text FROM message_versions") == [
        (f"@[{ANNA}] когда?", {"userId": ANNA})
    ]
    assert told.rows("SELECT user_id, added_by FROM chat_members ORDER BY chat_id, user_id") == [
        (VERA, PETR), (VERA, None)
    ]  # fmt: skip
    assert (
        told.rows("SELECT bot_id, generation, event_id, type, chat_id, subject, user_id FROM events ORDER BY 3") == keys
    )
    # The vectors of the other messages whose text has changed are made again.
    assert _left(told, "embeddings") == ["12"]
    assert _left(told, "embedding_queue") == ["10", "12", "14"]
    # Nor in a reply that comes later and does not name her.
    told.say("15", "и что?", who=VERA, at=9, parts=(_reply("1", "сирень отцвела", author=None),))
    assert _seen(told, HERS) == []


def test_a_second_call_changes_nothing_and_a_rebuild_brings_nothing_back(told: Talk) -> None:
    _erase(told, ANNA)
    names = "(SELECT user_id, first_name, last_name, nick FROM users)", "(SELECT chat_id, type, title FROM chats)"
    tables = ("events", "messages", "message_versions", "chat_members", *names)
    before = [told.rows(f"SELECT t::text FROM {table} t ORDER BY 1") for table in tables]
    done = _erase(told, ANNA)
    assert (done.messages, done.events, done.repeated, done.names, done.memberships) == (0, 0, 0, 0, 0)
    with told.connection() as connection:
        assert replay.everything(connection, erase=False).messages == 0
        replay.quarantined(connection, erase=False)
        assert replay.everything(connection, erase=True).messages == 0
    assert [told.rows(f"SELECT t::text FROM {table} t ORDER BY 1") for table in tables] == before
    # The API delivers everything again.
    again = told.writer.store(told.written)
    assert (again.saved, again.duplicate) == (0, len(told.written))
    assert _seen(told, HERS) == []


def test_a_dry_run_counts_the_same_and_changes_nothing(told: Talk) -> None:
    before = _seen(told, HERS)
    counted = _erase(told, ANNA, dry_run=True)
    assert _seen(told, HERS) == before
    assert told.rows("SELECT FROM erased_people") == [] == told.rows("SELECT FROM erased_messages")
    assert counted == _erase(told, ANNA)


def test_what_another_bot_delivers_later_is_not_kept(told: Talk) -> None:
    _erase(told, ANNA)
    with told.database.connect() as connection:
        names = connection.execute("SELECT first_name FROM users WHERE user_id = %s", (ANNA,)).fetchall()
    assert names == [(None,)]
    other = Writer(told.database.connect, "1000000002")
    assert other.acquire()
    body = [
        {"eventId": n, "type": e.type, "payload": json.loads(e.payload)}
        for n, e in enumerate(told.written, 1)
        if e.payload
    ]
    late = read(json.dumps({"events": body}).encode(), moment(0))
    assert other.store(late).saved == len(late)
    assert _seen(told, HERS) == []
    # An edit that does not name its author, and a reply that does not name whom it repeats.
    edit = {
        "msgId": "1",
        "chat": told._chat(OPS),
        "timestamp": SENT,
        "editedTimestamp": SENT + 999,
        "text": "ananas, again",
    }
    reply = {"msgId": "20", "chat": told._chat(OPS), "timestamp": SENT + 999, "text": "вот", "from": {"userId": PETR},
             "parts": [_reply("1", "сирень", author=None)]}  # fmt: skip
    body = [
        {"eventId": 900, "type": "editedMessage", "payload": edit},
        {"eventId": 901, "type": "newMessage", "payload": reply},
    ]
    assert other.store(read(json.dumps({"events": body}).encode(), moment(9e6))).saved == 2
    other.close()
    assert _seen(told, HERS) == []
    assert "20" in _left(told, "messages") and "1" not in _left(told, "messages")
    with told.connection() as connection:
        replay.everything(connection, erase=False)
    assert _seen(told, HERS) == []


def _says(talk: Talk, msg_id: str, text: str, later: float = 9e6) -> None:
    talk.say(msg_id, text, at=later)


def test_what_the_person_says_afterwards_is_kept_unless_ignored(told: Talk) -> None:
    _erase(told, ANNA)
    _says(told, "30", "ananas, new")
    assert "30" in _left(told, "messages")
    _erase(told, ANNA, ignore=True)
    assert _seen(told, HERS) == []
    _says(told, "31", "ananas, newer")
    told.event("newChatMembers", chat=told._chat(OPS), newMembers=[PERSON], addedBy=PERSON)
    told.event("newMessage", text="ananas, and no chat again", **{"from": PERSON})
    # A reply that repeats what was never kept, and does not say whose it was.
    told.say("33", "вот", who=PETR, at=9e6, parts=(_reply("31", "ananas, newer", author=None),))
    with told.connection() as connection:
        group, private = ({"type": kind, "title": "Анна Иванова", "about": ""} for kind in ("group", "private"))
        rosters.save(connection, OPS, moment(9e6), {**group, "title": "ops"}, {ANNA: "admin"}, bot_id="1000000001")
        for spelling in (ANNA, ANNA.upper()):
            rosters.save(connection, spelling, moment(9e6), private, {PETR: "member"}, bot_id="1000000001")
    assert _seen(told, HERS) == []
    assert told.rows("SELECT FROM roster_members WHERE lower(%s) IN (lower(user_id), lower(chat_id))", ANNA) == []
    with told.connection() as connection:
        erasure_rules.stop_ignoring(connection, ANNA)
    told.writer.acquire()
    assert told.rows("SELECT ignored FROM erased_people") == [(False,)]
    _says(told, "32", "ananas, newest", later=9.1e6)
    assert {"32", "33"} <= set(_left(told, "messages")) and "31" not in _left(told, "messages")


def test_one_message_goes_for_good(told: Talk) -> None:
    done = _erase(told, messages=[(OPS, "12")])
    assert (done.messages, done.versions, done.events) == (1, 1, 2)
    assert "12" not in _left(told, "messages")
    told.edit("12", "rosebud, once more", who=VERA, at=99)
    told.say("40", "вот", who=PETR, at=99, parts=(_forward("12", "уже неважно, rosebud", author={"userId": VERA}),))
    assert "12" not in _left(told, "messages")
    rows = told.rows("SELECT m.text FROM messages m WHERE m.msg_id = '40'")
    assert rows == [("вот",)]
    # The forward inside message 10 is another message.
    assert len([row for row in _seen(told, ROSEBUD) if row.startswith("messages")]) == 1
    assert len(_seen(told, HERS)) > 10


@drawn("transactions in which an erasure dies", "1234567", quick=3)
def test_an_erasure_that_was_cut_off_is_continued(told: Talk, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It dies in its n-th transaction; what came meanwhile is not kept either, and the next call ends it."""
    fence, calls = schema.fence, 0

    def fails(connection: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == int(name):
            raise KeyboardInterrupt
        fence(connection)

    monkeypatch.setattr(schema, "fence", fails)
    monkeypatch.setattr(person_erasure, "_PAGE", 2)
    with pytest.raises(KeyboardInterrupt):
        _erase(told, ANNA)
    monkeypatch.undo()
    if told.rows("SELECT FROM erased_people"):
        told.say("50", "ananas, meanwhile", at=50)
    with told.connection() as connection:
        replay.everything(connection, erase=False)
    _erase(told, ANNA)
    assert _seen(told, HERS) == []


LOCKS = {
    "chat": "SELECT pg_advisory_xact_lock(7691, hashtext(chat_id) & 1023) FROM messages",
    "message": "SELECT FROM messages FOR KEY SHARE",
    "events": "SELECT FROM events FOR UPDATE",
}


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
def test_it_leaves_out_what_others_have_locked_and_takes_it_the_next_time(told: Talk, lock: str) -> None:
    with told.connection() as holder, told.connection() as eraser, holder.transaction():
        holder.execute(lock.encode())
        eraser.execute("SET lock_timeout = '1ms'")
        assert person_erasure.erase(eraser, [ANNA], by="dpo", retry_for=0).locked
    _erase(told, ANNA)
    assert _seen(told, HERS) == []


def test_nobody_and_nothing_are_refused(told: Talk) -> None:
    with pytest.raises(NotFound, match=r"knows nobody with the id x@corp\.example"):
        _erase(told, "x@corp.example")
    with pytest.raises(NotFound, match=f"no message 999 of chat {re.escape(OPS)}"):
        _erase(told, messages=[(OPS, "999")])
    assert told.rows("SELECT FROM erased_people") == []
    _erase(told, "x@corp.example", ignore=True)  # may be unknown: nothing is to be kept from the beginning
    assert told.rows("SELECT user_id, erased_by, ignored FROM erased_people") == [("x@corp.example", "dpo", True)]


# Holds


def _hold(talk: Talk, chat: str) -> None:
    with talk.connection() as connection:
        assert erasure_rules.hold(connection, chat, "counsel")


def test_a_hold_keeps_a_chat_from_every_erasure(told: Talk) -> None:
    told.say("60", "in a thread", who=VERA, at=8, chat=DEV, below=(OPS, "12"))
    _hold(told, OPS)
    kept = told.rows("SELECT t::text FROM messages t WHERE chat_id = %s ORDER BY 1", OPS)
    done = _erase(told, ANNA)
    assert (done.messages, done.held) == (1, 2)  # only that of her private chat
    assert told.rows("SELECT first_name FROM users WHERE user_id = %s", ANNA) == [("Анна",)], "what is kept names her"
    with told.connection() as connection:
        counted = erasure.count_expired(connection, moment(100))
        by_age = erasure.erase(connection, moment(100))
    assert (counted.messages, counted.held, by_age.messages, by_age.held) == (0, 7, 0, 7)
    assert told.rows("SELECT t::text FROM messages t WHERE chat_id = %s ORDER BY 1", OPS) == kept
    assert told.rows("SELECT FROM events WHERE chat_id = %s AND payload IS NULL AND error IS NULL", OPS) == []
    # on_delete, by the writer and by a replay
    told.writer.erase = True
    told.delete("11")
    told.delete("60", chat=DEV)
    # The writer has read the holds before this thread began.
    told.say("61", "in a later thread", who=VERA, at=9, chat="7@chat.agent", below=(OPS, "12"))
    told.delete("61", chat="7@chat.agent")
    with told.connection() as connection:
        replay.everything(connection, erase=True)
    assert told.rows("SELECT text FROM messages WHERE deleted_at IS NOT NULL ORDER BY msg_id") == [
        ("сиреневый туман",), ("ananas, deleted\nananas, deleted",)[:0] or ("ananas, deleted",), ("in a thread",),
        ("in a later thread",),
    ]  # fmt: skip
    # What another bot delivers late is kept too.
    told.edit("1", "сирень, held", at=20)
    told.say("62", "сирень in a new thread", at=10, chat="8@chat.agent", below=(OPS, "12"))
    assert told.rows("SELECT text FROM messages WHERE msg_id IN ('1', '62') ORDER BY text") == [
        ("сирень in a new thread",), ("сирень, held",),
    ]  # fmt: skip
    with told.connection() as connection:
        erasure_rules.lift(connection, OPS, "counsel")
        with pytest.raises(NotFound):
            erasure_rules.lift(connection, OPS, "counsel")
        (hold,) = erasure_rules.list_holds(connection, lifted=True)
        assert (hold.chat_id, hold.held_by, hold.lifted_by) == (OPS, "counsel", "counsel") and hold.lifted_at
        assert erasure_rules.list_holds(connection) == []
    _erase(told, ANNA)
    assert _seen(told, HERS) == []
    # A reply repeats a message that was erased before the hold.
    told.say("70", "of Petr", who=PETR, at=11)
    told.delete("70")
    _hold(told, OPS)
    told.say("71", "an answer", who=PETR, at=12, parts=(_reply("70", "of Petr", author=PETR),))
    assert told.rows("SELECT parts::text LIKE '%of Petr%' FROM messages WHERE msg_id = '71'") == [(True,)]


def test_a_hold_waits_for_the_transaction_that_erases(told: Talk) -> None:
    """After the command has answered nothing of the chat is erased any more."""
    with told.connection() as eraser, told.connection() as holder:
        holder.execute("SET lock_timeout = '50ms'")
        with eraser.transaction():
            schema.fence(eraser)
            erasure_rules.enter(eraser)
            with pytest.raises(Exception, match="lock timeout"):
                erasure_rules.hold(holder, OPS, "counsel")
        assert erasure_rules.hold(holder, OPS, "counsel")
        assert not erasure_rules.hold(holder, OPS, "again")
        message_rows.prepare_connection(eraser)
        assert erasure.erase(eraser, moment(100), [OPS]).messages == 0
