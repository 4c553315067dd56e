"""The simulated installation: its chats, people, messages and files, learnt from the events that it issues."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from vkteams_daemon.simulator.parameters import Refused, Upload

CAPACITY = 20_000  # messages, queries and files that are remembered, of each


@dataclass(slots=True)
class Chat:
    """A group, a channel, a thread or a private chat.

    Attributes:
        chat_id, type, title, about: as the API names them. A thread has the type group.
        members: the role of each: creator, admin or member.
        pinned: msgIds.
        topic: for a thread, the message at which it was opened.
    """

    chat_id: str
    type: str
    title: str = ""
    about: str = ""
    members: dict[str, str] = field(default_factory=dict)
    pinned: list[str] = field(default_factory=list)
    topic: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The chat as events name it."""
        title = {"title": self.title} if self.title and self.type != "private" else {}
        return {"chatId": self.chat_id, "type": self.type, **title}


class World:
    """The state of the installation. Every reader and writer holds `lock`.

    Args:
        bot: what self/get answers.
    """

    def __init__(self, bot: dict[str, Any]) -> None:
        self.lock = threading.RLock()
        self.bot = bot
        self.chats: dict[str, Chat] = {}
        self.users: dict[str, dict[str, Any]] = {bot["userId"]: bot}
        self.messages: OrderedDict[tuple[str, str], dict[str, Any]] = OrderedDict()
        self.queries: OrderedDict[str, None] = OrderedDict()
        self.files: dict[str, Upload] = {}
        self._last_msg_id = 0

    def new_msg_id(self) -> str:
        """An unused msgId: 64 bits, with the Unix time in the upper half, as real ones have. Each is above the last."""
        with self.lock:
            self._last_msg_id = max(self._last_msg_id + 1, int(time.time()) << 32)
            return str(self._last_msg_id)

    def chat(self, chat_id: str, kind: str = "", title: str = "") -> Chat:
        """The chat of this id, created if it is new. An id `…@chat.agent` means a group, any other a person."""
        with self.lock:
            chat = self.chats.get(chat_id)
            if chat is None:
                kind = kind or ("group" if chat_id.endswith("@chat.agent") else "private")
                chat = self.chats[chat_id] = Chat(chat_id, kind)
                self.join(chat, self.bot["userId"])
                if kind == "private":
                    self.user(chat_id)
                    self.join(chat, chat_id)
            chat.type = kind or chat.type
            chat.title = title or chat.title
            return chat

    def existing_chat(self, chat_id: str) -> Chat:
        """A chat that an event has named, or the private chat with a person whom an event has named.

        Raises:
            Refused: no event has named such a chat or person.
        """
        chat = self.chats.get(chat_id)
        if chat is None and chat_id in self.users:
            chat = self.chat(chat_id)
        if chat is None:
            raise Refused("Bad request: unknown chatId")
        return chat

    def user(self, user_id: str, **names: Any) -> dict[str, Any]:
        """The person of this id, created if new, with these names added."""
        with self.lock:
            user = self.users.setdefault(user_id, {"userId": user_id})
            user.update({key: value for key, value in names.items() if isinstance(value, str) and value})
            return user

    def join(self, chat: Chat, user_id: str) -> None:
        """Add a person to a chat. The first one who is not the bot is its creator."""
        others = any(member != self.bot["userId"] for member in chat.members)
        role = "creator" if not others and user_id != self.bot["userId"] and chat.type != "private" else "member"
        chat.members.setdefault(user_id, role)

    def remember(self, message: dict[str, Any]) -> None:
        """Keep a message, so that it can be edited, quoted and deleted."""
        with self.lock:
            key = (message["chat"]["chatId"], message["msgId"])
            self.messages[key] = message
            self.messages.move_to_end(key)
            if len(self.messages) > CAPACITY:
                self.messages.popitem(last=False)

    def message(self, chat_id: str, msg_id: str) -> dict[str, Any]:
        """A message that is remembered.

        Raises:
            Refused: there is no such message.
        """
        message = self.messages.get((chat_id, msg_id))
        if message is None:
            raise Refused("Bad request: unknown msgId")
        return message

    def add_file(self, file_id: str, upload: Upload) -> None:
        """Keep a file, unless one with this id is kept already."""
        with self.lock:
            self.files.setdefault(file_id, upload)
            if len(self.files) > CAPACITY:
                del self.files[next(iter(self.files))]

    def learn(self, kind: str | None, payload: Any) -> None:
        """Learn from an event of type `kind`. Values of the wrong type are ignored."""
        if not isinstance(payload, dict):
            return
        with self.lock:
            chat = self._learn_chat(payload.get("chat"))
            author = self._learn_user(payload.get("from"))
            msg_id = payload.get("msgId")
            if chat and author and kind == "newMessage":
                self.join(chat, author)
            if chat and isinstance(msg_id, str) and kind in ("newMessage", "editedMessage"):
                earlier = self.messages.get((chat.chat_id, msg_id), {})
                self.remember(earlier | payload)
                self._learn_files(payload)
            elif chat and isinstance(msg_id, str) and kind == "deletedMessage":
                self.messages.pop((chat.chat_id, msg_id), None)
            elif chat and kind in ("newChatMembers", "leftChatMembers"):
                self._learn_members(chat, payload)
            elif kind == "callbackQuery" and isinstance(payload.get("queryId"), str):
                self.queries[payload["queryId"]] = None
                if len(self.queries) > CAPACITY:
                    self.queries.popitem(last=False)

    def _learn_files(self, payload: dict[str, Any]) -> None:
        """Keep an empty file for each fileId in a message: an event does not carry the content."""
        for part in _list(payload.get("parts")):
            file = part.get("payload") if isinstance(part, dict) else None
            file_id = file.get("fileId") if isinstance(file, dict) else None
            if isinstance(file_id, str):
                self.add_file(file_id, Upload(file_id, "application/octet-stream", b""))

    def _learn_members(self, chat: Chat, payload: dict[str, Any]) -> None:
        self._learn_user(payload.get("addedBy"))
        for person in _list(payload.get("newMembers")):
            if user_id := self._learn_user(person):
                self.join(chat, user_id)
        for person in _list(payload.get("leftMembers")):
            if user_id := self._learn_user(person):
                chat.members.pop(user_id, None)

    def _learn_chat(self, value: Any) -> Chat | None:
        if not isinstance(value, dict) or not isinstance(value.get("chatId"), str):
            return None
        kind, title = value.get("type"), value.get("title")
        kind, title = (text if isinstance(text, str) else "" for text in (kind, title))
        return self.chat(value["chatId"], kind, title)

    def _learn_user(self, value: Any) -> str | None:
        if not isinstance(value, dict) or not isinstance(value.get("userId"), str):
            return None
        user_id: str = value["userId"]
        if user_id != self.bot["userId"]:
            self.user(user_id, **{key: value.get(key) for key in ("firstName", "lastName", "nick")})
        return user_id


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
