"""The roster: who is in a chat by the API's own list, as periods; slowly, and never over a newer event."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.harness.daemon import DaemonProcess
from tests.harness.talk import ANNA, OPS, PETR, VERA, Talk
from tests.harness.waiting import until
from vkteams_daemon.botapi.client import BotClient
from vkteams_daemon.botapi.roster import read_roster
from vkteams_daemon.daemon import roster
from vkteams_daemon.daemon.roster import RosterReader
from vkteams_daemon.errors import ApiProtocolError, ApiRefused
from vkteams_daemon.simulator import Simulator
from vkteams_daemon.simulator.methods import PAGE
from vkteams_daemon.store import rosters

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
CHAT = {"type": "group", "title": "Ops", "about": None}


def periods(talk: Talk, chat_id: str = OPS) -> list[tuple[Any, ...]]:
    return talk.rows(
        "SELECT user_id, nullif(since, '-infinity'), until, role FROM roster_members WHERE chat_id = %s"
        " ORDER BY 1, since",
        chat_id,
    )


def save(talk: Talk, at: datetime, *users: str, **roles: str) -> None:
    with talk.connection() as connection:
        rosters.save(connection, OPS, at, CHAT, dict.fromkeys(users, "member") | roles)


def test_membership_is_kept_as_periods(talk: Talk) -> None:
    save(talk, NOW, ANNA, PETR)
    assert periods(talk) == [(ANNA, None, None, "member"), (PETR, None, None, "member")]
    save(talk, NOW + HOUR, ANNA, VERA)
    assert periods(talk) == [
        (ANNA, None, None, "member"),
        (PETR, None, NOW + HOUR, "member"),
        (VERA, NOW + HOUR, None, "member"),
    ]
    save(talk, NOW + 2 * HOUR, ANNA, PETR, **{VERA: "admin"})
    assert periods(talk) == [
        (ANNA, None, None, "member"),
        (PETR, None, NOW + HOUR, "member"),
        (PETR, NOW + 2 * HOUR, None, "member"),
        (VERA, NOW + HOUR, None, "admin"),
    ]


def test_older_list_of_another_bot_changes_nothing(talk: Talk) -> None:
    save(talk, NOW + HOUR, ANNA)
    save(talk, NOW, PETR)
    assert [user for user, *_ in periods(talk)] == [ANNA]


def _event(talk: Talk, user_id: str, **times: datetime) -> None:
    columns = ", ".join(times)
    talk.execute(
        f"INSERT INTO chat_members (chat_id, user_id, {columns}) VALUES (%s, %s{', %s' * len(times)})",
        OPS, user_id, *times.values(),
    )  # fmt: skip


def test_event_says_when_a_membership_began_and_ended(talk: Talk) -> None:
    save(talk, NOW, ANNA, PETR)
    _event(talk, VERA, joined_at=NOW + timedelta(minutes=10))
    _event(talk, PETR, left_at=NOW + timedelta(minutes=20))
    save(talk, NOW + HOUR, ANNA, VERA)
    assert periods(talk)[1:] == [
        (PETR, None, NOW + timedelta(minutes=20), "member"),
        (VERA, NOW + timedelta(minutes=10), None, "member"),
    ]


def test_list_never_ends_a_membership_over_a_newer_event(talk: Talk) -> None:
    """PETR has joined while the list was being read, and is not in it."""
    save(talk, NOW, ANNA, PETR)
    _event(talk, PETR, joined_at=NOW + 2 * HOUR)
    save(talk, NOW + HOUR, ANNA)
    assert periods(talk)[1] == (PETR, None, None, "member")


def test_refusal_ends_nothing_and_says_why(talk: Talk) -> None:
    save(talk, NOW, ANNA)
    with talk.connection() as connection:
        rosters.save_refusal(connection, OPS, NOW + HOUR, "the Bot API refused the request: no rights")
        (known,) = rosters.list_rosters(connection)
    assert (known.members, known.read_at, known.tried_at) == (1, NOW, NOW + HOUR)
    assert known.refused
    save(talk, NOW + 2 * HOUR, ANNA)
    with talk.connection() as connection:
        (known,) = rosters.list_rosters(connection)
    assert known.refused is None


def test_chat_that_was_never_asked_for_comes_first_and_none_before_its_time(talk: Talk) -> None:
    talk.say("1", "text")
    talk.say("2", "text", chat="7@chat.agent")
    talk.say("3", "below", chat="8@chat.agent", below=(OPS, "1"))
    with talk.connection() as connection:
        assert rosters.next_due(connection, NOW, ["9@chat.agent"]) is None
        save(talk, NOW, ANNA)
        assert {rosters.next_due(connection, NOW, [OPS])} == {"8@chat.agent"}, "a thread of the chat"
        for chat_id in ("7@chat.agent", "8@chat.agent"):
            rosters.save_refusal(connection, chat_id, NOW + HOUR, "no")
        assert rosters.next_due(connection, NOW, None) is None
        assert rosters.next_due(connection, NOW + timedelta(minutes=1), None) == OPS


def test_chat_that_somebody_joined_or_left_is_due_soon(talk: Talk) -> None:
    talk.say("1", "text")
    save(talk, NOW, ANNA)
    day, minute = NOW - 24 * HOUR, NOW + timedelta(minutes=1)

    def due() -> str | None:
        with talk.connection() as connection:
            return rosters.next_due(connection, day, None, changed_before=minute)

    assert due() is None
    _event(talk, VERA, joined_at=NOW + timedelta(seconds=5))
    assert due() == OPS
    save(talk, NOW + timedelta(seconds=30), ANNA, VERA)
    assert due() is None
    _event(talk, ANNA, left_at=NOW + timedelta(seconds=40))
    assert due() == OPS
    save(talk, minute, VERA)
    assert due() is None, "it was read a moment ago"


@pytest.fixture
def client(simulator: Simulator) -> Iterator[BotClient]:
    client = BotClient(simulator.url, simulator.token)
    yield client
    client.close()


def test_roster_of_five_thousand_members_is_read_page_by_page(simulator: Simulator, client: BotClient) -> None:
    people = [{"userId": f"u{n}"} for n in range(5000)]
    simulator.event("newChatMembers", {"chat": {"chatId": OPS, "type": "group"}, "newMembers": people})
    simulator.say(OPS, ANNA, "text", title="Ops")
    pauses = []
    read = read_roster(client, OPS, lambda: pauses.append(1))
    assert (read.type, read.title, len(read.members)) == ("group", "Ops", 5002)
    assert sorted(set(read.members.values())) == ["creator", "member"]
    assert len(pauses) == 5002 // PAGE + 2


def test_private_chat_has_its_person(simulator: Simulator, client: BotClient) -> None:
    simulator.say(ANNA, ANNA, "hello")
    assert read_roster(client, ANNA).members == {ANNA: "member"}
    with pytest.raises(ApiRefused):
        read_roster(client, "9@chat.agent")


class Answers(BotClient):
    """A client whose answers the test chooses, by method."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        answer = self.answers.get(method.partition("/")[2], {})
        return answer(params) if callable(answer) else answer  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"getMembers": {}}, "has no list of members"),
        ({"getMembers": {"members": {}}}, "has no list of members"),
        ({"getMembers": {"members": []}}, "has no list of admins"),
        ({"getMembers": {"members": [], "cursor": "1"}}, "does not end"),
        ({"getMembers": lambda params: {"members": [], "cursor": int(params["cursor"] or 0) % 3 + 1}}, "does not end"),
    ],
)
def test_list_that_is_not_whole_is_no_roster(answers: dict[str, Any], reason: str) -> None:
    with pytest.raises(ApiProtocolError, match=reason):
        read_roster(Answers(**answers), OPS)


def test_strange_members_are_left_out() -> None:
    members = [None, 7, {}, {"userId": None}, {"userId": "x" * 300}, {"userId": "a\0b"}, {"userId": 42, "admin": "yes"}]
    answers = Answers(getInfo={"type": 7, "title": ["x"], "about": "a\0"}, getMembers={"members": members},
                      getAdmins={"admins": [{"userId": "boss", "creator": True}, "x"]})  # fmt: skip
    read = read_roster(answers, OPS)
    assert read.members == {"42": "member", "boss": "creator"}
    assert (read.type, read.title, read.about) == (None, None, "a")


def test_reader_asks_for_every_chat_and_not_while_it_may_not(
    talk: Talk, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster, "PACE", 0.0)
    monkeypatch.setattr(roster, "CHECK_INTERVAL", 0.02)
    talk.say("1", "text")
    talk.say("2", "text", chat="7@chat.agent")
    simulator.say(OPS, ANNA, "text")
    may, stopping, looks = False, threading.Event(), 0

    def may_ask() -> bool:
        nonlocal looks
        looks += 1
        return may

    reader = RosterReader(
        talk.database, lambda: BotClient(simulator.url, simulator.token), may_ask, lambda: True, clock=lambda: NOW
    )
    thread = threading.Thread(target=reader.run, args=(stopping,))
    thread.start()
    try:
        until(lambda: looks > 3, 30, "some looks")
        assert periods(talk) == []
        may = True
        until(lambda: talk.rows("SELECT count(*) FROM rosters") == [(2,)], 30, "two rosters")
        assert talk.rows("SELECT chat_id, refused IS NULL FROM rosters ORDER BY 1") == [
            (OPS, True), ("7@chat.agent", False),
        ]  # fmt: skip
        assert ANNA in [user for user, *_ in periods(talk)]
    finally:
        stopping.set()
        thread.join(30)
    assert not thread.is_alive()


def test_daemon_reads_the_roster_and_ctl_lists_silent_members(
    vkteamsd: Callable[..., DaemonProcess], simulator: Simulator, database_url: str
) -> None:
    simulator.event(
        "newChatMembers",
        {"chat": {"chatId": OPS, "type": "group"}, "newMembers": [{"userId": VERA, "firstName": "Vera"}]},
    )
    simulator.say(OPS, ANNA, "text")
    daemon = vkteamsd(api_url=simulator.url, database_url=database_url, quick=True).started()

    def read() -> bool:
        with psycopg.connect(database_url) as connection:
            return connection.execute("SELECT count(*) FROM rosters").fetchone() == (1,)

    until(read, 60, "the roster")
    data = daemon.answer("context", "users", "--chat-id", OPS)
    assert {(row["user_id"], row["messages"]) for row in data["rows"]} >= {(ANNA, 1), (VERA, 0)}
    assert data["rows"][0]["user_id"] == ANNA
    assert data["rosters"][0]["members"] == 3
    assert "3 members on " in daemon.ctl("context", "users", "--chat-id", OPS).stdout
    assert daemon.stop() < 5
