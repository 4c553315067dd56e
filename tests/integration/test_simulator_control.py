"""The paths under /simulator/: messages of people, events, the log; from this machine only."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.harness.simulator import SimulatorClient
from vkteams_daemon.ctl.main import main
from vkteams_daemon.simulator import Quirks, Simulator
from vkteams_daemon.simulator.control import ACTIONS
from vkteams_daemon.simulator.faults import FAULTS
from vkteams_daemon.simulator.http import Server
from vkteams_daemon.simulator.methods import METHODS
from vkteams_daemon.simulator.speech import JSON_FIELDS, TEXT_FIELDS

GROUP, ANNA = "681869378@chat.agent", "a.ivanova@corp.example"
PAGE = Path(__file__).parents[2] / "docs" / "simulator.md"


@pytest.fixture
def control(simulator: Simulator) -> SimulatorClient:
    return SimulatorClient(simulator.address)


def test_a_person_sends_replies_forwards_and_edits(control: SimulatorClient) -> None:
    first = control.say(GROUP, ANNA, "Where?", firstName="Anna", title="Ops", format={"bold": [{"offset": 0}]})
    payload = first["payload"]
    assert (first["eventId"], first["type"]) == (1, "newMessage")
    assert payload["chat"] == {"chatId": GROUP, "type": "group", "title": "Ops"}
    assert payload["from"] == {"userId": ANNA, "firstName": "Anna"}
    assert payload["format"] == {"bold": [{"offset": 0}]}
    assert int(payload["msgId"]) >> 32 == payload["timestamp"]
    mention = {"type": "mention", "payload": {"userId": ANNA}}
    reply = control.say(GROUP, "petr", "Here", replyMsgId=payload["msgId"], parts=[mention])["payload"]
    assert [part["type"] for part in reply["parts"]] == ["mention", "reply"]
    assert reply["parts"][1]["payload"]["message"] == {
        key: payload[key] for key in ("msgId", "from", "text", "timestamp")
    }
    forward = control.ask(
        "/messages", {"chatId": "petr", "userId": "petr", "forwardChatId": GROUP, "forwardMsgId": payload["msgId"]}
    )["payload"]
    assert forward["chat"] == {"chatId": "petr", "type": "private"} and "text" not in forward
    edited = control.say(GROUP, ANNA, "Where to?", msgId=payload["msgId"])
    assert (edited["type"], edited["payload"]["msgId"]) == ("editedMessage", payload["msgId"])
    assert edited["payload"]["timestamp"] == payload["timestamp"] <= edited["payload"]["editedTimestamp"]
    later = control.say(GROUP, "petr", "!", replyMsgId=payload["msgId"])["payload"]
    assert later["parts"][0]["payload"]["message"]["text"] == "Where to?"


def test_a_quote_leaves_out_the_quotes_inside_it(control: SimulatorClient) -> None:
    message = control.say(GROUP, ANNA, "0", parts=[{"type": "file", "payload": {"fileId": "a"}}, "odd"])["payload"]
    for n in range(1, 4):
        before, message = message, control.say(GROUP, ANNA, str(n), replyMsgId=message["msgId"])["payload"]
        quoted = message["parts"][0]["payload"]["message"]
        assert (len(message["parts"]), quoted["msgId"]) == (1, before["msgId"])
        assert quoted.get("parts") == (before["parts"] if n == 1 else None)
    for _ in range(400):
        message = control.say(GROUP, ANNA, "x", replyMsgId=message["msgId"])["payload"]
    assert control.state()["highestEventId"] == 404
    control.ask("/events", {"type": "newMessage", "payload": {"msgId": "7", "chat": {"chatId": GROUP}, "parts": 7}})
    assert control.say(GROUP, ANNA, "x", replyMsgId="7")["payload"]["parts"][0]["payload"]["message"]["parts"] == 7


def test_an_event_too_deep_for_json_takes_no_id(simulator: Simulator, control: SimulatorClient) -> None:
    issued = []
    for depth in range(800, 1000):
        payload = f'{{"chat": {{"chatId": "{depth}"}}, "x": {"[" * depth}{"]" * depth}}}'
        body = f'[{{"type": "x", "payload": 1}}, {{"type": "x", "payload": {payload}}}]'
        response = requests.post(f"{simulator.address}/simulator/events", data=body, timeout=30)
        assert response.status_code == 200 or response.json()["description"]
        issued += [str(depth)] * response.ok
    state = control.state()
    assert state["issued"] == state["highestEventId"] == 2 * len(issued)
    assert list(simulator.world.chats) == issued, "the world learns only from issued events"


@pytest.mark.parametrize(
    "body",
    [
        {"chatId": GROUP, "text": "x"},
        {"userId": ANNA, "text": "x"},
        {"chatId": GROUP, "userId": ANNA},
        {"chatId": GROUP, "userId": ANNA, "text": 1},
        {"chatId": GROUP, "userId": ANNA, "text": "x", "parts": {}},
        {"chatId": GROUP, "userId": ANNA, "text": "x", "colour": "red"},
        {"chatId": GROUP, "userId": ANNA, "text": "x", "msgId": "1"},
        {"chatId": GROUP, "userId": ANNA, "text": "x", "replyMsgId": "1"},
        {"chatId": GROUP, "userId": ANNA, "text": "x", "chat_id": GROUP},
        {"chatId": GROUP, "userId": ANNA, "text": "x", "self": "1"},
        {"chatId": GROUP, "userId": ANNA, "text": "x", "\ud800": "1"},
        [],
    ],
)
def test_a_wrong_message_is_refused(simulator: Simulator, body: Any) -> None:
    response = requests.post(f"{simulator.address}/simulator/messages", json=body, timeout=30)
    assert response.status_code == 400 and response.json()["description"]
    assert simulator.state()["issued"] == 0
    assert not simulator.world.chats and list(simulator.world.users) == [simulator.world.bot["userId"]]


def test_one_event_many_events_and_raw_events_are_issued(simulator: Simulator, control: SimulatorClient) -> None:
    assert control.ask("/events", {"type": "secret", "payload": 7})["lastEventId"] == 1
    many = [{"type": "newMessage", "payload": {"msgId": str(n)}} for n in range(10_000)]
    answer = control.ask("/events", many)
    assert (answer["issued"], answer["firstEventId"], answer["lastEventId"]) == (10_000, 2, 10_001)
    control.ask("/events", [{"raw": '{"eventId":$eventId,"x":NaN}'}, {"type": "x", "payload": {}, "eventId": "id"}])
    bodies = [entry.event.body for entry in simulator.log() if entry.event]
    assert bodies[0] == b'{"eventId":1,"type":"secret","payload":7}'
    assert bodies[-2:] == [b'{"eventId":10002,"x":NaN}', b'{"eventId":"id","type":"x","payload":{}}']
    assert control.ask("/events", [])["issued"] == 0


@pytest.mark.parametrize("body", [7, {}, {"type": "x"}, {"raw": 7}, {"raw": "x", "type": "y"}, {"typ": "x"}])
def test_a_wrong_event_is_refused(simulator: Simulator, body: Any) -> None:
    assert requests.post(f"{simulator.address}/simulator/events", json=body, timeout=30).status_code == 400


def test_the_log_is_read_page_by_page(simulator: Simulator, control: SimulatorClient) -> None:
    for n in range(5):
        simulator.event("x", n)
    page = control.ask("/log?since=1&limit=2")
    assert ([entry["event"]["payload"] for entry in page["entries"]], page["next"]) == ([1, 2], 3)
    assert len(control.log(3)) == 2
    assert control.ask("/log?since=5") == {"entries": [], "first": 1, "next": 5}
    for odd in ("since=-5", "limit=-1", "since=x"):
        assert requests.get(f"{simulator.address}/simulator/log?{odd}", timeout=30).status_code == 400
    simulator.raw("not JSON")
    assert control.log(5)[0]["event"] == "not JSON"


def test_traits_and_restart_take_valid_values_only(simulator: Simulator, control: SimulatorClient) -> None:
    assert control.state()["url"] == simulator.url
    assert control.ask("/traits", {"gap": 4})["gap"] == 4
    simulator.event("x", 1)
    assert control.ask("/restart", {"firstId": 50})["highestEventId"] == 50
    for path, body in (
        ("traits", {"gap": "4"}),
        ("traits", {"gap": -1}),
        ("traits", {"hue": 1}),
        ("traits", {"format_keys": "kebab"}),
        ("restart", {"firstId": 0}),
    ):
        assert requests.post(f"{simulator.address}/simulator/{path}", json=body, timeout=30).status_code == 400
    assert control.ask("/traits")["gap"] == 4


def test_unknown_paths_and_bodies_that_are_not_json_are_refused(simulator: Simulator) -> None:
    assert requests.get(f"{simulator.address}/simulator/nothing", timeout=30).status_code == 404
    assert requests.post(f"{simulator.address}/simulator/events", data=b"{", timeout=30).status_code == 400


@pytest.mark.parametrize(
    ("client", "status"),
    [
        ("127.0.0.1", 200),
        ("::1", 200),
        ("::ffff:127.0.0.1", 200),
        ("203.0.113.5", 403),
        ("::ffff:203.0.113.5", 403),
        ("fe80::1%eth0", 403),
    ],
)
def test_only_this_machine_may_control_it(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, client: str, status: int
) -> None:
    accept = Server.get_request
    monkeypatch.setattr(Server, "get_request", lambda self: (accept(self)[0], (client, 40000)))
    assert requests.get(f"{simulator.address}/simulator", timeout=30).status_code == status
    api = requests.get(f"{simulator.url}/self/get", params={"token": simulator.token}, timeout=30)
    assert api.json()["ok"] is True


def test_the_page_names_every_option_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulator", "run", "--help"]) == 0
    section = capsys.readouterr().out.partition("\noptions:")[2].partition("global options:")[0]
    options = set(re.findall(r"--[a-z-]+", section))
    page = PAGE.read_text(encoding="utf-8")
    assert "--rate" in options
    assert [option for option in options - {"--help"} if f"| `{option}` |" not in page] == []


def test_the_page_names_every_fault_trait_method_endpoint_and_field() -> None:
    page = PAGE.read_text(encoding="utf-8")
    traits = list(inspect.signature(Quirks).parameters)
    for name in (*FAULTS, *traits, *METHODS, *ACTIONS, *TEXT_FIELDS, *JSON_FIELDS):
        assert f"`{name}" in page, f"docs/simulator.md does not mention {name}"
    table = page.partition("## Faults")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\|([^|]*)\|", table, re.MULTILINE)
    documented = {
        name: (
            {key: json.loads(value) for key, value in re.findall(r"`(\w+)` \(([^)]*)\)", params)},
            description.strip(),
        )
        for name, params, description in rows
    }
    assert documented == {name: (kind.defaults, kind.description) for name, kind in FAULTS.items()}
