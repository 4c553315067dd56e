"""The built-in conversation as its file has it, and what is left of it once everything in it has happened."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import vkteams_daemon
from vkteams_daemon.botapi.facts import Facts, derive

FILE = Path(vkteams_daemon.__file__).parent / "botapi" / "simulator" / "conversation.jsonl"
NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the file."""

    type: str
    payload: dict[str, Any]
    ago: int

    @property
    def facts(self) -> Facts:
        """What the archive reads in it when it has the times that it is delivered with."""
        at = NOW - timedelta(seconds=self.ago)
        times = {"timestamp": int(at.timestamp())}
        if self.type == "editedMessage":
            times["editedTimestamp"] = times["timestamp"]
        return derive(self.type, {**self.payload, **times}, at)


def lines() -> list[Line]:
    """The whole file."""
    return [Line(**json.loads(line)) for line in FILE.read_text(encoding="utf-8").splitlines()]


def last_texts() -> dict[str, str]:
    """What each message says in the end, by msgId; deleted ones and those without a text are left out."""
    texts: dict[str, str] = {}
    for line in lines():
        message = line.facts.message
        if message is None or message.quoted:
            continue
        if message.deleted:
            texts.pop(message.msg_id, None)
        elif message.content and message.content.text:
            texts[message.msg_id] = message.content.text
    return texts
