from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.harness.samples import (
    ANNA,
    ARRIVAL,
    BOT,
    FILE,
    FORWARD,
    GROUP,
    KEYBOARD,
    MESSAGE,
    PETR,
    QUOTED,
    REPLY,
    SAMPLES,
    TOPIC,
)  # fmt: skip
from vkteams_daemon.botapi.facts import (
    MAX_ID,
    Chat,
    Content,
    Facts,
    Membership,
    MessageFact,
    Unreadable,
    User,
    derive,
    subject_of,
)  # fmt: skip
from vkteams_daemon.botapi.message_parts import MAX_DEPTH
from vkteams_daemon.botapi.values import parse_id, parse_time

OPS = Chat("681869378@chat.agent", "group", "Ops")
SENT = datetime.fromtimestamp(1764000000, UTC)
ANNA_USER = User("a.ivanova@corp.example", "Anna", "Ivanova")
PETR_USER = User("p.petrov@corp.example", "Petr")
BOT_USER = User("1000000001", "OpsBot", nick="opsbot")
MSG = "7576322310144000017"


def _of(name: str) -> Facts:
    return derive(*SAMPLES[name], ARRIVAL)


def _content(name: str) -> Content:
    message = _of(name).message
    assert message is not None
    assert message.content is not None
    return message.content


def _new(**payload: Any) -> Content:
    message = derive("newMessage", MESSAGE | payload, ARRIVAL).message
    assert message is not None
    assert message.content is not None
    return message.content


def test_a_message_with_all_fields() -> None:
    payload = SAMPLES["a message with formats, a mention and a reply"][1]
    assert _of("a message with formats, a mention and a reply") == Facts(
        chat_id=OPS.chat_id,
        user_id=ANNA_USER.user_id,
        occurred_at=SENT,
        chats=(OPS,),
        users=(ANNA_USER, PETR_USER, BOT_USER),
        message=MessageFact(
            OPS.chat_id, MSG, ARRIVAL, SENT,
            Content(
                user_id=ANNA_USER.user_id, edited_at=None, text="Docs here @[p.petrov@corp.example]",
                format=payload["format"], parts=payload["parts"], reply_to_msg_id="7576322052445962243",
            ),
        ),
    )  # fmt: skip


def test_a_message_in_a_thread() -> None:
    facts = _of("a message in a thread")
    assert facts.chats == (Chat("693938330@chat.agent", "group", None, "681869378@chat.agent", MSG),)
    assert _content("a message in a thread").thread == TOPIC


def test_a_private_chat_has_its_peer_as_its_id() -> None:
    assert _of("a private message").chats == (Chat("a.ivanova@corp.example", "private"),)


def test_formats_stay_unchanged() -> None:
    name = "a message with formats in snake_case and camelCase"
    assert _content(name).format == SAMPLES[name][1]["format"]


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("a file with a caption and no text", "the rack", "file"), ("a sticker", None, "sticker"),
        ("a voice message", None, "voice"), ("a forward without text", "Alert #7", "forward"),
        ("a forward of two messages", "look\nAlert #7\nAlert #8", "forward"),
        ("a message with a keyboard", "choose", "inlineKeyboardMarkup"), ("a part of an unknown type", "x", "poll"),
    ],
)  # fmt: skip
def test_parts_add_to_the_searchable_text(name: str, text: str | None, kind: str) -> None:
    content = _content(name)
    assert content.text == text
    assert content.parts == SAMPLES[name][1]["parts"]
    assert content.parts[0]["type"] == kind
    assert content.forward == ([p["payload"]["message"] for p in content.parts] if kind == "forward" else None)
    assert content.reply_to_msg_id is None


def test_a_repeated_caption_or_forward_appears_once_in_the_text() -> None:
    assert _new(text="the rack", parts=[FILE]).text == "the rack"
    assert _new(text="Alert #7", parts=[FORWARD, FORWARD, FILE]).text == "Alert #7\nthe rack"


def test_a_keyboard_inside_a_quoted_message_is_ignored() -> None:
    quoted = QUOTED | {"parts": [KEYBOARD, FILE]}
    content = _new(text="yes", parts=[{"type": "reply", "payload": {"message": quoted}}])
    assert (content.text, content.reply_to_msg_id) == ("yes", "7576322052445962243")


def test_people_named_in_a_quote_within_a_quote_are_known() -> None:
    mention = {"type": "mention", "payload": {"userId": PETR["userId"], "firstName": "Petr"}}
    inner = {"type": "reply", "payload": {"message": {"msgId": "1", "from": BOT, "parts": [mention]}}}
    for kind in ("forward", "reply"):
        outer = {"type": kind, "payload": {"message": {"msgId": "2", "from": ANNA, "parts": [inner]}}}
        facts = derive("newMessage", MESSAGE | {"from": ANNA, "parts": [outer]}, ARRIVAL)
        assert facts.users == (ANNA_USER, BOT_USER, PETR_USER)


def test_quotes_are_searched_for_people_as_deep_as_for_text() -> None:
    part = {"type": "mention", "payload": {"userId": "deepest"}}
    for depth in range(1000):
        part = {"type": "forward", "payload": {"message": {"from": {"userId": f"u{depth}"}, "parts": [part]}}}
    users = derive("newMessage", MESSAGE | {"parts": [part]}, ARRIVAL).users
    assert [user.user_id for user in users[1:]] == [f"u{999 - n}" for n in range(MAX_DEPTH + 1)]


def test_a_message_without_an_author() -> None:
    facts = _of("a message without an author")
    assert (facts.user_id, facts.users) == (None, ())
    assert facts.message is not None
    assert facts.message.msg_id == MSG


@pytest.mark.parametrize(("kind", "kept"), [("a", MSG), ("no", "dC-7")])
def test_msg_ids_are_text(kind: str, kept: str) -> None:
    message = _of(f"a message whose msgId is {kind} number").message
    assert message is not None
    assert message.msg_id == kept


@pytest.mark.parametrize("name", ["an edit", "an edit with parts"])
def test_an_edit_has_its_own_time(name: str) -> None:
    facts, content = _of(name), _content(name)
    edited = datetime.fromtimestamp(SAMPLES[name][1]["editedTimestamp"], UTC)
    assert (content.edited_at, facts.occurred_at) == (edited, edited)
    assert facts.message is not None
    assert facts.message.sent_at == SENT
    assert content.text == "Docs moved"


def test_an_edit_without_its_time_takes_its_arrival() -> None:
    message = derive("editedMessage", MESSAGE | {"text": "x"}, ARRIVAL).message
    assert message is not None
    assert message.content is not None
    assert message.content.edited_at == ARRIVAL
    assert message.sent_at == SENT


def test_a_deletion_has_no_content() -> None:
    chat = "a.ivanova@corp.example"
    assert _of("a deletion").message == MessageFact(chat, MSG, ARRIVAL, SENT, None, deleted=True)


def test_the_ghost_after_a_deletion_has_no_content() -> None:
    message = _of("the ghost after a deletion").message
    assert message is not None
    assert (message.content, message.deleted) == (None, False)


def test_pins_quote_their_message() -> None:
    pin, unpin = _of("a pin").message, _of("an unpin").message
    assert pin is not None
    assert unpin is not None
    assert pin.content is not None
    assert (pin.pinned, pin.quoted, pin.content.text) == (True, True, "Docs moved")
    assert (unpin.pinned, unpin.quoted, unpin.content) == (False, False, None)


def test_members_join_and_leave() -> None:
    chat, petr, anna = OPS.chat_id, PETR_USER.user_id, ANNA_USER.user_id
    came = _of("members who come")
    assert came.members == (Membership(chat, petr, True, ARRIVAL, anna), Membership(chat, anna, True, ARRIVAL, anna))
    assert came.users == (ANNA_USER, PETR_USER)
    assert (came.occurred_at, came.user_id) == (None, None)
    assert _of("members who come by themselves").members == (Membership(chat, petr, True, ARRIVAL, None),)
    assert _of("members who go").members == (Membership(chat, petr, False, ARRIVAL, anna),)
    assert _of("members who go by themselves").members == (Membership(chat, petr, False, ARRIVAL, None),)


def test_a_new_title_replaces_the_old_one() -> None:
    for name in ("a new title", "a new title by another name"):
        assert _of(name).chats == (Chat(OPS.chat_id, "group", "Operations"),)
    assert _of("a new description").chats == (OPS,)
    assert derive("changedChatInfo", {"title": "x"}, ARRIVAL).chats == ()


@pytest.mark.parametrize("name", ["a button", "a button whose message is wrapped"])
def test_a_button_has_its_chat_in_its_message(name: str) -> None:
    facts = _of(name)
    assert (facts.chat_id, facts.user_id, facts.message) == (OPS.chat_id, ANNA_USER.user_id, None)
    assert facts.users == (ANNA_USER, BOT_USER)


def test_a_button_without_a_message_is_no_error() -> None:
    for message in (None, 5, {"payload": 5}, {"chat": None}, []):
        assert derive("callbackQuery", {"queryId": "1", "from": ANNA, "message": message}, ARRIVAL).chat_id is None


def test_an_unknown_type_has_its_chat_and_author() -> None:
    facts = _of("an unknown type")
    assert (facts.chat_id, facts.user_id, facts.occurred_at) == (OPS.chat_id, ANNA_USER.user_id, SENT)
    assert derive(None, {}, ARRIVAL) == Facts()


@pytest.mark.parametrize("kind", ["newMessage", "editedMessage", "deletedMessage", "pinnedMessage", "unpinnedMessage"])
def test_a_message_event_needs_its_chat_and_its_id(kind: str) -> None:
    for chat in (None, 5, {}, {"chatId": None}, {"chatId": ""}, {"chatId": 1.5}, {"chatId": ["x"]}):
        with pytest.raises(Unreadable, match=f"{kind} without a chat"):
            derive(kind, MESSAGE | {"chat": chat}, ARRIVAL)
    for msg_id in (None, "", 1.5, True, [], {}, 10**40):
        with pytest.raises(Unreadable, match=f"{kind} without a msgId"):
            derive(kind, MESSAGE | {"msgId": msg_id}, ARRIVAL)


@pytest.mark.parametrize("kind", ["newChatMembers", "leftChatMembers"])
def test_a_member_event_needs_its_chat(kind: str) -> None:
    with pytest.raises(Unreadable, match=f"{kind} without a chat"):
        derive(kind, {"newMembers": [PETR]}, ARRIVAL)
    assert derive(kind, {"chat": GROUP, "newMembers": 5, "leftMembers": [5, {}]}, ARRIVAL).members == ()


@pytest.mark.parametrize(
    "payload",
    [
        {"chat": {"chatId": "7" * 256}}, {"from": {"userId": "7" * 256}}, {"msgId": "7" * 256},
        {"parts": [{"type": "mention", "payload": {"userId": "7" * 256}}]},
        {"parts": [{"type": "reply", "payload": {"message": {"from": {"userId": "7" * 256}}}}]},
        {"parent_topic": {"chatId": "7" * 256}}, {"parent_topic": {"messageId": "7" * 256}},
    ],
)  # fmt: skip
def test_an_id_too_long_for_an_index_row_is_unreadable(payload: dict[str, Any]) -> None:
    with pytest.raises(Unreadable, match=f"longer than {MAX_ID}"):
        derive("newMessage", MESSAGE | payload, ARRIVAL)


@pytest.mark.parametrize("key", ["from", "timestamp", "text", "format", "parts", "parent_topic", "editedTimestamp"])
@pytest.mark.parametrize("odd", [None, True, 5, -1, 1.5, 10**30, "x", [], {}, [[]], [None], {"a": 1}, [{"type": 5}]])
def test_wrong_types_are_ignored(key: str, odd: Any) -> None:
    payload = MESSAGE | {"text": "x", "parts": [REPLY]} | {key: odd}
    message = derive("newMessage", payload, ARRIVAL).message
    assert message is not None
    assert message.msg_id == MSG


@pytest.mark.parametrize(
    "odd", [None, 5, "x", [], {"message": 5}, {"message": None}, {"message": [{}]}, {"caption": 1}]
)
def test_odd_payloads_of_parts_are_ignored(odd: Any) -> None:
    for kind in ("file", "mention", "reply", "forward", "sticker"):
        content = _new(text="x", parts=[{"type": kind, "payload": odd}, {"type": kind}, odd, REPLY])
        assert (content.text, content.reply_to_msg_id) == ("x", QUOTED["msgId"])


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("x", "x"), ("", None), (5, "5"), (2**63, str(2**63)), (10**39, "1" + "0" * 39), (10**40, None), (1.0, None),
        (True, None), (None, None), ([], None), ({}, None), ("ё", "ё"),
    ],
)  # fmt: skip
def test_parse_id_takes_text_and_whole_numbers(value: Any, kept: str | None) -> None:
    assert parse_id(value) == kept


@pytest.mark.parametrize("value", [None, True, False, 0, -1, "", "x", "1.5", "²", [], {}, 253402214400, 10**400, 1e300])
def test_parse_time_refuses_other_values(value: Any) -> None:
    assert parse_time(value) is None


@pytest.mark.parametrize("value", [1764000000, 1764000000.25, "1764000000", 1e-300, 253402214399, 253402214399.99994])
def test_parse_time_takes_unix_seconds(value: Any) -> None:
    found = parse_time(value)
    assert found is not None
    assert abs(found.timestamp() - float(value)) < 1


def test_subject_of_messages_queries_and_members() -> None:
    assert subject_of(MESSAGE) == MSG
    assert subject_of({"msgId": 5, "queryId": "q"}) == "5"
    assert subject_of({"queryId": "q"}) == "q"
    assert subject_of({"newMembers": [PETR, BOT, 5], "leftMembers": {}}) == "1000000001,p.petrov@corp.example"
    assert subject_of({"msgId": "7" * 300}) == "7" * MAX_ID
    assert subject_of({"msgId": [], "newMembers": 7}) is None
