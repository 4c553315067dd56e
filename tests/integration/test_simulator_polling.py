"""events/get of the simulator: the long poll and acknowledging, with each quirk where the real API is unknown."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.harness.simulator import wait_polled
from tests.harness.waiting import until
from vkteams_daemon.simulator import Simulator
from vkteams_daemon.simulator.event_log import Draft
from vkteams_daemon.simulator.waiter import PollWaiter

GROUP = {"chatId": "681869378@chat.agent", "type": "group", "title": "Ops"}
ANNA = {"userId": "a.ivanova@corp.example", "firstName": "Anna"}


def poll(simulator: Simulator, last_event_id: int = 0, poll_time: float = 0) -> list[dict[str, Any]]:
    params = {"token": simulator.token, "lastEventId": last_event_id, "pollTime": poll_time}
    answer = requests.get(f"{simulator.url}/events/get", params=params, timeout=poll_time + 60).json()
    assert answer["ok"] is True
    return answer["events"]  # type: ignore[no-any-return]


def ids(events: list[dict[str, Any]]) -> list[int]:
    return [event["eventId"] for event in events]


def issue(simulator: Simulator, count: int) -> None:
    chat = {"chatId": GROUP["chatId"], "type": "group"}
    payload = {"chat": chat, "from": ANNA, "timestamp": 1764000000, "text": "Текст " * 20}
    simulator.issue([Draft("newMessage", payload | {"msgId": str(7576322310144000000 + n)}) for n in range(count)])


def test_a_poll_without_events_is_held_for_its_time(simulator: Simulator) -> None:
    began = time.monotonic()
    assert poll(simulator, poll_time=0.5) == []
    assert time.monotonic() - began >= 0.5


def test_a_held_poll_is_woken_by_an_event(simulator: Simulator) -> None:
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(poll, simulator, 0, 60)
        wait_polled(simulator)
        event = simulator.say("1@chat.agent", "anna", "Привет")
        assert answer.result(30) == [event]


def test_a_poll_ends_when_its_client_hangs_up(simulator: Simulator) -> None:
    before = set(threading.enumerate())
    clients = []
    for _ in range(5):
        client = socket.create_connection(("127.0.0.1", simulator.port))
        target = f"/bot/v1/events/get?token={simulator.token}&lastEventId=0&pollTime=60"
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        clients.append(client)
    wait_polled(simulator, 5)
    for client in clients:
        client.close()
    until(lambda: simulator.state()["waiting"] == 0, 30, "the end of the polls")
    until(lambda: not set(threading.enumerate()) - before, 30, "the end of their threads")


def test_a_request_sent_ahead_is_answered_after_the_held_one(simulator: Simulator) -> None:
    with socket.create_connection(("127.0.0.1", simulator.port)) as client:
        target = f"/bot/v1/events/get?token={simulator.token}&lastEventId=0&pollTime=0.6"
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        wait_polled(simulator)
        client.sendall(f"GET /bot/v1/self/get?token={simulator.token} HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
        client.settimeout(30)
        used = time.process_time()
        answers = b""
        while received := client.recv(65536):
            answers += received
    assert time.process_time() - used < 0.3, "the request that waits must not keep the thread of the held one busy"
    assert answers.count(b"HTTP/1.1 200") == 2
    assert answers.index(b'"events":[]') < answers.index(b'"userId"')


def test_acknowledged_events_are_gone_for_every_later_cursor(simulator: Simulator) -> None:
    issue(simulator, 5)
    assert ids(poll(simulator, 0)) == [1, 2, 3, 4, 5]
    assert ids(poll(simulator, 0)) == [1, 2, 3, 4, 5]
    assert ids(poll(simulator, 3)) == [4, 5]
    assert ids(poll(simulator, 1)) == [4, 5]
    assert poll(simulator, 5) == []
    assert poll(simulator, 0) == []
    assert simulator.state() | {"logged": 0} == {
        "issued": 5, "highestEventId": 5, "acknowledged": 5, "unread": 0, "polls": 6, "waiting": 0, "logged": 0,
    }  # fmt: skip


def test_a_lenient_simulator_answers_acknowledged_events_again(make_simulator: Callable[..., Simulator]) -> None:
    simulator = make_simulator(lenient=True)
    issue(simulator, 4)
    assert ids(poll(simulator, 3)) == [4]
    assert ids(poll(simulator, 1)) == [2, 3, 4]
    assert simulator.state()["unread"] == 1


def test_twenty_pollers_get_ten_thousand_events_at_once(simulator: Simulator) -> None:
    with ThreadPoolExecutor(20) as threads:
        answers = [threads.submit(poll, simulator, 0, 60) for _ in range(20)]
        wait_polled(simulator, 20)
        issue(simulator, 10_000)
        for answer in answers:
            assert ids(answer.result(100)) == list(range(1, 10_001))


def test_an_idle_simulator_uses_no_cpu(simulator: Simulator) -> None:
    """Counted in switches of the simulator's own threads, which neither load nor another test's threads change."""
    with ThreadPoolExecutor(20) as threads:
        answers = [threads.submit(poll, simulator, 0, 60) for _ in range(20)]
        wait_polled(simulator, 20)
        until(lambda: _quiet(1.2), 60, "a second in which none of its threads ran")
        simulator.stop()
        for answer in answers:
            answer.exception(30)


def _quiet(seconds: float) -> bool:
    before = _switches()
    threading.Event().wait(seconds)
    # A loop that looks twice a second would have been switched away two times more.
    return len(before) > 20 and _switches() == before


def _switches() -> dict[int, int]:
    """How often each thread of the simulator has gone to sleep so far, by its id."""
    counts = {}
    for thread in threading.enumerate():
        if thread.name == "simulator" or "process_request_thread" in thread.name:
            status = Path(f"/proc/self/task/{thread.native_id}/status").read_text(encoding="ascii")
            (line,) = (line for line in status.splitlines() if line.startswith("voluntary_ctxt_switches"))
            counts[thread.native_id or 0] = int(line.split()[1])
    return counts


def test_both_pollers_get_the_events(simulator: Simulator) -> None:
    with ThreadPoolExecutor(2) as threads:
        answers = [threads.submit(poll, simulator, 0, 60) for _ in range(2)]
        wait_polled(simulator, 2)
        issue(simulator, 1)
        assert [ids(answer.result(30)) for answer in answers] == [[1], [1]]


def test_the_newest_poller_takes_the_events(make_simulator: Callable[..., Simulator]) -> None:
    simulator = make_simulator(one_poller=True)
    with ThreadPoolExecutor(2) as threads:
        older = threads.submit(poll, simulator, 0, 60)
        wait_polled(simulator)
        newer = threads.submit(poll, simulator, 0, 60)
        assert older.result(30) == []
        issue(simulator, 1)
        assert ids(newer.result(30)) == [1]


def test_a_superseded_poll_returns_no_later_event(
    make_simulator: Callable[..., Simulator], monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator = make_simulator(one_poller=True)
    with ThreadPoolExecutor(2) as threads:
        older = threads.submit(poll, simulator, 0, 60)
        wait_polled(simulator)
        with monkeypatch.context() as patch:
            patch.setattr(
                PollWaiter, "wake", lambda waiter: None
            )  # so that the older poll wakes only when the event is there
            newer = threads.submit(poll, simulator, 0, 60)
            wait_polled(simulator, 2)
        issue(simulator, 1)
        assert (ids(older.result(30)), ids(newer.result(30))) == ([], [1])


def test_gap_and_batch_limit_ids_and_answers(make_simulator: Callable[..., Simulator]) -> None:
    simulator = make_simulator(gap=9, batch=2)
    issue(simulator, 3)
    assert ids(poll(simulator, 0)) == [1, 11]
    assert ids(poll(simulator, 11)) == [21]


def test_restarted_ids_are_answered_to_an_old_cursor(simulator: Simulator) -> None:
    issue(simulator, 5)
    poll(simulator, 4)
    with ThreadPoolExecutor() as threads:
        held = threads.submit(poll, simulator, 5, 60)
        wait_polled(simulator)
        simulator.restart_ids()
        issue(simulator, 2)
        assert ids(held.result(30))[0] == 1
    assert ids(poll(simulator, 5)) == [1, 2]
    assert ids(poll(simulator, 1)) == [2]


def test_restarted_ids_above_the_cursor_of_a_held_poll_are_all_answered(simulator: Simulator) -> None:
    issue(simulator, 5)
    with ThreadPoolExecutor() as threads:
        held = threads.submit(poll, simulator, 5, 60)
        wait_polled(simulator)
        simulator.restart_ids()
        issue(simulator, 10)
        assert ids(held.result(30)) == list(range(1, 11))


def test_a_cursor_above_every_id_gets_all_events_even_when_the_ids_pass_it_at_once(simulator: Simulator) -> None:
    with ThreadPoolExecutor() as threads:
        held = threads.submit(poll, simulator, 5, 60)
        wait_polled(simulator)
        issue(simulator, 10)
        assert ids(held.result(30)) == list(range(1, 11))


def test_unread_events_get_new_ids_when_the_ids_restart(simulator: Simulator) -> None:
    issue(simulator, 3)
    unread = poll(simulator, 2)
    simulator.restart_ids(100)
    assert poll(simulator, 0) == [unread[0] | {"eventId": 100}]
    assert [entry.kind for entry in simulator.log()][-3:] == ["restart", "event", "poll"]


def test_obey_foreign_cursor_acknowledges_the_unread_events(make_simulator: Callable[..., Simulator]) -> None:
    simulator = make_simulator(obey_foreign_cursor=True)
    issue(simulator, 2)
    assert poll(simulator, 500) == []
    assert poll(simulator, 0) == []
    with ThreadPoolExecutor() as threads:
        held = threads.submit(poll, simulator, 500, 60)
        wait_polled(simulator)
        issue(simulator, 1)
        assert ids(held.result(30)) == [3]
    assert [ids(poll(simulator, 0)) for _ in range(2)] == [[3], [3]], "no later event is acknowledged"
    assert simulator.state()["acknowledged"] == 2


def test_a_late_event_is_answered_once_below_the_cursor(simulator: Simulator) -> None:
    issue(simulator, 3)
    assert poll(simulator, 3) == []
    for _ in range(2):  # a second one with the same id is another event
        simulator.event("newMessage", {"msgId": "late"}, event_id=2)
        assert ids(poll(simulator, 3)) == [2]
    assert poll(simulator, 3) == []


@pytest.mark.parametrize("event_id", ["seven", -1, 2.5, None, 2**70])
def test_an_event_may_have_any_id(simulator: Simulator, event_id: Any) -> None:
    draft = Draft(raw=b'{"eventId":null,"type":"x"}') if event_id is None else Draft("x", {}, event_id)
    simulator.issue([draft])
    assert ids(poll(simulator, -5)) == [event_id]


def test_hostile_events_are_answered_byte_for_byte(simulator: Simulator) -> None:
    simulator.raw('{"eventId":$eventId,"type":"newMessage","payload":{"text":"\\ud800 \\u0000","n":NaN}}')
    simulator.raw(b'{"eventId":$eventId,"payload":"\xff\xfe"}')
    simulator.raw("[" * 2000 + "]" * 2000)
    simulator.event("newMessage", {"text": "\ud800"})
    params: dict[str, Any] = {"token": simulator.token, "lastEventId": 0, "pollTime": 0}
    body = requests.get(f"{simulator.url}/events/get", params=params, timeout=30).content
    assert b'{"eventId":1,"type":"newMessage","payload":{"text":"\\ud800 \\u0000","n":NaN}}' in body
    assert b'{"eventId":2,"payload":"\xff\xfe"}' in body
    assert b"[" * 2000 + b"]" * 2000 in body
    assert b'"text":"\\ud800"' in body


def test_quirks_change_the_shapes_of_events(make_simulator: Callable[..., Simulator]) -> None:
    simulator = make_simulator(format_keys="camel", text_message_id=True, wrapped_callbacks=True, ghosts=True)
    topic = {"chatId": "1@chat.agent", "messageId": 7576322310144000017}
    simulator.event("newMessage", {"msgId": "1", "format": {"inline_code": []}, "parent_topic": topic})
    simulator.event("callbackQuery", {"queryId": "1", "message": {"msgId": "2"}})
    simulator.event("deletedMessage", {"msgId": "1", "chat": GROUP, "timestamp": 1764000000})
    new, callback, deleted, ghost = poll(simulator)
    assert new["payload"]["format"] == {"inlineCode": []}
    assert new["payload"]["parent_topic"]["messageId"] == "7576322310144000017"
    assert callback["payload"]["message"]["payload"] == {"msgId": "2"}
    assert (deleted["type"], ghost["type"]) == ("deletedMessage", "newMessage")
    assert ghost["payload"].keys() == {"msgId", "chat", "timestamp", "editedTimestamp"}
    simulator.quirks.change({"format_keys": "snake"})
    simulator.event("newMessage", {"msgId": "3", "format": {"inlineCode": []}})
    assert poll(simulator, 4)[0]["payload"]["format"] == {"inline_code": []}


def test_a_stopped_simulator_starts_again_on_its_port_with_its_state(simulator: Simulator) -> None:
    issue(simulator, 2)
    with ThreadPoolExecutor() as threads:
        held = threads.submit(poll, simulator, 2, 60)
        wait_polled(simulator)
        simulator.stop()
        held.exception(30)
    with pytest.raises(requests.ConnectionError):
        poll(simulator)
    issue(simulator, 1)
    simulator.start()
    assert ids(poll(simulator, 2)) == [3]


def test_a_stopped_simulator_closes_idle_connections_too(simulator: Simulator) -> None:
    with socket.create_connection(("127.0.0.1", simulator.port)) as client:
        client.settimeout(30)
        client.sendall(f"GET /bot/v1/self/get?token={simulator.token} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        simulator.stop()
        while client.recv(65536):
            pass


def test_the_log_has_every_issued_event_and_every_cursor(simulator: Simulator) -> None:
    seen: list[tuple[int, int]] = []
    simulator.on_poll = lambda last_event_id: seen.append((last_event_id, simulator.state()["unread"]))
    simulator.event("changedChatInfo", {"chat": GROUP, "title": "Ops"})
    poll(simulator, 0)
    poll(simulator, 1)
    entries = [entry.to_json() for entry in simulator.log()]
    assert [(entry["kind"], entry.get("eventId"), entry.get("lastEventId")) for entry in entries] == [
        ("event", 1, None), ("poll", None, 0), ("poll", None, 1),
    ]  # fmt: skip
    assert entries[0]["event"]["type"] == "changedChatInfo"
    assert sorted(entry["at"] for entry in entries) == [entry["at"] for entry in entries]
    assert seen == [(0, 1), (1, 1)], "the hook is called before anything is acknowledged"
    assert simulator.token not in json.dumps(entries)
