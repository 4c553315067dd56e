"""Scripts: the fields that a line may leave out, playing in rounds, and the built-in conversation."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.harness.waiting import until
from vkteams_daemon.botapi.client import BotClient
from vkteams_daemon.botapi.events import read
from vkteams_daemon.errors import UsageError
from vkteams_daemon.simulator import Simulator, bot
from vkteams_daemon.simulator.script import CONVERSATION, Line, ScriptPlayer, read_script

CHAT = {"chatId": "1@chat.agent", "type": "group"}
ANNA, PETR = {"userId": "anna"}, {"userId": "petr"}


def new(msg_id: str, text: str, ago: float, **more: Any) -> Line:
    return Line("newMessage", {"msgId": msg_id, "chat": CHAT, "from": ANNA, "text": text, **more}, ago)


def about(kind: str, msg_id: str, ago: float, **more: Any) -> Line:
    return Line(kind, {"msgId": msg_id, "chat": CHAT, **more}, ago)


def play(*lines: Line, rounds: int = 1) -> list[dict[str, Any]]:
    new_ids = iter(range(9000, 9999))
    player = ScriptPlayer(lines, lambda: str(next(new_ids)))
    payloads = []
    for n in range(rounds):
        if n:
            player.start_over()
        payloads += [player.draft(line).payload for line in lines]
    return payloads


def near(value: int, ago: float) -> bool:
    return abs(time.time() - ago - value) < 60


def quoting(kind: str, msg_id: str) -> list[dict[str, Any]]:
    return [{"type": kind, "payload": {"message": {"msgId": msg_id}}}]


def test_times_follow_from_ago_and_from_the_message() -> None:
    first, edit, pin, unpin, deleted = play(
        new("1", "one", 3600),
        about("editedMessage", "1", 1800, text="two", **{"from": ANNA}),
        about("pinnedMessage", "1", 900),
        about("unpinnedMessage", "1", 800),
        about("deletedMessage", "1", 700),
    )
    assert near(first["timestamp"], 3600)
    assert near(edit["editedTimestamp"], 1800)
    for later in (edit, pin, unpin, deleted):
        assert later["timestamp"] == first["timestamp"]


def test_members_and_chats_have_no_time() -> None:
    for kind in ("newChatMembers", "leftChatMembers", "changedChatInfo"):
        (payload,) = play(Line(kind, {"chat": CHAT}, 60))
        assert payload == {"chat": CHAT}


def test_one_msg_id_in_two_chats_and_messages_without_one_are_no_ghosts(simulator: Simulator) -> None:
    other = {"chatId": "2@chat.agent", "type": "group"}
    lines = [
        new("1", "one", 3600),
        new("1", "uno", 60, chat=other),
        about("editedMessage", "1", 30, text="One"),
        new("2", "two", 20, parts=quoting("reply", "1")),
        new("3", "three", 10, parts=quoting("forward", "1"), chat={"chatId": "3@chat.agent"}),
        *(Line("newMessage", {"chat": CHAT, "text": text}, ago) for text, ago in (("a", 500), ("b", 5))),
    ]
    simulator.play(lines)
    one, uno, edit, reply, forward, a, b = (
        entry.event.to_json()["payload"] for entry in simulator.log() if entry.event
    )
    assert [payload for payload in (uno, a, b) if "editedTimestamp" in payload] == []
    assert near(uno["timestamp"], 60) and near(a["timestamp"], 500) and near(b["timestamp"], 5)
    assert edit["timestamp"] == one["timestamp"]
    assert reply["parts"][0]["payload"]["message"]["text"] == forward["parts"][0]["payload"]["message"]["text"] == "One"


def test_times_in_a_script_stay_unchanged() -> None:
    first, edit = play(
        new("1", "one", 10, timestamp=1764000000), about("editedMessage", "1", 5, editedTimestamp=1764000030)
    )
    assert (first["timestamp"], edit["timestamp"], edit["editedTimestamp"]) == (1764000000, 1764000000, 1764000030)


def test_quoted_messages_are_filled_in() -> None:
    first, _, reply, forward, callback, unknown = play(
        new("1", "one", 100),
        about("editedMessage", "1", 90, text="uno", **{"from": ANNA}),
        new("2", "two", 80, parts=quoting("reply", "1")),
        new("3", "", 70, parts=quoting("forward", "2")),
        Line("callbackQuery", {"queryId": "q", "from": PETR, "message": {"msgId": "1", "chat": CHAT}}, 60),
        new("4", "four", 50, parts=quoting("reply", "elsewhere")),
    )
    quoted = {"msgId": "1", "from": ANNA, "text": "uno", "timestamp": first["timestamp"]}
    assert reply["parts"][0]["payload"]["message"] == quoted
    assert forward["parts"][0]["payload"]["message"]["text"] == "two"
    assert callback["message"] == quoted | {"chat": CHAT}
    assert near(unknown["parts"][0]["payload"]["message"]["timestamp"], 50)


def test_the_next_round_has_new_ids_that_fit_together() -> None:
    lines = (
        new("1", "one", 10),
        new("2", "two", 5, parts=quoting("reply", "1"), parent_topic={"chatId": "0", "messageId": 1}),
        Line("callbackQuery", {"queryId": "q", "message": {"msgId": "2"}}),
    )
    first, second, query, again, reply, requery = play(*lines, rounds=2)
    assert (first["msgId"], second["msgId"], query["queryId"]) == ("1", "2", "q")
    assert again["msgId"] not in ("1", "2") and reply["msgId"] not in ("1", "2", again["msgId"])
    assert reply["parts"][0]["payload"]["message"]["msgId"] == again["msgId"]
    assert reply["parent_topic"] == {"chatId": "0", "messageId": int(again["msgId"])}
    assert requery["message"]["msgId"] == reply["msgId"] and requery["queryId"] != "q"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "it is not JSON"),
        ("[]", "it has no type"),
        ('{"payload": {}}', "it has no type"),
        ('{"type": "x"}', "its payload is not an object"),
        ('{"type": "x", "payload": {}, "ago": -1}', "ago is not a number of seconds"),
        ('{"type": "x", "payload": {}, "ago": "1h"}', "ago is not a number of seconds"),
        ('{"type": "x", "payload": {}, "when": 1}', "it has when, which no line has"),
        ('{"now": "Wednesday 16:51:41 +03:00"}', "it has no type"),
    ],
)
def test_the_error_names_the_wrong_line(tmp_path: Path, line: str, what: str) -> None:
    script = tmp_path / "talk.jsonl"
    script.write_text('{"type": "x", "payload": {}}\n\n' + line + "\n", encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read_script(script)
    assert str(caught.value) == f"{script}, line 3: {what}"


def test_ago_may_count_from_a_moment_of_the_week(tmp_path: Path) -> None:
    script = tmp_path / "talk.jsonl"
    script.write_text('{"now": "Wednesday 16:51:41 +03:00"}\n{"type": "x", "payload": {}, "ago": 60}\n')
    (line,) = read_script(script)
    wednesday = datetime.fromisoformat("2026-11-25T16:51:41+03:00").timestamp()
    for later in (0, 1, 86400 * 6.9):
        assert line.at(wednesday + later) == wednesday - 60
    assert line.at(wednesday - 1) == wednesday - 60 - 7 * 86400
    for wrong in ("Wednesday", "Mittwoch 16:51 +03:00", "Wednesday 25:00 +03:00", "Wednesday 16:51 Moscow"):
        script.write_text(json.dumps({"now": wrong}) + "\n")
        with pytest.raises(UsageError, match=r"line 1: now is not such as Wednesday 16:51:41 \+03:00"):
            read_script(script)


def test_a_script_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_script(tmp_path / "absent.jsonl")
    (tmp_path / "latin").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_script(tmp_path / "latin")


def test_a_line_separator_in_a_text_ends_no_line(tmp_path: Path) -> None:
    script = tmp_path / "talk.jsonl"
    script.write_text(json.dumps({"type": "x", "payload": {"text": "a\u2028b\x85c"}}, ensure_ascii=False) + "\n")
    assert read_script(script) == [Line("x", {"text": "a\u2028b\x85c"}, 0.0)]


def test_a_script_at_a_rate_loops_until_the_simulator_stops(simulator: Simulator) -> None:
    simulator.play([new("1", "one", 0), about("deletedMessage", "1", 0)], rate=200, loop=True)
    until(lambda: simulator.state()["issued"] >= 10, 60, "ten events")
    simulator.stop()
    issued = simulator.state()["issued"]
    payloads = [entry.event.to_json()["payload"] for entry in simulator.log() if entry.event]
    ids = [payload["msgId"] for payload in payloads]
    assert all(new_id == deleted for new_id, deleted in zip(ids[::2], ids[1::2], strict=False))
    assert len(set(ids[::2])) == len(ids[::2])
    assert simulator.state()["issued"] == issued


def test_log_of_a_loop_is_bounded_and_says_from_where_on_it_is_whole(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bot, "LOOP_LOG", 40)
    simulator.play([new("1", "one", 0)], rate=2000, loop=True)
    until(lambda: simulator.state()["unread"] >= 40, 60, "as many unread events as the log keeps")
    issued = simulator.state()["issued"]
    assert issued <= 41, "the script waits for a reader"
    for n in range(200):
        simulator.events.note_poll(0, n)
    log = requests.get(f"{simulator.address}/simulator/log", timeout=10).json()
    numbers = [entry["number"] for entry in log["entries"]]
    assert len(numbers) <= issued + 44
    assert numbers[:issued] == list(range(1, issued + 1)), "what is unread stays"
    assert [n for n in numbers if n >= log["first"]] == list(range(log["first"], log["next"] + 1))
    assert log["next"] == simulator.state()["logged"] == issued + 200
    requests.get(f"{simulator.url}/events/get", timeout=10, params={
        "token": simulator.token, "lastEventId": issued, "pollTime": 0,
    })  # fmt: skip
    until(lambda: simulator.state()["issued"] >= issued + 40, 60, "the script to go on")
    assert len(simulator.log()) <= 2 * 44
    assert simulator.log()[0].number > issued


def test_an_empty_script_ends_at_once(simulator: Simulator) -> None:
    simulator.play([], rate=1, loop=True)
    assert "script" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize(("rate", "loop"), [(None, True), (0, False), (-1, True), (float("nan"), False)])
def test_a_loop_without_a_rate_and_a_wrong_rate_are_refused(
    simulator: Simulator, rate: float | None, loop: bool
) -> None:
    with pytest.raises(UsageError):
        simulator.play([new("1", "one", 0)], rate=rate, loop=loop)
    assert simulator.state()["issued"] == 0


def test_a_rate_is_kept(simulator: Simulator) -> None:
    simulator.play([new(str(n), "x", 0) for n in range(5)], rate=20)
    until(lambda: simulator.state()["issued"] == 5, 60, "five events")
    times = [entry.at for entry in simulator.log()]
    assert times[-1] - times[0] >= 0.19


def test_the_built_in_conversation_is_readable_and_complete(simulator: Simulator) -> None:
    simulator.play(CONVERSATION)
    client = BotClient(simulator.url, simulator.token)
    events = read(client.poll(0, 0), datetime.now(UTC))
    client.close()
    assert [event for event in events if event.error] == []
    kinds = Counter(event.type for event in events)
    assert kinds["newMessage"] >= 200
    assert kinds.keys() >= {
        "newMessage", "editedMessage", "deletedMessage", "pinnedMessage", "newChatMembers", "leftChatMembers",
    }  # fmt: skip
    assert len({event.chat_id for event in events}) >= 4
    parts = [part for event in events if event.facts.message and event.facts.message.content
             for part in event.facts.message.content.parts or ()]  # fmt: skip
    assert {part["type"] for part in parts} >= {"reply", "file", "mention"}
    for part in parts:
        if part["type"] == "reply":
            assert part["payload"]["message"].keys() >= {"from", "timestamp"}, part
    sent = [event.occurred_at for event in events if event.type == "newMessage"]
    assert sent == sorted(sent) and sent[-1] <= datetime.now(UTC)
