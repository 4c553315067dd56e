"""The texts of the Russian benchmark: an invented company's messages of a year, and what people ask about them later.

- The set of the tests (tests/relevance): 834 messages, eight kinds of queries by words, 44 paraphrases.
- `paraphrases.txt`: chat | author | message | a query with its meaning and none of its words.
- `half_memories.txt`: chat | author | when | file | message | a query with a person, a chat, a kind of file or a time;
  below it, after "~", chat | author | when | a message that has a part of the query and is not meant. `when` is m5 (in
  the last May), w1 (last week) or d1 (yesterday); `file` is a name, or image, video, voice where the API gives none.
- `haystack.txt`: templates of what else is said in each chat; {one|another} stands for either.
- The conversation of the demonstration.

The odd lines of queries are for fitting (train), the even ones are held out.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from importlib import resources
from pathlib import Path
from typing import Literal

from tests.harness import russian

SIZE = 5000
"""Messages of the haystack, the answers among them."""

Half = Literal["train", "held out"]

_HERE = Path(__file__).parent
_CHOICE = re.compile(r"\{([^{}]*)\}")
_OPENINGS = ("коллеги, ", "привет! ", "ребят, ", "народ, ", "кстати, ", "напоминаю: ", "всем доброе утро, ", "так, ")
_ENDINGS = (", спасибо", ", если что", ", отпишусь позже", " 🙏", ")", "...", "!", ", как обычно", ", срочно", " 👍")
_SECOND = 0.3  # of the templates' messages say a second thing
_DECORATED = 0.4  # of them have an opening, and as many an ending
_WITH_FILE = 0.1  # of them have a file
_FILES = (
    *(("image",) * 3),
    "video",
    "voice",
    "{Отчёт|Счёт|План|Список}_{1|2|3|4}.{xlsx|pdf|docx}",
    "{Скан|Акт|Договор|Схема}_{17|204|33}.{pdf|png|docx}",
    "{Остатки|Заявки|Цены}.{xlsx|csv}",
    "{Показ|Итоги}.pptx",
    "{Документы|Логи|Фотографии}.{zip|rar}",
)


@dataclass(frozen=True, slots=True)
class Message:
    """A message; `file` as `half_memories.txt` writes it, "" for none."""

    id: str
    chat: str
    user: str
    sent_at: datetime
    text: str
    file: str = ""


@dataclass(frozen=True, slots=True)
class Query:
    """A query, its half, and the ids of the messages that answer it."""

    kind: str
    half: Half
    text: str
    relevant: frozenset[str]


def small_set(now: datetime) -> tuple[list[Message], list[Query]]:
    """The messages of the tests' set, and its queries by words."""
    return _messages_of_tests(now), _queries_of_tests(paraphrases=False)


def haystack(now: datetime) -> tuple[list[Message], list[Query]]:
    """5,000 messages in the order of time, and all paraphrases and half memories.

    Args:
        now: the present moment, which "yesterday" and "in autumn" are seen from.
    """
    chance = random.Random(14)
    messages = [*_messages_of_tests(now), *_demonstration(now)]
    queries = _queries_of_tests(paraphrases=True)
    for number, line in enumerate(_lines("paraphrases.txt")):
        chat, user, text, query = line.split(" | ")
        answer = Message(f"p{number:03}", chat, user, _some_time(chance, now), text)
        messages.append(answer)
        queries.append(Query("paraphrase", _half(number), query, frozenset({answer.id})))
    number = -1
    for line in _lines("half_memories.txt"):
        fields = [field.strip() for field in line.removeprefix("~").split("|")]
        if line.startswith("~"):
            chat, user, when, text = fields
            messages.append(Message(f"n{number:03}", chat, user, _time(when, chance, now), text))
            continue
        number += 1
        chat, user, when, file, text, query = fields
        answer = Message(f"h{number:03}", chat, user, _time(when, chance, now), text, file)
        messages.append(answer)
        queries.append(Query("half memory", _half(number), query, frozenset({answer.id})))
    known = {message.text for message in messages}
    for count, (chat, user, text) in enumerate(_spun(chance, known)):
        if len(messages) == SIZE:
            break
        file = _one_of(chance, chance.choice(_FILES)) if chance.random() < _WITH_FILE else ""
        messages.append(Message(f"s{count:04}", chat, user, _some_time(chance, now), text, file))
    return sorted(messages, key=lambda one: (one.sent_at, one.id)), queries


def _half(number: int) -> Half:
    return "held out" if number % 2 else "train"


def _lines(file: str) -> list[str]:
    lines = (_HERE / file).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _messages_of_tests(now: datetime) -> list[Message]:
    start = now - timedelta(days=75)
    return [
        Message(one.id, one.chat, one.user, start + timedelta(minutes=one.minute), one.text)
        for one in russian.messages()
    ]


def _queries_of_tests(*, paraphrases: bool) -> list[Query]:
    return [
        Query(one.kind, _half(number), one.query, frozenset(one.relevant))
        for number, one in enumerate(one for one in russian.queries() if (one.kind == "paraphrase") == paraphrases)
    ]


def _demonstration(now: datetime) -> list[Message]:
    file = resources.files("vkteams_daemon.simulator") / "conversation.jsonl"
    messages: list[Message] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        payload = event.get("payload", {})  # the first line tells when the script is played
        if event.get("type") == "newMessage" and payload.get("text"):
            sent_at = now - timedelta(seconds=event["ago"])
            chat, user = payload["chat"]["chatId"], payload["from"]["userId"]
            messages.append(Message(f"d{len(messages):03}", chat, user, sent_at, payload["text"]))
    return messages


def _spun(chance: random.Random, known: set[str]) -> Iterator[tuple[str, str, str]]:
    """Chat, author and text of ever more messages from the templates, each text once."""
    templates: dict[str, list[str]] = {}
    for line in _lines("haystack.txt"):
        if line.startswith("["):
            lines = templates.setdefault(line.strip("[]"), [])
        else:
            lines.append(line)
    users = sorted(russian.people().users)
    # Every template of a chat has its turn before one of them comes again, and larger chats say more.
    turns = {chat: itertools.cycle(lines) for chat, lines in templates.items()}
    while True:
        for chat in itertools.chain.from_iterable([chat] * len(lines) for chat, lines in templates.items()):
            text = _one_of(chance, next(turns[chat]))
            if chance.random() < _SECOND:
                text = f"{text}. {_one_of(chance, next(turns[chat]))}"
            if chance.random() < _DECORATED:
                text = chance.choice(_OPENINGS) + text
            if chance.random() < _DECORATED:
                text += chance.choice(_ENDINGS)
            if text not in known:
                known.add(text)
                yield chat, chance.choice(users), text


def _one_of(chance: random.Random, template: str) -> str:
    return _CHOICE.sub(lambda match: chance.choice(match[1].split("|")), template)


def _some_time(chance: random.Random, now: datetime) -> datetime:
    return now - timedelta(days=365 * chance.random(), hours=1)


def _time(when: str, chance: random.Random, now: datetime) -> datetime:
    """A moment of office hours in the past, as `when` says."""
    today = now.astimezone(UTC).date()
    kind, number = when[0], int(when[1:])
    if kind == "d":
        day = today - timedelta(days=number)
    elif kind == "w":
        day = today - timedelta(days=today.weekday() + 7 * number - chance.randrange(5))
    else:
        year = today.year if number <= today.month else today.year - 1
        day = today.replace(year=year, month=number, day=chance.randint(1, 28))
        day = min(day, today - timedelta(days=1)) if day.month == today.month and day.year == today.year else day
    return datetime.combine(day, time(8 + chance.randrange(9), chance.randrange(60), tzinfo=UTC))
