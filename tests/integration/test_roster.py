"""The roster: who is in a chat by the API's own list, as periods; slowly, and never over a newer event."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.harness.daemon import DaemonProcess
from tests.harness.talk import ANNA, OPS, PETR, VERA, Talk
from tests.harness.waiting import until
from vkteams_daemon.botapi.client import BotClient
from vkteams_daemon.botapi.roster import read_roster
from vkteams_daemon.ctl.commands.database.roster import RequestBar
from vkteams_daemon.daemon import roster
from vkteams_daemon.daemon.roster import RosterReader
from vkteams_daemon.errors import ApiProtocolError, ApiRefused, RateLimited
from vkteams_daemon.simulator import Simulator
from vkteams_daemon.simulator.methods import PAGE
from vkteams_daemon.store import rosters
from vkteams_daemon.store.admin import person_erasure
from vkteams_daemon.store.connections import Connection

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
BOT, OTHER_BOT = "1000000001", "1000000002"
CHAT = {"type": "group", "title": "Ops", "about": None}


def periods(talk: Talk, chat_id: str = OPS) -> list[tuple[Any, ...]]:
    return talk.rows(
        "SELECT user_id, nullif(since, '-infinity'), until, role FROM roster_members WHERE chat_id = %s"
        " ORDER BY 1, since",
        chat_id,
    )


def save(talk: Talk, at: datetime, *users: str, **roles: str) -> None:
    with talk.connection() as connection:
        rosters.save(connection, OPS, at, CHAT, dict.fromkeys(users, "member") | roles, bot_id=BOT)


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
        rosters.save_refusal(connection, OPS, NOW + HOUR, "the Bot API refused the request: no rights", bot_id=BOT)
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
        assert due(connection, NOW, ["9@chat.agent"]) == []
        save(talk, NOW, ANNA)
        assert due(connection, NOW, [OPS]) == ["8@chat.agent"], "a thread of the chat"
        for chat_id in ("7@chat.agent", "8@chat.agent"):
            rosters.save_refusal(connection, chat_id, NOW + HOUR, "no", bot_id=BOT)
        assert due(connection, NOW) == []
        assert due(connection, NOW + timedelta(minutes=1)) == [OPS]
        assert due(connection, NOW + 2 * HOUR)[0] == OPS, "longest ago"


def test_chat_that_somebody_joined_or_left_is_due_soon(talk: Talk) -> None:
    talk.say("1", "text")
    save(talk, NOW, ANNA)
    day, minute = NOW - 24 * HOUR, NOW + timedelta(minutes=1)

    def now_due() -> list[str]:
        with talk.connection() as connection:
            return due(connection, day, changed_before=minute)

    assert now_due() == []
    _event(talk, VERA, joined_at=NOW + timedelta(seconds=5))
    assert now_due() == [OPS]
    save(talk, NOW + timedelta(seconds=30), ANNA, VERA)
    assert now_due() == []
    _event(talk, ANNA, left_at=NOW + timedelta(seconds=40))
    assert now_due() == [OPS]
    save(talk, minute, VERA)
    assert now_due() == [], "it was read a moment ago"


def test_bot_that_may_not_see_a_chat_leaves_it_to_the_one_that_may(talk: Talk) -> None:
    talk.say("1", "text")
    with talk.connection() as connection:

        def refuse(at: datetime, bot_id: str) -> None:
            rosters.save_refusal(connection, OPS, at, "no such chat", bot_id=bot_id)

        def bots(at: datetime) -> list[str]:
            return [bot for bot in (BOT, OTHER_BOT) if due(connection, at - 24 * HOUR, bot_id=bot)]

        assert bots(NOW) == [BOT, OTHER_BOT]
        refuse(NOW, OTHER_BOT)
        assert bots(NOW) == [BOT], "the other bot has not asked yet, and does so at once"
        save(talk, NOW, ANNA)
        assert bots(NOW) == []
        assert bots(NOW + 25 * HOUR) == [BOT], "the chat is of the bot that has read it"
        assert bots(NOW + 49 * HOUR) == [BOT, OTHER_BOT], "until that one does not run any more"
        refuse(NOW + 49 * HOUR, OTHER_BOT)
        assert bots(NOW + 49 * HOUR) == [BOT]
        refuse(NOW + 49 * HOUR, BOT)
        assert bots(NOW + 49 * HOUR) == [], "both were refused"
        assert bots(NOW + 74 * HOUR) == [BOT, OTHER_BOT]
        refuse(NOW + 74 * HOUR, OTHER_BOT)
        assert bots(NOW + 74 * HOUR) == [BOT], "a new round: whoever comes first does not keep the other one away"


def test_two_who_read_the_first_list_at_once_take_turns(talk: Talk) -> None:
    """The older list is stored last: it neither ends a membership nor brings one back."""
    with talk.connection() as first:
        first.execute("BEGIN")
        first.execute("INSERT INTO rosters (chat_id, tried_at, read_at) VALUES (%s, %s, %s)", (OPS, NOW, NOW + HOUR))
        thread = threading.Thread(target=save, args=(talk, NOW, PETR))
        thread.start()
        waits = (
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        until(lambda: talk.rows(waits) == [(True,)], 30, "the second waits")
        first.execute("COMMIT")
        thread.join(30)
    assert periods(talk) == []


def test_private_chat_of_an_ignored_person_is_never_due(talk: Talk) -> None:
    """No roster of it is kept, so it would be asked for again and again, and no other chat's would be."""
    talk.say("1", "hello", chat=ANNA)
    with talk.connection() as connection:
        assert due(connection, NOW) == [ANNA]
        person_erasure.erase(connection, [ANNA.upper()], by="root", ignore=True)
        assert due(connection, NOW) == []


def due(connection: Connection, before: datetime, chats: list[str] | None = None, **more: Any) -> list[str]:
    return [one.chat_id for one in rosters.list_due(connection, before, chats, **{"bot_id": BOT, **more})]


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
    members = [
        None,
        7,
        {},
        {"userId": None},
        {"userId": "x" * 300},
        {"userId": "a\0b"},
        {"userId": "\ud83d"},
        {"userId": 42, "admin": "yes"},
    ]
    answers = Answers(getInfo={"type": 7, "title": ["x"], "about": "a\0\udc00"}, getMembers={"members": members},
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

    def listening_bot() -> str | None:
        nonlocal looks
        looks += 1
        return BOT if may else None

    reader = RosterReader(
        talk.database, lambda: BotClient(simulator.url, simulator.token), listening_bot, lambda: True, clock=lambda: NOW
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


@pytest.fixture
def ask_now(
    ask: Callable[..., Any], simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """`vkteamsctl database roster` at the simulator, without the pauses."""
    monkeypatch.setattr(roster, "PACE", 0.0)
    monkeypatch.setenv("VKTEAMS_API_URL", simulator.url)
    monkeypatch.setenv("VKTEAMS_API_TOKEN", simulator.token)
    return lambda *words, **more: ask("database", "roster", *words, **more)


def test_command_asks_now_for_every_chat_or_for_those_named(
    talk: Talk, simulator: Simulator, ask_now: Callable[..., Any]
) -> None:
    talk.say("1", "text")
    talk.say("2", "text", chat="7@chat.agent")
    simulator.say(OPS, ANNA, "text")
    data = ask_now()
    assert sorted(data["asked"]) == [OPS, "7@chat.agent"]
    assert [(row["chat_id"], row["members"], row["refused"] is None) for row in data["rows"]] == [
        (OPS, 2, True), ("7@chat.agent", 0, False),
    ]  # fmt: skip
    assert ask_now("--chat-id", OPS)["asked"] == [OPS], "as often as somebody asks"
    assert ask_now("--chat-id", "9@chat.agent", code=69)
    assert "asked for 2 chats" in ask_now(mode="table")


def test_command_leaves_what_another_bot_reads_and_what_the_daemon_has_read_meanwhile(
    talk: Talk, simulator: Simulator, ask_now: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    talk.say("1", "text")
    talk.say("2", "text", chat="7@chat.agent")
    now, chat = datetime.now(UTC), {"type": "group", "title": "Ops", "about": None}
    with talk.connection() as connection:
        rosters.save(connection, OPS, now, chat, {ANNA: "member"}, bot_id=OTHER_BOT)
    read_chat = roster.read_chat

    def read_and_be_overtaken(*args: Any, **more: Any) -> str | None:
        with talk.connection() as connection:
            later = datetime.now(UTC)
            rosters.save(connection, "6@chat.agent", later, chat, {ANNA: "member"}, bot_id=BOT)
        return read_chat(*args, **more)

    talk.say("3", "text", chat="6@chat.agent")
    with talk.connection() as connection:
        rosters.save(connection, "6@chat.agent", now - HOUR, chat, {ANNA: "member"}, bot_id=BOT)
    monkeypatch.setattr(roster, "read_chat", read_and_be_overtaken)
    assert ask_now()["asked"] == ["7@chat.agent"]


def test_command_that_cannot_go_on_says_how_far_it_came(
    talk: Talk, simulator: Simulator, ask_now: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    talk.say("1", "text")
    talk.say("2", "text", chat="7@chat.agent")

    def call(self: BotClient, method: str, **params: Any) -> dict[str, Any]:
        if params.get("chatId") == OPS:
            raise RateLimited("the Bot API asks to slow down")
        return {"type": "private", "userId": BOT}

    monkeypatch.setattr(BotClient, "call", call)
    error = ask_now(code=75, mode="table")
    assert "slow down" in error
    assert "Chats asked for: 1; run it again for the others." in error
    monkeypatch.setenv("VKTEAMS_API_ROSTER", "false")
    assert "api.roster is false" in ask_now(code=78, mode="table")


def test_bar_knows_how_many_requests_are_still_to_come() -> None:
    shown: list[tuple[int, int]] = []
    chats = [rosters.DueRoster(OPS, False, 250), rosters.DueRoster(ANNA, True, 1), rosters.DueRoster("7", None, 0)]
    bar = RequestBar(lambda done, total: shown.append((done, total)), chats)
    bar.begin(OPS)
    for _ in range(6):  # a page more than the last time
        bar.count()
    bar.begin(ANNA)
    bar.begin("7")
    assert shown == [(0, 9), *((n, 9) for n in range(1, 6)), (6, 10), (6, 10), (6, 9)]


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
