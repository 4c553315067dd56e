"""Conversations as a transcript: by chat and day, as vkteamsctl prints them, with a short reference for each message.

    people: Анна Иванова, Пётр Петров
    # Эксплуатация
    ## Wed 2026-11-25
    08:36 bKqX81f Анна: Доброе утро! Что с почтовым сервером?
    08:43 bKq7zP0 Пётр → Анна: Вижу, смотрю.
    bKqa71X завёл OPS-142

A person is named by the first word of the name if nobody else in it has that word. A line without a time and an
author goes on from the line above: the same minute, the same author. The texts are what people wrote; no line of a text
can be taken for a line of the transcript, because further lines are indented.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from vkteams_daemon import times
from vkteams_daemon.search.history.token_budget import tokens
from vkteams_daemon.search.messages import ArchivedMessage, Quote, titled
from vkteams_daemon.search.results import Hit
from vkteams_daemon.search.short_reference import reference
from vkteams_daemon.system.text import visible

_MAX_QUOTE = 300  # characters of a quote
_SHOWN = {"mention", "reply", "forward", "inlineKeyboardMarkup"}  # parts that the text or the arrow shows already


def of_messages(messages: Iterable[ArchivedMessage], titles: Mapping[str, str]) -> str:
    """The transcript of messages of any chats: chat by chat, each oldest first.

    Args:
        messages: oldest first.
        titles: of their chats, by chat_id.
    """
    by_chat: dict[str, list[ArchivedMessage]] = {}
    for message in messages:
        by_chat.setdefault(message.chat_id, []).append(message)
    people = _short_names(message for said in by_chat.values() for message in said)
    lines = [f"people: {', '.join(sorted(people))}"] if people else []
    for chat_id, said in by_chat.items():
        lines.append(f"# {_one_line(titles.get(chat_id) or chat_id)}")
        lines += _chat(said, people)
    return "\n".join(lines)


def of_hits(hits: Sequence[Hit]) -> str:
    """The transcript of hits, in their order; each with its chat, and with the messages around it."""
    lines: list[str] = []
    for number, hit in enumerate(hits, 1):
        where = _one_line(titled(hit.chat_title or hit.chat_id, hit.thread))
        lines.append(f"{number}. {where} · {times.local(hit.sent_at):%a %Y-%m-%d} · score {hit.score:g}")
        own = ArchivedMessage(
            hit.chat_id, hit.msg_id, hit.user_id, hit.author, hit.sent_at, hit.text, None, hit.edited,
            quotes=hit.quotes, own_text=hit.own_text, files=hit.files,
        )  # fmt: skip
        around = sorted([*hit.context, own], key=lambda one: (one.sent_at, one.msg_id))
        lines += [line for line in _chat(around, {}) if not line.startswith("## ")]
    return "\n".join(lines)


def cost(message: ArchivedMessage | Hit) -> int:
    """About how many tokens a message takes in a transcript."""
    around = message.context if isinstance(message, Hit) else ()
    text = message.text if message.own_text is None else message.own_text
    quotes = sum(12 + tokens(quote.text[:_MAX_QUOTE]) for quote in message.quotes)
    return 4 + tokens(text) + tokens(message.author or "") // 3 + quotes + sum(map(cost, around))


def _short_names(messages: Iterable[ArchivedMessage]) -> dict[str, str]:
    """What each author is called in the lines, by the whole name."""
    names = {_one_line(message.author or "nobody") for message in messages}
    first = Counter(name.partition(" ")[0] for name in names)
    return {name: word if first[word := name.partition(" ")[0]] == 1 else name for name in names}


def _chat(messages: Sequence[ArchivedMessage], people: Mapping[str, str]) -> list[str]:
    def called(message: ArchivedMessage) -> str:
        name = _one_line(message.author or "nobody")
        return people.get(name, name)

    by_id = {message.msg_id: message for message in messages}
    lines: list[str] = []
    for day, of_day in groupby(messages, key=lambda message: times.local(message.sent_at).date()):
        lines.append(f"## {day:%a %Y-%m-%d}")
        before: tuple[str, str] | None = None
        for message in of_day:
            clock, author = f"{times.local(message.sent_at):%H:%M}", called(message)
            answered = by_id.get(message.reply_to_msg_id or "")
            arrow = f" → {called(answered)}" if answered else ""
            ref = reference(message.chat_id, message.msg_id, message.sent_at)
            again = before == (clock, author) and not arrow
            lead = f"{ref} " if again else f"{clock} {ref} {author}{arrow}: "
            before = (clock, author)
            text = message.text if message.own_text is None else message.own_text
            lines.append(f"{lead}{_indented(text)}{_marks(message)}".rstrip())
            lines += [_quote(quote) for quote in message.quotes if not (quote.kind == "reply" and answered)]
    return lines


def _quote(quote: Quote) -> str:
    verb = "forwarded from" if quote.kind == "forward" else "in answer to"
    when = f", {times.local(quote.sent_at):%Y-%m-%d %H:%M}" if quote.sent_at else ""
    text = _one_line(quote.text)
    text = text if len(text) <= _MAX_QUOTE else f"{text[:_MAX_QUOTE]} …"
    files = "".join(f" [{_one_line(name)}]" for name in quote.files)
    return f"  | {verb} {_one_line(quote.author or 'nobody')}{when}: {text}{files}"


def _marks(message: ArchivedMessage) -> str:
    marks = ["edited"] if message.edited else []
    marks += ["not archived, known from an answer"] if message.known_by_quote else []
    marks += [_one_line(name) for name in message.files]
    marks += [part for part in message.parts if part not in _SHOWN and not (part == "file" and message.files)]
    return f" [{', '.join(marks)}]" if marks else ""


def _indented(text: str) -> str:
    return "\n   ".join(line.strip() for line in visible(text).splitlines() if line.strip())


def _one_line(text: str) -> str:
    return " ".join(visible(text).split())
