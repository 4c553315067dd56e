"""The vendor's own Python client works with the simulator: it speaks the Bot API."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.harness.simulator import wait_acknowledged
from tests.harness.waiting import until
from vkteams_daemon.simulator import Simulator

GROUP, ANNA = "681869378@chat.agent", "a.ivanova@corp.example"


@pytest.fixture(scope="module")
def vendor() -> Any:
    """The client's module. It imports modules that are deprecated since Python 3.11."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import bot.bot
        import bot.handler
    return bot


@pytest.fixture
def make_bot(vendor: Any, simulator: Simulator) -> Iterator[Callable[..., Any]]:
    made = []

    def make(token: str = "") -> Any:
        url = simulator.url
        made.append(vendor.bot.Bot(token or simulator.token, api_url_base=url, name="test", poll_time_s=1))
        return made[-1]

    yield make
    for bot in made:
        bot.stop()
        bot.http_session.close()


def test_it_polls_every_kind_of_event_and_acknowledges_it(
    vendor: Any, simulator: Simulator, make_bot: Callable[..., Any]
) -> None:
    bot, seen = make_bot(), []
    bot.dispatcher.add_handler(vendor.handler.DefaultHandler(callback=lambda bot, event: seen.append(event)))
    bot.start_polling()
    message = simulator.say(GROUP, ANNA, "Привет", title="Ops")["payload"]
    msg_id, chat = message["msgId"], message["chat"]
    simulator.say(GROUP, ANNA, "Привет всем", msgId=msg_id)
    simulator.event("newChatMembers", {"chat": chat, "newMembers": [{"userId": "p"}]})
    simulator.event("leftChatMembers", {"chat": chat, "leftMembers": [{"userId": "p"}]})
    simulator.event("pinnedMessage", message)
    simulator.event("unpinnedMessage", {"chat": chat, "msgId": msg_id, "timestamp": 1764000000})
    simulator.event("changedChatInfo", {"chat": chat, "title": "Dev"})
    query = {"queryId": f"SVR:{ANNA}:1", "callbackData": "ack:7", "from": {"userId": ANNA}, "message": message}
    simulator.event("callbackQuery", query)
    last = simulator.event("deletedMessage", {"chat": chat, "msgId": msg_id, "timestamp": 1764000000})
    wait_acknowledged(simulator, last)
    until(lambda: len(seen) == 9, 30, "nine events")
    assert [event.type.value for event in seen] == [
        "newMessage", "editedMessage", "newChatMembers", "leftChatMembers", "pinnedMessage", "unpinnedMessage",
        "changedChatInfo", "callbackQuery", "deletedMessage",
    ]  # fmt: skip
    assert (seen[0].from_chat, seen[0].text, seen[0].message_author["userId"]) == (GROUP, "Привет", ANNA)
    assert (seen[7].callback_query, seen[7].message_author) == ("ack:7", ANNA)


def test_it_sends_edits_deletes_and_reads(simulator: Simulator, make_bot: Callable[..., Any]) -> None:
    bot = make_bot()
    msg_id = simulator.say(GROUP, ANNA, "Where?", title="Ops", firstName="Anna")["payload"]["msgId"]
    assert bot.self_get().json()["nick"] == "opsbot"
    keyboard = [[{"text": "Ack", "callbackData": "ack:7"}]]
    sent = bot.send_text(GROUP, "Here", reply_msg_id=msg_id, inline_keyboard_markup=keyboard).json()
    assert sent["ok"] and sent["msgId"].isdigit()
    assert bot.edit_text(GROUP, sent["msgId"], "There", parse_mode="HTML").json() == {"ok": True}
    assert bot.pin_message(GROUP, sent["msgId"]).json() == {"ok": True}
    assert bot.unpin_message(GROUP, sent["msgId"]).json() == {"ok": True}
    assert bot.send_actions(GROUP, ["typing"]).json() == {"ok": True}
    file = io.BytesIO(b"a,b\n1,2\n")
    file.name = "table.csv"
    uploaded = bot.send_file(GROUP, file=file, caption="A table").json()
    assert bot.get_file_info(uploaded["fileId"]).json()["filename"] == "table.csv"
    assert bot.send_voice(GROUP, file_id=uploaded["fileId"]).json()["ok"]
    assert bot.get_chat_info(GROUP).json()["title"] == "Ops"
    assert {"userId": ANNA, "creator": True} in bot.get_chat_admins(GROUP).json()["admins"]
    assert len(bot.get_chat_members(GROUP).json()["members"]) == 2
    simulator.event("callbackQuery", {"queryId": "SVR:1:2", "callbackData": "x"})
    assert bot.answer_callback_query("SVR:1:2", "seen", show_alert=True).json() == {"ok": True}
    assert bot.delete_messages(GROUP, [sent["msgId"], msg_id]).json() == {"ok": True}
    assert bot.edit_text(GROUP, sent["msgId"], "gone").json()["ok"] is False


def test_a_wrong_token_is_refused(make_bot: Callable[..., Any]) -> None:
    bot = make_bot("001.1.1:1000000001")
    for response in (bot.self_get(), bot.events_get(poll_time_s=1), bot.send_text(GROUP, "x")):
        assert response.status_code == 200
        assert response.json() == {"ok": False, "description": "Invalid token"}
