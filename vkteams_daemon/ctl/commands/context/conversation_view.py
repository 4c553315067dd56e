"""A conversation as people read it: day by day, with times and names, what answers what indented below it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC
from typing import TYPE_CHECKING

from vkteams_daemon.ctl.output import Screen, one_line

if TYPE_CHECKING:
    from vkteams_daemon.search.messages import ArchivedMessage

_DEEPEST = 3  # steps of indentation
_UNSAID = {"mention", "reply", "inlineKeyboardMarkup"}  # parts that the text or its place shows already
_BELOW_TIME = " " * 8


def show(screen: Screen, messages: Sequence[ArchivedMessage], chat_id: str, matches: Collection[str]) -> None:
    """Write the messages, oldest first.

    Args:
        screen: where to.
        messages: of this chat, and of those that hang on it or that it hangs on.
        chat_id: whose conversation it is.
        matches: msg_ids of what was asked for or found; these stand out, with their ids.
    """
    here = {said.msg_id: said for said in messages if said.chat_id == chat_id}
    day = None
    for said in messages:
        moment = said.sent_at.astimezone(UTC)
        if moment.date() != day:
            day = moment.date()
            screen.line(f"  {day.isoformat()}", "dim")
        own = said.chat_id == chat_id
        match = own and said.msg_id in matches
        style = "bold" if match else ""
        indent = "  " * (_depth(said, here) if own else 1)
        first, *rest = [line for line in said.text.splitlines() if line.strip()] or [""]
        author = f"{_name(said)}{_answered(said, here) if own else ' (thread)'}{_marks(said)}"
        screen.line(f"{'>' if match else ' '} {moment:%H:%M} {indent}{author}: {one_line(first)}".rstrip(), style)
        for line in rest:
            screen.line(f"{_BELOW_TIME}{indent}  {one_line(line)}", style)
        if match:
            screen.line(f"{_BELOW_TIME}{indent}  message {said.msg_id}", "dim")


def _depth(said: ArchivedMessage, here: Mapping[str, ArchivedMessage]) -> int:
    """How many of the messages shown stand above it along its replies."""
    depth = 0
    while depth < _DEEPEST and (other := here.get(said.reply_to_msg_id or "")) and other is not said:
        said, depth = other, depth + 1
    return depth


def _answered(said: ArchivedMessage, here: Mapping[str, ArchivedMessage]) -> str:
    if said.reply_to_msg_id is None:
        return ""
    other = here.get(said.reply_to_msg_id)
    return f" → {_name(other)}" if other else " → …"


def _name(said: ArchivedMessage) -> str:
    return one_line(said.author or "nobody")


def _marks(said: ArchivedMessage) -> str:
    marks = ["edited"] if said.edited else []
    marks += [one_line(part) for part in said.parts if part not in _UNSAID]
    return f" [{', '.join(marks)}]" if marks else ""
