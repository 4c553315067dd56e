"""The simulator's built-in conversation as events, and the texts that remain after all of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from vkteams_daemon.botapi.events import Event, read
from vkteams_daemon.simulator.script import CONVERSATION, ScriptPlayer, read_script


def all_events() -> list[Event]:
    """Every event of it, numbered from 1, as an answer to events/get brings it."""
    script = read_script(CONVERSATION)
    player = ScriptPlayer(script, new_msg_id=lambda: "")  # the first round has the script's own ids
    drafts = [player.draft(line) for line in script]
    events = [{"eventId": n, "type": draft.type, "payload": draft.payload} for n, draft in enumerate(drafts, 1)]
    return read(json.dumps({"events": events}).encode(), datetime.now(UTC))


def last_texts() -> dict[str, str]:
    """The last text of each message by msgId; deleted messages and those without a text are left out."""
    texts: dict[str, str] = {}
    for event in all_events():
        message = event.facts.message
        if message is None or message.quoted:
            continue
        if message.deleted:
            texts.pop(message.msg_id, None)
        elif message.content and message.content.text:
            texts[message.msg_id] = message.content.text
    return texts
