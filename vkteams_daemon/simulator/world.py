"""The simulated installation: its chats, people, messages and files, learnt from the events that it issues."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from vkteams_daemon.simulator.parameters import Refused, Upload

KEPT = 20_000  # messages, queries and files that it remembers, of each


@dataclass(slots=True)
class Chat:
    """A group, a channel, a thread or a private chat.

    Attributes:
        chat_id, type, title, about: as the API names them; a thread is of type group.
        members: the role of each: creator, admin or member.
        pinned: msgIds.
        topic: of a thread, the message that it hangs on.
    """

    chat_id: str
    type: str
    title: str = ""
    about: str = ""
    members: dict[str, str] = field(default_factory=dict)
    pinned: list[str] = field(default_factory=list)
    topic: dict[str, Any] | None = None

    def shown(self) -> dict[str, Any]:
        """The chat as events name it."""
        named = {"title": self.title} if self.title and self.type != "private" else {}
        return {"chatId": self.chat_id, "type": self.type, **named}


class World:
    """What is known; every reader and writer holds `lock`."""

    def __init__(self, bot: dict[str, Any]) -> None:
        self.lock = threading.RLock()
        self.bot = bot
        self.chats: dict[str, Chat] = {}
        self.users: dict[str, dict[str, Any]] = {bot["userId"]: bot}
        self.messages: OrderedDict[tuple[str, str], dict[str, Any]] = OrderedDict()
        self.queries: OrderedDict[str, None] = OrderedDict()
        self.files: dict[str, Upload] = {}
        self._last_msg = 0

    def new_msg_id(self) -> str:
        """A fresh msgId: seconds in the upper half of 64 bits, as the real ones, each above the one before."""
        with self.lock:
            self._last_msg = max(self._last_msg + 1, int(time.time()) << 32)
            return str(self._last_msg)

    def chat(self, chat_id: str, kind: str = "", title: str = "") -> Chat:
        """The chat of this id, made where it is new: an id of `…@chat.agent` is a group's, any other a person's."""
        with self.lock:
            known = self.chats.get(chat_id)
            if known is None:
                kind = kind or ("group" if chat_id.endswith("@chat.agent") else "private")
                known = self.chats[chat_id] = Chat(chat_id, kind)
                self.join(known, self.bot["userId"])
                if kind == "private":
                    self.user(chat_id)
                    self.join(known, chat_id)
            known.type = kind or known.type
            known.title = title or known.title
            return known

    def known_chat(self, chat_id: str) -> Chat:
        """A chat that was seen, or that with a person who was.

        Raises:
            Refused: neither was.
        """
        chat = self.chats.get(chat_id)
        if chat is None and chat_id in self.users:
            chat = self.chat(chat_id)
        if chat is None:
            raise Refused("Bad request: unknown chatId")
        return chat

    def user(self, user_id: str, **names: Any) -> dict[str, Any]:
        """The person of this id, with what is newly known of their names."""
        with self.lock:
            known = self.users.setdefault(user_id, {"userId": user_id})
            known.update({key: value for key, value in names.items() if isinstance(value, str) and value})
            return known

    def join(self, chat: Chat, user_id: str) -> None:
        """The person is in the chat; the first one who is not the bot is its creator."""
        others = any(member != self.bot["userId"] for member in chat.members)
        first = "creator" if not others and user_id != self.bot["userId"] and chat.type != "private" else "member"
        chat.members.setdefault(user_id, first)

    def remember(self, message: dict[str, Any]) -> None:
        """Keep a message, to be edited, quoted and deleted."""
        with self.lock:
            key = (message["chat"]["chatId"], message["msgId"])
            self.messages[key] = message
            self.messages.move_to_end(key)
            if len(self.messages) > KEPT:
                self.messages.popitem(last=False)

    def message(self, chat_id: str, msg_id: str) -> dict[str, Any]:
        """A message that was seen.

        Raises:
            Refused: it was not.
        """
        found = self.messages.get((chat_id, msg_id))
        if found is None:
            raise Refused("Bad request: unknown msgId")
        return found

    def keep(self, file_id: str, upload: Upload) -> None:
        """Keep a file that is not known yet."""
        with self.lock:
            self.files.setdefault(file_id, upload)
            if len(self.files) > KEPT:
                del self.files[next(iter(self.files))]

    def learn(self, kind: str | None, payload: Any) -> None:
        """Take in what an event says; whatever is of the wrong type in it is passed over."""
        if not isinstance(payload, dict):
            return
        with self.lock:
            chat = self._chat_of(payload.get("chat"))
            author = self._user_of(payload.get("from"))
            msg_id = payload.get("msgId")
            if chat and author and kind == "newMessage":
                self.join(chat, author)
            if chat and isinstance(msg_id, str) and kind in ("newMessage", "editedMessage"):
                known = self.messages.get((chat.chat_id, msg_id), {})
                self.remember(known | payload)
                self._files(payload)
            elif chat and isinstance(msg_id, str) and kind == "deletedMessage":
                self.messages.pop((chat.chat_id, msg_id), None)
            elif chat and kind in ("newChatMembers", "leftChatMembers"):
                self._members(chat, payload)
            elif kind == "callbackQuery" and isinstance(payload.get("queryId"), str):
                self.queries[payload["queryId"]] = None
                if len(self.queries) > KEPT:
                    self.queries.popitem(last=False)

    def _files(self, payload: dict[str, Any]) -> None:
        """A file that somebody sent is known, though not what is in it."""
        for part in _list(payload.get("parts")):
            shown = part.get("payload") if isinstance(part, dict) else None
            file_id = shown.get("fileId") if isinstance(shown, dict) else None
            if isinstance(file_id, str):
                self.keep(file_id, Upload(file_id, "application/octet-stream", b""))

    def _members(self, chat: Chat, payload: dict[str, Any]) -> None:
        self._user_of(payload.get("addedBy"))
        for person in _list(payload.get("newMembers")):
            if user_id := self._user_of(person):
                self.join(chat, user_id)
        for person in _list(payload.get("leftMembers")):
            if user_id := self._user_of(person):
                chat.members.pop(user_id, None)

    def _chat_of(self, value: Any) -> Chat | None:
        if not isinstance(value, dict) or not isinstance(value.get("chatId"), str):
            return None
        kind, title = value.get("type"), value.get("title")
        kind, title = (text if isinstance(text, str) else "" for text in (kind, title))
        return self.chat(value["chatId"], kind, title)

    def _user_of(self, value: Any) -> str | None:
        if not isinstance(value, dict) or not isinstance(value.get("userId"), str):
            return None
        user_id: str = value["userId"]
        if user_id != self.bot["userId"]:
            self.user(user_id, **{key: value.get(key) for key in ("firstName", "lastName", "nick")})
        return user_id


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
