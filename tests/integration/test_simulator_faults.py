"""Each fault of the simulator: its plain HTTP answer, and the error that BotClient makes of it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.harness.simulator import SimulatorClient, wait_polled
from tests.harness.waiting import until
from vkteams_daemon.botapi.client import BotClient
from vkteams_daemon.botapi.events import read
from vkteams_daemon.errors import (
    ApiError,
    ApiProtocolError,
    ApiRefused,
    ApiServerError,
    ApiUnreachable,
    RateLimited,
    Unauthorised,
)
from vkteams_daemon.simulator import Simulator
from vkteams_daemon.simulator.faults import FAULTS, Fault, Stage


@pytest.fixture
def client(simulator: Simulator) -> Iterator[BotClient]:
    client = BotClient(simulator.url, simulator.token, read_margin=30)
    yield client
    client.close()


def ids(client: BotClient, cursor: int, poll_time: int = 0) -> list[int]:
    return [event.event_id for event in read(client.poll(cursor, poll_time), datetime.now(UTC))]


def plain(simulator: Simulator, cursor: int = 0, poll_time: float = 0) -> requests.Response:
    params: dict[str, Any] = {"token": simulator.token, "lastEventId": cursor, "pollTime": poll_time}
    return requests.get(f"{simulator.url}/events/get", params=params, timeout=60)


def say_messages(simulator: Simulator, events: int) -> None:
    for n in range(events):
        simulator.say("1@chat.agent", "anna", f"message {n}")


@pytest.mark.parametrize(
    ("fault", "parameters", "status", "error"),
    [
        ("rate_limit", {"retry_after": 7}, 429, RateLimited),
        ("server_error", {}, 500, ApiServerError),
        ("server_error", {"status": 503, "retry_after": 9}, 503, ApiServerError),
        ("html", {}, 502, ApiServerError),
        ("html", {"status": 200}, 200, ApiProtocolError),
        ("not_found", {}, 404, ApiProtocolError),
        ("unauthorised", {}, 401, Unauthorised),
        ("refused", {}, 200, ApiRefused),
        ("refused", {"description": "Ratelimit"}, 200, RateLimited),
        ("revoked", {}, 200, Unauthorised),
        ("early_timeout", {"after": 0.05}, 504, ApiServerError),
        ("answer", {"body": "[1]", "type": "text/plain"}, 200, ApiProtocolError),
    ],
)
def test_a_fault_replaces_the_answer_of_the_method(
    simulator: Simulator, client: BotClient, fault: str, parameters: Any, status: int, error: type[ApiError]
) -> None:
    say_messages(simulator, 2)
    simulator.faults(fault, count=2, **parameters)
    response = plain(simulator, 1)
    assert response.status_code == status
    assert simulator.state()["acknowledged"] == 0, "a request that never reached the API acknowledges nothing"
    with pytest.raises(error) as caught:
        ids(client, 1)
    assert type(caught.value) is error
    if retry_after := parameters.get("retry_after"):
        assert response.headers["Retry-After"] == str(retry_after)
        assert getattr(caught.value, "retry_after", None) == retry_after
    assert ids(client, 1) == [2], "the fault ends after its two requests"
    assert [entry.kind for entry in simulator.log() if entry.kind != "event"] == ["poll", "fault"] * 2 + ["poll"]


@pytest.mark.parametrize(("seconds", "header"), [(1234567, "1234567"), (0.5, "0.5"), (2.0, "2")])
def test_retry_after_is_written_in_full(simulator: Simulator, seconds: float, header: str) -> None:
    simulator.faults("rate_limit", retry_after=seconds)
    assert plain(simulator).headers["Retry-After"] == header


def test_a_proxy_times_out_before_the_poll_ends(simulator: Simulator) -> None:
    simulator.faults("early_timeout", after=0.4)
    began = time.monotonic()
    assert plain(simulator, poll_time=30).status_code == 504
    assert 0.4 <= time.monotonic() - began < 25


@pytest.mark.parametrize(("fault", "span"), [("deaf", {"seconds": 1e9}), ("early_timeout", {"after": 1e7})])
def test_a_request_may_be_held_for_years(simulator: Simulator, fault: str, span: Any) -> None:
    simulator.faults(fault, **span)
    with ThreadPoolExecutor() as threads:
        held = threads.submit(plain, simulator)
        wait_polled(simulator)
        simulator.events.wake()
        assert simulator.state()["waiting"] == 1
        simulator.stop()
        held.exception(30)


def test_html_is_answered_as_html(simulator: Simulator) -> None:
    simulator.faults("html")
    response = plain(simulator)
    assert response.text.startswith("<html>") and response.headers["Content-Type"] == "text/html"


def test_deaf_and_reset_give_no_answer(simulator: Simulator, client: BotClient) -> None:
    simulator.faults("reset", count=2)
    with pytest.raises(requests.ConnectionError, match="reset"):
        plain(simulator)
    with pytest.raises(ApiUnreachable, match="reset"):
        ids(client, 0)
    simulator.faults("deaf", count=2, seconds=0.1)
    with pytest.raises(requests.ConnectionError, match="without response"):
        plain(simulator)
    with pytest.raises(ApiUnreachable, match="without an answer"):
        ids(client, 0)


def test_a_held_request_ends_when_its_client_gives_up(simulator: Simulator) -> None:
    simulator.faults("deaf")
    client = BotClient(simulator.url, simulator.token, read_margin=0.2)
    with pytest.raises(ApiUnreachable, match="in time"):
        client.self_get()
    client.close()
    say_messages(simulator, 1)
    assert plain(simulator).json()["events"]


def test_truncated_and_cut_answers(simulator: Simulator, client: BotClient) -> None:
    say_messages(simulator, 3)
    whole = plain(simulator).content
    simulator.faults("truncated", count=2)
    assert plain(simulator).content == whole[: len(whole) // 2]
    with pytest.raises(ApiProtocolError):
        ids(client, 0)
    simulator.faults("cut", count=2)
    with socket.create_connection(("127.0.0.1", simulator.port)) as connection:
        target = f"/bot/v1/events/get?token={simulator.token}&lastEventId=0&pollTime=0"
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        received = b""
        while piece := connection.recv(65536):
            received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(whole)}".encode() in head
    assert body == whole[: len(whole) // 2]
    # Whether a short body is told from a garbled one depends on the HTTP library's age.
    with pytest.raises((ApiProtocolError, ApiUnreachable)):
        ids(client, 0)
    assert ids(client, 0) == [1, 2, 3]


def test_gzip_garbage_cannot_be_decoded(simulator: Simulator, client: BotClient) -> None:
    simulator.faults("gzip_garbage", count=2)
    with pytest.raises(requests.exceptions.ContentDecodingError):
        plain(simulator)
    with pytest.raises(ApiProtocolError):
        ids(client, 0)


def test_a_trickling_answer_arrives_whole(simulator: Simulator, client: BotClient) -> None:
    say_messages(simulator, 1)
    whole = plain(simulator).content
    simulator.faults("slow_body", count=2, octets=len(whole) // 4, pause=0.05)
    began = time.monotonic()
    assert plain(simulator).content == whole
    assert time.monotonic() - began >= 0.2
    assert ids(client, 0) == [1]


def test_acknowledged_events_come_again(simulator: Simulator, client: BotClient) -> None:
    say_messages(simulator, 4)
    assert ids(client, 3) == [4]
    simulator.faults("replayed", count=2, most=2)
    assert [event["eventId"] for event in plain(simulator, 3).json()["events"]] == [2, 3, 4]
    assert ids(client, 4, 60) == [3, 4], "a poll with nothing new answers them at once"
    assert ids(client, 4) == []


def test_events_out_of_order(simulator: Simulator, client: BotClient) -> None:
    simulator.faults("out_of_order", count=2)
    assert ids(client, 0) == []
    say_messages(simulator, 3)
    assert [event["eventId"] for event in plain(simulator).json()["events"]] == [3, 2, 1]
    assert ids(client, 0) == [3, 2, 1]
    assert ids(client, 0) == [1, 2, 3]


def test_answers_without_ok_until_cleared(simulator: Simulator, client: BotClient) -> None:
    simulator.faults("without_ok", count=None)
    simulator.event("newMessage", {"ok": True})
    for _ in range(3):
        assert plain(simulator).json() == {"events": [{"eventId": 1, "type": "newMessage", "payload": {"ok": True}}]}
        assert ids(client, 0) == [1]
        assert client.self_get().nick == "opsbot"
        assert client.call("chats/sendActions", chatId="1@chat.agent") == {}
    simulator.clear_faults()
    assert plain(simulator).json()["ok"] is True


def test_a_fault_may_belong_to_one_method(simulator: Simulator, client: BotClient) -> None:
    simulator.faults("server_error", method="self/get")
    assert ids(client, 0) == []
    with pytest.raises(ApiServerError):
        client.self_get()
    assert client.self_get().nick == "opsbot"


@pytest.mark.parametrize("fault", ["revoked", "early_timeout", "reset"])
def test_a_held_poll_plays_a_fault_at_once(simulator: Simulator, client: BotClient, fault: str) -> None:
    with ThreadPoolExecutor() as threads:
        held = threads.submit(ids, client, 0, 60)
        wait_polled(simulator)
        simulator.faults(fault)
        assert isinstance(held.exception(30), ApiError)


@pytest.mark.parametrize("fault", ["refused", "replayed"])
def test_of_two_held_polls_one_plays_the_fault_and_the_other_stays_held(
    simulator: Simulator, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks: list[str] = []
    take = simulator.take_fault

    def together(method: str, stage: Stage, names: tuple[str, ...] = ()) -> Fault | None:
        checks.append(stage)
        until(lambda: len(checks) >= 2, 30, "both polls to check for a fault before one takes it")
        return take(method, stage, names)

    with ThreadPoolExecutor(2) as threads:
        polls = [threads.submit(plain, simulator, 0, 60) for _ in range(2)]
        wait_polled(simulator, 2)
        monkeypatch.setattr(simulator, "take_fault", together)
        simulator.faults(fault)
        first = next(as_completed(polls, 30)).result()
        say_messages(simulator, 1)
        answers = [held.result(60) for held in polls]
    assert [answer for answer in answers if not answer.json().get("events")] == [first]
    assert [entry.kind for entry in simulator.log()].count("fault") == 1


def test_a_changed_token_revokes_the_previous_one(simulator: Simulator, client: BotClient) -> None:
    assert ids(client, 0) == []
    simulator.token = "001.1.1:1000000001"
    with pytest.raises(Unauthorised):
        ids(client, 0)
    assert simulator.log()[-1].to_json() | {"at": 0, "number": 0} == {
        "kind": "denied", "method": "events/get", "at": 0, "number": 0,
    }  # fmt: skip


def test_faults_over_http(simulator: Simulator) -> None:
    control = SimulatorClient(simulator.url)
    control.ask("/faults", [{"fault": "html", "count": 2}, {"fault": "refused", "description": "Permission denied"}])
    assert plain(simulator).status_code == 502
    assert [(fault["fault"], fault["count"], fault["played"]) for fault in control.ask("/faults")["faults"]] == [
        ("html", 1, 1), ("refused", 1, 0),
    ]  # fmt: skip
    assert plain(simulator).status_code == 502
    assert plain(simulator).json() == {"ok": False, "description": "Permission denied"}
    control.ask("/faults", {"fault": "revoked", "count": None})
    control.ask("/faults", method="DELETE")
    assert plain(simulator).json()["ok"] is True
    assert control.ask("/faults")["faults"] == []


@pytest.mark.parametrize(
    "fault",
    [
        {},
        {"fault": "nothing"},
        {"fault": "html", "count": 0},
        {"fault": "html", "count": True},
        {"fault": "html", "status": "502"},
        {"fault": "html", "colour": 1},
        {"fault": "html", "method": "self/got"},
        {"fault": "slow_body", "pause": -1},
        {"fault": "slow_body", "pause": None},
        {"fault": []},
        {"fault": "html", "name": "html"},
        {"fault": "html", "self": 1},
        {"fault": "html", "method": []},
        {"fault": "html", "\ud800": 1},
        {"fault": "html", "status": 5e20},
        {"fault": "html", "status": 99},
        {"fault": "server_error", "status": float("inf")},
        {"fault": "slow_body", "octets": float("inf")},
        {"fault": "deaf", "seconds": float("nan")},
        {"fault": "answer", "type": "текст"},
        {"fault": "answer", "type": "a\r\nb"},
        [{"fault": "html"}, {"fault": "html", "count": 0}],
    ],
)
def test_a_fault_that_does_not_exist_is_refused(simulator: Simulator, fault: Any) -> None:
    response = requests.post(f"{simulator.address}/simulator/faults", data=json.dumps(fault), timeout=30)
    assert response.status_code == 400 and response.json()["ok"] is False
    assert simulator.fault_list.to_json() == []


def test_every_fault_is_played_in_this_file() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in FAULTS if json.dumps(name) not in text] == []
