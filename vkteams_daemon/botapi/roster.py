"""Reads the roster of a chat from the Bot API: what the chat is, who is in it, and who runs it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from vkteams_daemon.botapi.client import BotClient
from vkteams_daemon.botapi.facts import MAX_ID
from vkteams_daemon.botapi.values import parse_id
from vkteams_daemon.errors import ApiProtocolError

Role = Literal["member", "admin", "creator"]

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")  # a text column takes neither NUL nor lone surrogates
MAX_MEMBERS = 100_000  # of one chat; an endless list must not fill the memory


@dataclass(frozen=True, slots=True)
class ChatRoster:
    """A complete roster.

    Attributes:
        type, title, about: of the chat; None if the API does not name them.
        members: the role of each member, by user id. Of a private chat, the person alone.
    """

    type: str | None
    title: str | None
    about: str | None
    members: dict[str, Role] = field(default_factory=dict)


def read_roster(client: BotClient, chat_id: str, pause: Callable[[], None] = lambda: None) -> ChatRoster:
    """Ask for everything about one chat.

    Args:
        client: used by this thread alone.
        chat_id: the chat.
        pause: called before every request but the first.

    Raises:
        ApiRefused: the bot may not see this chat, or it does not exist.
        ApiError: any other class of it.
    """
    info = client.call("chats/getInfo", chatId=chat_id)
    kind = _text(info.get("type"))
    title = _text(info.get("title"))
    if kind == "private":
        return ChatRoster(kind, title, _text(info.get("about")), {chat_id: "member"})
    members: dict[str, Role] = dict(_members(client, chat_id, pause))
    pause()
    for admin in _list(client.call("chats/getAdmins", chatId=chat_id), "admins"):
        if user_id := _user_id(admin):
            members[user_id] = "creator" if admin.get("creator") is True else "admin"
    return ChatRoster(kind, title, _text(info.get("about")), members)


def _members(client: BotClient, chat_id: str, pause: Callable[[], None]) -> Iterator[tuple[str, Role]]:
    cursor: str | None = None
    seen, count = set(), 0
    while True:
        pause()
        page = client.call("chats/getMembers", chatId=chat_id, cursor=cursor)
        for member in _list(page, "members"):
            if user_id := _user_id(member):
                count += 1
                yield user_id, _role(member)
        cursor = parse_id(page.get("cursor"))
        if cursor is None:
            return
        if cursor in seen or count > MAX_MEMBERS:
            raise ApiProtocolError("chats/getMembers: the list of members does not end")
        seen.add(cursor)


def _role(member: dict[str, Any]) -> Role:
    if member.get("creator") is True:
        return "creator"
    return "admin" if member.get("admin") is True else "member"


def _user_id(value: Any) -> str | None:
    user_id = parse_id(value.get("userId")) if isinstance(value, dict) else None
    return user_id if user_id and len(user_id) <= MAX_ID and not _UNSTORABLE.search(user_id) else None


def _list(answer: dict[str, Any], name: str) -> list[Any]:
    """The list of this name.

    Raises:
        ApiProtocolError: there is none. Without it nobody can tell an empty chat from another kind of answer.
    """
    value = answer.get(name)
    if not isinstance(value, list):
        raise ApiProtocolError(f"the answer has no list of {name}")
    return value


def _text(value: Any) -> str | None:
    return _UNSTORABLE.sub("", value) or None if isinstance(value, str) else None
