"""The simulator's answers to the Bot API's methods, by GET, urlencoded POST and multipart POST."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
import requests

from vkteams_daemon.simulator import Simulator
from vkteams_daemon.simulator.methods import METHODS, PAGE

GROUP = "681869378@chat.agent"
ANNA = "a.ivanova@corp.example"
WAYS = ("get", "urlencoded", "multipart")


class Caller:
    """Calls methods of the Bot API in one of the three ways."""

    def __init__(self, simulator: Simulator, way: str = "get") -> None:
        self.simulator, self.way = simulator, way

    def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        url, parameters = f"{self.simulator.url}/{method}", {"token": self.simulator.token} | params
        if self.way == "get":
            answer = requests.get(url, params=parameters, timeout=30)
        elif self.way == "urlencoded":
            answer = requests.post(url, data=parameters, timeout=30)
        else:
            many = [(k, v) for k, vs in parameters.items() for v in (vs if isinstance(vs, list) else [vs])]
            answer = requests.post(url, files=[(name, (None, str(value))) for name, value in many], timeout=30)
        assert answer.status_code == 200
        return answer.json()  # type: ignore[no-any-return]


@pytest.fixture(params=WAYS)
def call(simulator: Simulator, request: pytest.FixtureRequest) -> Caller:
    return Caller(simulator, request.param)


def _refusal(answer: dict[str, Any]) -> str:
    assert answer["ok"] is False
    return str(answer["description"])


def test_every_method_needs_the_token_and_refuses_a_wrong_one(simulator: Simulator) -> None:
    for method in (*METHODS, "events/get"):
        missing = requests.get(f"{simulator.url}/{method}", timeout=30)
        wrong = requests.get(f"{simulator.url}/{method}", params={"token": "001.1.1:1"}, timeout=30)
        assert (missing.status_code, wrong.status_code) == (200, 200)
        assert missing.json() == {"ok": False, "description": "Missing required parameter 'token'"}
        assert wrong.json() == {"ok": False, "description": "Invalid token"}


def test_unknown_methods_and_other_paths_are_not_found(simulator: Simulator) -> None:
    for path in ("/bot/v1/messages/send", "/bot/v1", "/", "/self/get", "/bot/v1/"):
        assert requests.get(simulator.address + path, params={"token": simulator.token}, timeout=30).status_code == 404


def test_the_token_contains_the_id_of_the_bot(make_simulator: Any) -> None:
    answer = Caller(make_simulator(token="001.1.2:777"))("self/get")
    assert (answer["ok"], answer["userId"], answer["nick"]) == (True, "777", "opsbot")


def test_a_text_is_sent_edited_and_deleted_without_an_event(call: Caller) -> None:
    sent = call("messages/sendText", chatId=GROUP, text="Привет & mehr")
    other = call("messages/sendText", chatId=GROUP, text="two")
    assert sent["msgId"].isdigit() and int(other["msgId"]) > int(sent["msgId"]) > 2**53
    assert call("messages/editText", chatId=GROUP, msgId=sent["msgId"], text="Anders")["ok"]
    assert call.simulator.world.messages[GROUP, sent["msgId"]]["text"] == "Anders"
    assert call("messages/deleteMessages", chatId=GROUP, msgId=[sent["msgId"], other["msgId"]])["ok"]
    assert not call.simulator.world.messages
    assert "unknown msgId" in _refusal(call("messages/editText", chatId=GROUP, msgId=sent["msgId"], text="x"))
    assert call.simulator.state()["issued"] == 0


def test_nothing_is_deleted_when_one_message_is_unknown(call: Caller) -> None:
    sent = call("messages/sendText", chatId=GROUP, text="stays")["msgId"]
    assert "unknown msgId" in _refusal(call("messages/deleteMessages", chatId=GROUP, msgId=[sent, "7"]))
    assert (GROUP, sent) in call.simulator.world.messages


def test_a_reply_and_a_forward_quote_the_message(call: Caller) -> None:
    said = call.simulator.say(GROUP, ANNA, "When?")["payload"]["msgId"]
    keyboard = json.dumps([[{"text": "Ack", "callbackData": "ack:7"}]])
    replied = call("messages/sendText", chatId=GROUP, text="Now", replyMsgId=said, inlineKeyboardMarkup=keyboard)
    forwarded = call("messages/sendText", chatId=ANNA, forwardChatId=GROUP, forwardMsgId=[said])
    reply = call.simulator.world.messages[GROUP, replied["msgId"]]["parts"]
    forward = call.simulator.world.messages[ANNA, forwarded["msgId"]]["parts"]
    assert [part["type"] for part in reply] == ["reply", "inlineKeyboardMarkup"]
    assert forward[0]["type"] == "forward"
    assert reply[0]["payload"]["message"]["text"] == forward[0]["payload"]["message"]["text"] == "When?"


@pytest.mark.parametrize(
    ("method", "params", "description"),
    [
        ("messages/sendText", {"text": "x"}, "Missing required parameter 'chatId'"),
        ("messages/sendText", {"chatId": GROUP}, "Missing required parameter 'text'"),
        ("messages/sendText", {"chatId": GROUP, "text": "x", "parseMode": "TeX"}, "Bad request: unknown parseMode"),
        ("messages/sendText", {"chatId": GROUP, "text": "x", "format": "[1"}, "Bad request: format"),
        ("messages/sendText", {"chatId": GROUP, "text": "x", "inlineKeyboardMarkup": "{}"}, "Bad request: inlineKey"),
        ("messages/sendText", {"chatId": GROUP, "text": "x", "forwardMsgId": "1"}, "Bad request: forwardChatId"),
        ("messages/sendText", {"chatId": GROUP, "text": "x", "replyMsgId": "1"}, "Bad request: unknown msgId"),
        ("messages/sendFile", {"chatId": GROUP, "fileId": "nothing"}, "Bad request: unknown fileId"),
        ("messages/sendVoice", {"chatId": GROUP}, "Missing required parameter 'fileId'"),
        ("messages/answerCallbackQuery", {"queryId": "SVR:1"}, "Bad request: unknown queryId"),
        ("chats/getInfo", {"chatId": "9@chat.agent"}, "Bad request: unknown chatId"),
        ("chats/sendActions", {"chatId": GROUP, "actions": "dancing"}, "Bad request: unknown action"),
        ("chats/pinMessage", {"chatId": "9@chat.agent", "msgId": "1"}, "Bad request: unknown chatId"),
        ("files/getInfo", {"fileId": "nothing"}, "Bad request: unknown fileId"),
        ("threads/add", {"chatId": GROUP, "msgId": "1"}, "Bad request: unknown msgId"),
        ("chats/getMembers", {"chatId": "7@chat.agent", "cursor": "-3"}, "Bad request: cursor is below zero"),
        ("events/get", {"lastEventId": "0"}, "Missing required parameter 'pollTime'"),
        ("events/get", {"lastEventId": "1.5", "pollTime": "1"}, "Bad request: lastEventId"),
        ("events/get", {"lastEventId": "0", "pollTime": "nan"}, "Bad request: pollTime"),
    ],
)
def test_wrong_parameters_are_refused(simulator: Simulator, method: str, params: Any, description: str) -> None:
    simulator.event("newChatMembers", {"chat": {"chatId": "7@chat.agent", "type": "group"}})
    for way in WAYS:
        assert _refusal(Caller(simulator, way)(method, **params)).startswith(description)


def test_only_its_own_messages_can_be_edited(simulator: Simulator) -> None:
    said = simulator.say(GROUP, ANNA, "mine")["payload"]["msgId"]
    answer = Caller(simulator)("messages/editText", chatId=GROUP, msgId=said, text="yours")
    assert _refusal(answer) == "Permission denied"


def test_a_file_is_uploaded_described_fetched_and_sent_again(simulator: Simulator) -> None:
    content = bytes(range(256)) * 40 + b"\r\n--not-a-boundary\r\n"
    sent = requests.post(
        f"{simulator.url}/messages/sendFile",
        params={"token": simulator.token, "chatId": GROUP, "caption": "Отчёт"},
        files={"file": ("отчёт.bin", content, "image/png")},
        timeout=30,
    ).json()
    call = Caller(simulator)
    info = call("files/getInfo", fileId=sent["fileId"])
    assert (info["type"], info["size"], info["filename"]) == ("image", len(content), "отчёт.bin")
    assert requests.get(info["url"], timeout=30).content == content
    again = call("messages/sendVoice", chatId=GROUP, fileId=sent["fileId"])
    parts = simulator.world.messages[GROUP, again["msgId"]]["parts"]
    assert parts == [{"type": "voice", "payload": {"fileId": sent["fileId"]}}]
    assert simulator.world.messages[GROUP, sent["msgId"]]["text"] == "Отчёт"


def test_a_file_of_an_event_is_known(simulator: Simulator) -> None:
    for file_id in ("0AbC", "a b?c#d/é%20"):
        simulator.say(GROUP, ANNA, parts=[{"type": "file", "payload": {"fileId": file_id}}])
        info = Caller(simulator)("files/getInfo", fileId=file_id)
        assert info["filename"] == file_id
        assert requests.get(info["url"], timeout=30).status_code == 200


def test_a_file_whose_type_is_not_ascii_can_be_fetched(simulator: Simulator) -> None:
    body = '--x\r\nContent-Disposition: form-data; name="f"; filename="f"\r\nContent-Type: текст\r\n\r\n1\r\n--x--'
    sent = requests.post(
        f"{simulator.url}/messages/sendFile",
        params={"token": simulator.token, "chatId": GROUP},
        data=body.encode(),
        headers={"Content-Type": "multipart/form-data; boundary=x"},
        timeout=30,
    ).json()
    fetched = requests.get(Caller(simulator)("files/getInfo", fileId=sent["fileId"])["url"], timeout=30)
    assert (fetched.content, fetched.headers["Content-Type"]) == (b"1", "application/octet-stream")


def test_a_thread_may_hang_on_a_msg_id_that_is_not_a_number(simulator: Simulator) -> None:
    for msg_id in ("²", "9" * 5000):
        simulator.event("newMessage", {"msgId": msg_id, "chat": {"chatId": GROUP}})
        thread = Caller(simulator, "urlencoded")("threads/add", chatId=GROUP, msgId=msg_id)["threadId"]
        assert simulator.say(thread, ANNA, "x")["payload"]["parent_topic"]["messageId"] == msg_id


@pytest.mark.parametrize(
    ("request_line", "length", "status"), [("/", "9" * 5000, 411), ("/", "-1", 411), ("http://[/x", "0", 400)]
)
def test_a_malformed_request_gets_an_error_status(
    simulator: Simulator, request_line: str, length: str, status: int
) -> None:
    with socket.create_connection(("127.0.0.1", simulator.port), 30) as client:
        client.sendall(f"GET {request_line} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n".encode())
        assert client.recv(65536).startswith(f"HTTP/1.1 {status} ".encode())


def test_a_body_that_is_not_multipart_is_refused(simulator: Simulator) -> None:
    answer = requests.post(
        f"{simulator.url}/messages/sendFile",
        params={"token": simulator.token, "chatId": GROUP},
        data=b"no parts at all",
        headers={"Content-Type": "multipart/form-data; boundary=x"},
        timeout=30,
    )
    assert "multipart" in _refusal(answer.json())


def test_chats_are_learnt_from_events(call: Caller) -> None:
    call.simulator.say(GROUP, ANNA, "Hello", title="Ops", firstName="Anna")
    call.simulator.event(
        "newChatMembers", {"chat": {"chatId": GROUP, "type": "group"}, "newMembers": [{"userId": "p"}]}
    )
    info = call("chats/getInfo", chatId=GROUP)
    assert (info["type"], info["title"]) == ("group", "Ops")
    call.simulator.event("changedChatInfo", {"chat": {"chatId": "9@chat.agent"}})
    assert call("chats/getInfo", chatId="9@chat.agent")["type"] == "group"
    call.simulator.event("changedChatInfo", {"chat": {"chatId": "9@chat.agent", "type": "channel"}})
    assert call("chats/getInfo", chatId="9@chat.agent")["type"] == "channel", "the type may come later"
    assert call("chats/getInfo", chatId=ANNA)["firstName"] == "Anna"
    members = call("chats/getMembers", chatId=GROUP)["members"]
    bot = call.simulator.world.bot["userId"]
    assert members == [{"userId": bot}, {"userId": ANNA, "creator": True, "admin": True}, {"userId": "p"}]
    assert call("chats/getAdmins", chatId=GROUP)["admins"] == [{"userId": ANNA, "creator": True}]
    call.simulator.event("leftChatMembers", {"chat": {"chatId": GROUP}, "leftMembers": [{"userId": "p"}]})
    assert {"userId": "p"} not in call("chats/getMembers", chatId=GROUP)["members"]
    assert "private chat" in _refusal(call("chats/getMembers", chatId=ANNA))


def test_members_come_page_by_page(simulator: Simulator) -> None:
    people = [{"userId": f"u{n}"} for n in range(2 * PAGE)]
    simulator.event("newChatMembers", {"chat": {"chatId": GROUP, "type": "group"}, "newMembers": people})
    call, seen, cursor = Caller(simulator), [], {}
    while True:
        page = call("chats/getMembers", chatId=GROUP, **cursor)
        seen += [member["userId"] for member in page["members"]]
        if "cursor" not in page:
            break
        cursor = {"cursor": page["cursor"]}
    assert len(seen) == len(set(seen)) == 2 * PAGE + 1


def test_pins_actions_callbacks_and_threads(call: Caller) -> None:
    simulator = call.simulator
    said = simulator.say(GROUP, ANNA, "Topic")["payload"]["msgId"]
    assert call("chats/pinMessage", chatId=GROUP, msgId=said)["ok"]
    assert simulator.world.chats[GROUP].pinned == [said]
    assert call("chats/unpinMessage", chatId=GROUP, msgId=said)["ok"]
    assert simulator.world.chats[GROUP].pinned == []
    assert call("chats/sendActions", chatId=GROUP, actions=["looking", "typing"])["ok"]
    assert call("chats/sendActions", chatId=GROUP, actions="")["ok"]
    simulator.event("callbackQuery", {"queryId": "SVR:1:2", "callbackData": "x", "from": {"userId": ANNA}})
    assert call("messages/answerCallbackQuery", queryId="SVR:1:2", text="done", showAlert="true")["ok"]
    thread = call("threads/add", chatId=GROUP, msgId=said)["threadId"]
    assert call("threads/add", chatId=GROUP, msgId=said)["threadId"] == thread != GROUP
    topic = simulator.say(thread, ANNA, "in the thread")["payload"]["parent_topic"]
    assert topic == {"chatId": GROUP, "messageId": int(said), "type": "message"}
