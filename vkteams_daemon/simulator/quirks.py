"""How the simulated API behaves where the real behaviour is unknown: each unknown can be played either way.

In the HTTP interface and in the messages for users, a quirk is called a trait.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Quirks:
    """The defaults were seen on live servers, or are the stricter of two guesses.

    Attributes:
        lenient: acknowledged events stay, and come again for a lower lastEventId.
        gap: how many ids are left out between two events.
        batch: the largest number of events in one answer; 0 for no limit.
        obey_foreign_cursor: a lastEventId above every issued id comes from before the ids were restarted. With this
            quirk it acknowledges the unread events. Otherwise it acknowledges nothing, and all of them are answered.
        one_poller: a new poll ends the waiting ones, which return no events. Otherwise all get the same events.
        ghosts: a deletedMessage is followed by a newMessage with the same msgId, edited and without text.
        format_keys: "snake" or "camel" converts the keys of every `format`; "" leaves them.
        text_message_id: the messageId of a thread's parent_topic is text instead of a number.
        wrapped_callbacks: the message of a callbackQuery is wrapped in an event once more.
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
        """Set some of the quirks.

        Raises:
            ValueError: a name is unknown, or a value is of the wrong type. Nothing is changed then.
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

    def to_json(self) -> dict[str, Any]:
        """Names and values."""
        return dataclasses.asdict(self)

    def encode_payload(self, kind: str, payload: Any) -> Any:
        """The payload of an event of type `kind`, as an API with these quirks writes it."""
        if not isinstance(payload, dict):
            return payload
        if self.format_keys and isinstance(payload.get("format"), dict):
            convert = _snake if self.format_keys == "snake" else _camel
            payload = payload | {"format": {convert(key): value for key, value in payload["format"].items()}}
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
