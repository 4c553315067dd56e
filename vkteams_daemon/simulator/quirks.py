"""How the simulated API behaves where the real one is not known: each unknown can be played either way."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Quirks:
    """The defaults are what was seen on live servers, or the stricter of two guesses.

    Attributes:
        lenient: acknowledged events stay and come again for a lower lastEventId.
        gap: how many ids are left out between two events.
        batch: most events in one answer; 0 for no limit.
        obey_foreign_cursor: a lastEventId above every id issued (one from before the ids were started over)
            acknowledges what is there unread; otherwise it acknowledges nothing and everything unread is answered.
        one_poller: a new poll ends the waiting ones, which answer no events; otherwise all get the same events.
        ghosts: a deletedMessage is followed by a newMessage of the same msgId, edited and without text.
        format_keys: "snake" or "camel" turns the keys of every `format` that way; "" leaves them.
        text_message_id: the messageId of a thread's parent_topic is text instead of a number.
        wrapped_callbacks: the message of a callbackQuery is wrapped as an event once more.
    """

    lenient: bool = False
    gap: int = 0
    batch: int = 0
    obey_foreign_cursor: bool = False
    one_poller: bool = False
    ghosts: bool = False
    format_keys: str = ""
    text_message_id: bool = False
    wrapped_callbacks: bool = False

    def change(self, values: dict[str, Any]) -> None:
        """Set some of them.

        Raises:
            ValueError: an unknown name, or a value of the wrong type; nothing is changed then.
        """
        for name, value in values.items():
            if name not in self.__slots__:
                raise ValueError(f"there is no trait {name!r}; there are {', '.join(self.__slots__)}")
            if type(value) is not type(getattr(self, name)):
                raise ValueError(f"{name}: {value!r} is not of the type {type(getattr(self, name)).__name__}")
        if values.get("format_keys", "") not in ("", "snake", "camel"):
            raise ValueError("format_keys: it is snake, camel or empty")
        if min(values.get("gap", 0), values.get("batch", 0)) < 0:
            raise ValueError("gap and batch are 0 or more")
        for name, value in values.items():
            setattr(self, name, value)

    def shown(self) -> dict[str, Any]:
        """Names and values."""
        return dataclasses.asdict(self)

    def dressed(self, kind: str, payload: Any) -> Any:
        """The payload as an API with these quirks would write it."""
        if not isinstance(payload, dict):
            return payload
        if self.format_keys and isinstance(payload.get("format"), dict):
            turn = _snake if self.format_keys == "snake" else _camel
            payload = payload | {"format": {turn(key): value for key, value in payload["format"].items()}}
        topic = payload.get("parent_topic")
        if self.text_message_id and isinstance(topic, dict) and "messageId" in topic:
            payload = payload | {"parent_topic": topic | {"messageId": str(topic["messageId"])}}
        if self.wrapped_callbacks and kind == "callbackQuery" and isinstance(payload.get("message"), dict):
            wrapped = {"eventId": 1, "type": "newMessage", "payload": payload["message"]}
            payload = payload | {"message": wrapped}
        return payload


def _snake(key: str) -> str:
    return re.sub(r"[A-Z]", lambda match: f"_{match[0].lower()}", key)


def _camel(key: str) -> str:
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), key)
