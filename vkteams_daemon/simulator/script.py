"""Scripts: conversations as JSON Lines, played with times and message ids that fit the moment.

A line is `{"type": "newMessage", "payload": {…}, "ago": 3600}`: the event happened `ago` seconds before it is issued (0
by default). The player fills in what follows from `ago` or from earlier lines:

- the timestamp of a newMessage and the editedTimestamp of an editedMessage: now minus `ago`;
- the timestamp of an editedMessage, a deletedMessage and of pins: that of the message;
- a newMessage with the msgId of an earlier one is the ghost of a deleted message: both times, as for an edit;
- from, text and timestamp of the message in a callbackQuery, a reply or a forward part: those of the message.

It changes nothing that the line has already.

The first line may be `{"now": "Wednesday 16:51:41 +03:00"}`: `ago` then counts back from the last such moment of a
week. What a conversation says of hours and weekdays is true then, whenever it is played.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from vkteams_daemon.errors import UsageError
from vkteams_daemon.simulator.event_log import Draft

CONVERSATION = Path(__file__).with_name("conversation.jsonl")
_WEEK = 7 * 86400
_A_MONDAY = 4 * 86400  # 5 January 1970, 00:00 UTC, as Unix seconds
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_ABOUT_A_MESSAGE = {"editedMessage", "deletedMessage", "pinnedMessage", "unpinnedMessage"}


@dataclass(frozen=True, slots=True)
class WeekMoment:
    """A moment of every week: seconds from Monday 00:00 UTC on."""

    seconds: int

    def last(self, now: float) -> float:
        """The last such moment, as Unix seconds."""
        return now - (now - _A_MONDAY - self.seconds) % _WEEK


@dataclass(frozen=True, slots=True)
class Line:
    """One event of a script; `ago` in seconds before now, or before a moment of the week."""

    type: str
    payload: dict[str, Any]
    ago: float = 0.0
    before: WeekMoment | None = None

    def at(self, now: float) -> int:
        """When it happened, as Unix seconds, if it is issued now."""
        return int((self.before.last(now) if self.before else now) - self.ago)


def read_script(file: Path) -> list[Line]:
    """The lines of a script; empty ones are skipped.

    Raises:
        UsageError: the file cannot be read, or a line of it is wrong; the message names the line.
    """
    try:
        texts = file.read_text(encoding="utf-8").split("\n")  # not splitlines(): a text may contain U+2028
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"the script {file} cannot be read: {reason}") from error
    lines = [(n, text) for n, text in enumerate(texts, 1) if text.strip()]
    before = None
    if lines and (now := _now_line(lines[0][1])) is not None:
        before = _week_moment(now, f"{file}, line {lines.pop(0)[0]}")
    return [_line(text, f"{file}, line {n}", before) for n, text in lines]


def _now_line(text: str) -> Any:
    """What a line says of now; None if it says nothing of it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value["now"] if isinstance(value, dict) and value.keys() == {"now"} else None


def _week_moment(text: Any, where: str) -> WeekMoment:
    try:
        weekday, clock, offset = str(text).split()
        monday = datetime.fromisoformat(f"1970-01-05T{clock}{offset}")
        return WeekMoment(int(monday.timestamp()) - _A_MONDAY + _WEEKDAYS.index(weekday) * 86400)
    except ValueError as error:
        raise UsageError(f"{where}: now is not such as Wednesday 16:51:41 +03:00") from error


def _line(text: str, where: str, before: WeekMoment | None) -> Line:
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
    return Line(value["type"], value["payload"], float(ago), before)


class ScriptPlayer:
    """Makes the lines of a script into events. The first round has the script's own ids, each later one new ones.

    Args:
        lines: the script.
        new_msg_id: returns an unused msgId.
    """

    def __init__(self, lines: Sequence[Line], new_msg_id: Callable[[], str]) -> None:
        self.lines = lines
        self._new_msg_id = new_msg_id
        self._round = 1
        # By chat and msgId, and by None and msgId: the last one in any chat.
        self._messages: dict[tuple[str | None, str], dict[str, Any]] = {}
        self._new_ids: dict[str, str] = {}

    def start_over(self) -> None:
        """Begin the next round."""
        self._round += 1
        self._messages.clear()
        self._new_ids.clear()

    def draft(self, line: Line) -> Draft:
        """The line as an event of this moment."""
        payload = copy.deepcopy(line.payload) if self._round == 1 else self._renumbered(line.payload)
        at = line.at(time.time())
        original = self._find(payload, _chat_id(payload))
        if line.type == "newMessage" and original:
            payload.setdefault("timestamp", original["timestamp"])
            payload.setdefault("editedTimestamp", at)
        elif line.type == "newMessage":
            payload.setdefault("timestamp", at)
            self._remember(payload)
        elif line.type in _ABOUT_A_MESSAGE:
            payload.setdefault("timestamp", original.get("timestamp", at))
            if line.type == "editedMessage":
                payload.setdefault("editedTimestamp", at)
                self._remember(original | payload)
        elif line.type == "callbackQuery" and isinstance(payload.get("message"), dict):
            self._fill_in(payload["message"], _chat_id(payload["message"]), at)
        for message in _quoted_messages(payload.get("parts")):
            self._fill_in(message, _chat_id(payload), at)
        return Draft(line.type, payload)

    def _find(self, message: dict[str, Any], chat_id: str | None) -> dict[str, Any]:
        """The earlier message of that chat with the same msgId; empty if there is none."""
        return self._messages.get((chat_id, str(message.get("msgId"))), {})

    def _remember(self, payload: dict[str, Any]) -> None:
        # A message without an id has no edits, ghosts or quotes. One id in two chats belongs to two messages.
        if (msg_id := payload.get("msgId")) is not None:
            self._messages[_chat_id(payload), str(msg_id)] = self._messages[None, str(msg_id)] = payload

    def _fill_in(self, message: dict[str, Any], chat_id: str | None, at: int) -> None:
        # A forward, or a message that names no chat, may come from any other chat.
        original = self._find(message, chat_id) or self._find(message, None)
        for key in ("from", "text", "timestamp"):
            if key in original:
                message.setdefault(key, original[key])
        message.setdefault("timestamp", at)

    def _renumbered(self, value: Any, key: str = "") -> Any:
        """A copy in which each message has the new id of this round."""
        if isinstance(value, dict):
            return {name: self._renumbered(entry, name) for name, entry in value.items()}
        if isinstance(value, list):
            return [self._renumbered(entry) for entry in value]
        if key in ("msgId", "messageId") and isinstance(value, str | int):
            if str(value) not in self._new_ids:
                self._new_ids[str(value)] = self._new_msg_id()
            return type(value)(self._new_ids[str(value)])
        return f"{value}-{self._round}" if key == "queryId" else value


def _chat_id(message: dict[str, Any]) -> str | None:
    chat = message.get("chat")
    return str(chat.get("chatId")) if isinstance(chat, dict) else None


def _quoted_messages(parts: Any) -> Iterator[dict[str, Any]]:
    for part in parts if isinstance(parts, list) else ():
        if not isinstance(part, dict) or part.get("type") not in ("reply", "forward"):
            continue
        payload = part.get("payload")
        message = payload.get("message") if isinstance(payload, dict) else None
        if isinstance(message, dict):
            yield message
