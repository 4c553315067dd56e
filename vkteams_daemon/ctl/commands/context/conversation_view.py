"""A conversation for people: day by day, with times and names, each answer indented below the message it answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from vkteams_daemon import times
from vkteams_daemon.ctl.output import Screen, one_line

if TYPE_CHECKING:
    from vkteams_daemon.search.messages import ArchivedMessage, Quote

_MAX_DEPTH = 3  # steps of indentation
SHOWN_ELSEWHERE = {"mention", "reply", "forward", "inlineKeyboardMarkup"}
"""Parts that the text, an arrow or a quote shows already."""
_MAX_QUOTE = 300  # characters of a quote that are shown
_BELOW_TIME = " " * 8


def show_conversation(
    screen: Screen, messages: Sequence[ArchivedMessage], chat_id: str, matches: Collection[str], *, ids: bool = True,
    thread: bool = False,
) -> None:  # fmt: skip
    """Write the messages, oldest first.

    Args:
        screen: to write on.
        messages: of this chat, of the threads below them, and of the chat that this thread belongs to.
        chat_id: the chat of the conversation.
        matches: msg_ids of the messages that were asked for or found; they stand out.
        ids: whether the matches show their ids.
        thread: whether the chat is a thread; the message of another chat is then the one that it hangs on.
    """
    by_id = {message.msg_id: message for message in messages if message.chat_id == chat_id}
    day = None
    for message in messages:
        moment = times.local(message.sent_at)
        if moment.date() != day:
            day = moment.date()
            screen.line(f"  {day:%a %Y-%m-%d}", "dim")
        own = message.chat_id == chat_id
        match = own and message.msg_id in matches
        style = "bold" if match else ""
        indent = "  " * (_depth(message, by_id) if own else 0 if thread else 1)
        text = message.text if message.own_text is None else message.own_text
        first, *rest = [line for line in text.splitlines() if line.strip()] or [""]
        place = _arrow(message, by_id) if own else " (the thread hangs on this)" if thread else " (thread)"
        author = f"{_name(message)}{place}{_marks(message)}"
        lead, below = f"{'>' if match else ' '} {moment:%H:%M} {indent}", f"{_BELOW_TIME}{indent}  "
        screen.prose(f"{author}: {first}", style, indent=lead, further=below)
        for line in rest:
            screen.prose(line, style, indent=below)
        for line in quote_lines(message.quotes):
            screen.prose(line, "dim", indent=below, further=f"{below}| ")
        if match and ids:
            screen.line(f"{_BELOW_TIME}{indent}  message {message.msg_id}", "dim")


def quote_lines(quotes: Sequence[Quote]) -> list[str]:
    """A line for each quote: whose words they are, and the words."""
    lines = []
    for quote in quotes:
        verb = "forwarded from" if quote.kind == "forward" else "in answer to"
        when = f", {times.local(quote.sent_at):%Y-%m-%d %H:%M}" if quote.sent_at else ""
        files = "".join(f" [{one_line(name)}]" for name in quote.files)
        text = one_line(quote.text)
        text = text if len(text) <= _MAX_QUOTE else f"{text[:_MAX_QUOTE]} …"
        lines.append(f"{'  ' * quote.depth}| {verb} {one_line(quote.author or 'nobody')}{when}: {text}{files}")
    return lines


def _depth(message: ArchivedMessage, by_id: Mapping[str, ArchivedMessage]) -> int:
    """How many of the shown messages stand above this one along its replies."""
    depth = 0
    while depth < _MAX_DEPTH and (other := by_id.get(message.reply_to_msg_id or "")) and other is not message:
        message, depth = other, depth + 1
    return depth


def _arrow(message: ArchivedMessage, by_id: Mapping[str, ArchivedMessage]) -> str:
    """An arrow to the author of the message that this one answers; empty if it answers none."""
    if message.reply_to_msg_id is None:
        return ""
    other = by_id.get(message.reply_to_msg_id)
    return f" → {_name(other)}" if other else " → …"


def _name(message: ArchivedMessage) -> str:
    return one_line(message.author or "nobody")


def _marks(message: ArchivedMessage) -> str:
    marks = ["edited"] if message.edited else []
    if message.known_by_quote:
        marks.append("not archived, known from an answer")
    marks += [one_line(part) for part in message.parts if part not in SHOWN_ELSEWHERE]
    return f" [{', '.join(marks)}]" if marks else ""
