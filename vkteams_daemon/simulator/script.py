"""Scripts: conversations as JSON Lines, told anew each time with times and message ids that fit the moment.

A line is `{"type": "newMessage", "payload": {…}, "ago": 3600}`: the event happened so many seconds ago (0 where it does
not say). What follows from that, or from the lines before it, need not stand there:

- the timestamp of a newMessage, the editedTimestamp of an editedMessage: now minus `ago`;
- the timestamp of an editedMessage, a deletedMessage and of pins: the message's own;
- a newMessage of a message that was said before is the ghost of a deleted one: both of its times, as of an edit;
- from, text and timestamp of the message in a callbackQuery, a reply or a forward part: the message's own.

Whatever does stand there stays.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vkteams_daemon.errors import UsageError
from vkteams_daemon.simulator.event_log import Draft

CONVERSATION = Path(__file__).with_name("conversation.jsonl")
_OF_A_MESSAGE = {"editedMessage", "deletedMessage", "pinnedMessage", "unpinnedMessage"}


@dataclass(frozen=True, slots=True)
class Line:
    """One event of a script; `ago` in seconds."""

    type: str
    payload: dict[str, Any]
    ago: float = 0.0


def read_script(file: Path) -> list[Line]:
    """The lines of a script; empty ones are passed over.

    Raises:
        UsageError: it cannot be read, or a line of it is wrong; the message names the line.
    """
    try:
        texts = file.read_text(encoding="utf-8").split("\n")  # not splitlines: U+2028 may stand in a text
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"the script {file} cannot be read: {reason}") from error
    return [_line(text, f"{file}, line {n}") for n, text in enumerate(texts, 1) if text.strip()]


def _line(text: str, where: str) -> Line:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: it is not JSON") from error
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise UsageError(f"{where}: it has no type", hint='A line is {"type": …, "payload": {…}, "ago": SECONDS}.')
    if not isinstance(value.get("payload"), dict):
        raise UsageError(f"{where}: its payload is not an object")
    if unknown := value.keys() - {"type", "payload", "ago"}:
        raise UsageError(f"{where}: it has {', '.join(sorted(unknown))}, which no line has")
    ago = value.get("ago", 0)
    if not isinstance(ago, int | float) or isinstance(ago, bool) or ago < 0:
        raise UsageError(f"{where}: ago is not a number of seconds")
    return Line(value["type"], value["payload"], float(ago))


def _quoted(parts: Any) -> Iterator[dict[str, Any]]:
    for part in parts if isinstance(parts, list) else ():
        if (
            isinstance(part, dict)
            and part.get("type") in ("reply", "forward")
            and isinstance(part.get("payload"), dict)
        ):
            message = part["payload"].get("message")
            if isinstance(message, dict):
                yield message


def _chat_of(message: dict[str, Any]) -> str | None:
    chat = message.get("chat")
    return str(chat.get("chatId")) if isinstance(chat, dict) else None


class ScriptPlayer:
    """One telling of a script after another: the first has the script's own ids, each later one fresh ones.

    Args:
        lines: the script.
        new_msg_id: gives a fresh msgId.
    """

    def __init__(self, lines: Sequence[Line], new_msg_id: Callable[[], str]) -> None:
        self.lines = lines
        self._new_msg_id = new_msg_id
        self._round = 1
        self._said: dict[tuple[str | None, str], dict[str, Any]] = {}  # by chat and msgId; of None by msgId alone
        self._renamed: dict[str, str] = {}

    def start_over(self) -> None:
        """Begin the next telling."""
        self._round += 1
        self._said.clear()
        self._renamed.clear()

    def draft(self, line: Line) -> Draft:
        """The line as an event of this moment."""
        payload = copy.deepcopy(line.payload) if self._round == 1 else self._fresh(line.payload)
        at = int(time.time() - line.ago)
        said = self._find(payload, _chat_of(payload))
        if line.type == "newMessage" and said:
            payload.setdefault("timestamp", said["timestamp"])
            payload.setdefault("editedTimestamp", at)
        elif line.type == "newMessage":
            payload.setdefault("timestamp", at)
            self._keep(payload)
        elif line.type in _OF_A_MESSAGE:
            payload.setdefault("timestamp", said.get("timestamp", at))
            if line.type == "editedMessage":
                payload.setdefault("editedTimestamp", at)
                self._keep(said | payload)
        elif line.type == "callbackQuery" and isinstance(payload.get("message"), dict):
            self._complete(payload["message"], _chat_of(payload["message"]), at)
        for message in _quoted(payload.get("parts")):
            self._complete(message, _chat_of(payload), at)
        return Draft(line.type, payload)

    def _find(self, message: dict[str, Any], chat_id: str | None) -> dict[str, Any]:
        """What was said in that chat under the message's id; empty where nothing was."""
        return self._said.get((chat_id, str(message.get("msgId"))), {})

    def _keep(self, payload: dict[str, Any]) -> None:
        # Without an id it is no other's edit, ghost or quote; in two chats one id is two messages.
        if (msg_id := payload.get("msgId")) is not None:
            self._said[_chat_of(payload), str(msg_id)] = self._said[None, str(msg_id)] = payload

    def _complete(self, message: dict[str, Any], chat_id: str | None, at: int) -> None:
        # A forward, and whatever names no chat, may be of a message of any other chat.
        said = self._find(message, chat_id) or self._find(message, None)
        for key in ("from", "text", "timestamp"):
            if key in said:
                message.setdefault(key, said[key])
        message.setdefault("timestamp", at)

    def _fresh(self, value: Any, key: str = "") -> Any:
        """A copy with each message's id exchanged for its own of this telling."""
        if isinstance(value, dict):
            return {name: self._fresh(entry, name) for name, entry in value.items()}
        if isinstance(value, list):
            return [self._fresh(entry) for entry in value]
        if key in ("msgId", "messageId") and isinstance(value, str | int):
            if str(value) not in self._renamed:
                self._renamed[str(value)] = self._new_msg_id()
            return type(value)(self._renamed[str(value)])
        return f"{value}-{self._round}" if key == "queryId" else value
