"""A reference model of the archive: slow, obvious, and made from docs/schema.md and docs/architecture.md alone.

`ReferenceArchive.answer` takes the answers of the Bot API in the order in which they are committed. It keeps the
events; every other table is derived from all of them again whenever somebody looks. It takes nothing from the product
but the hash that is the key of an event without a usable id.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]

MESSAGES = ("newMessage", "editedMessage", "deletedMessage", "pinnedMessage", "unpinnedMessage")
MEMBERS = ("newChatMembers", "leftChatMembers")
_FIRST = datetime.min.replace(tzinfo=UTC)  # the original text comes before every edit


def wire(item: Any) -> bytes:
    """An element of `events` as it comes over the wire."""
    return json.dumps(item, ensure_ascii=False).encode()


@dataclass(eq=False)
class Stored:
    """A row of `events`."""

    bot: str
    generation: int
    event_id: int
    type: str | None
    chat_id: str | None
    user_id: str | None
    subject: str | None
    occurred_at: datetime
    received_at: datetime
    payload: Any
    source: bytes
    quarantined: bool
    with_raw: bool
    erased: bool = False
    number: int | None = None  # the API's id, even if a hash takes its place

    @property
    def identity(self) -> tuple[str | None, str | None, str | None]:
        """What identifies it beside its id."""
        return self.type, self.chat_id, self.subject

    def is_same(self, other: Stored) -> bool:
        """Whether both are one event. Of an event that nobody can read, only the bytes can be compared."""
        if self.quarantined or other.quarantined:
            return self.source == other.source
        return self.identity == other.identity


@dataclass
class Position:
    """A bot: its generation, its cursor, how often that moved, and what one process remembers of the last restart."""

    generation: int = 1
    last_event_id: int = 0
    moves: int = 0
    before_restart: list[Stored] = field(default_factory=list)


class ReferenceArchive:
    """What the tables should hold.

    Args:
        erase: `[storage] on_delete = "erase"`.
        hashed: the key of an event without a usable id.
        chat_ids: `[storage] chat_ids`; empty keeps every chat.

    Attributes:
        stored: the events in the order in which they were derived.
    """

    def __init__(self, hashed: Callable[[bytes], int], *, erase: bool = False, chat_ids: Sequence[str] = ()) -> None:
        self._hashed = hashed
        self._erase = erase
        self._kept_chats: set[str | None] = {None, *chat_ids} if chat_ids else set()
        self._chosen = frozenset(chat_ids)
        self.positions: dict[str, Position] = {}
        self.stored: list[Stored] = []

    # The events

    def new_process(self, bot: str) -> None:
        """Another process listens to the bot from now on."""
        if bot in self.positions:
            self.positions[bot].before_restart = []

    def answer(self, bot: str, items: Sequence[Any], at: datetime) -> None:
        """The events of one answer, which arrived `at`, are committed."""
        position = self.positions.setdefault(bot, Position())
        answer = [self._read(bot, item, at) for item in items]
        kept = self._kept(answer)
        mine = {e.event_id: e for e in self.stored if (e.bot, e.generation) == (bot, position.generation)}
        new: list[Stored] = []
        collisions: list[Stored] = []
        first: dict[int, Stored] = {}
        for event in kept:
            earlier = first.setdefault(event.event_id, event)
            if earlier is not event:
                # The answer has this id twice.
                key = self._hashed(event.source)
                if earlier.is_same(event) or key in first:
                    continue
                known = mine.get(event.event_id)
                first[key] = event
                if key not in mine and not (known and known.is_same(event)):
                    event.event_id = key
                    if not self._precedes_restart(position, event):
                        new.append(event)
            elif (known := mine.get(event.event_id)) is None:
                if not self._precedes_restart(position, event):
                    new.append(event)
            elif not known.is_same(event) and self._hashed(event.source) not in mine:
                collisions.append(event)
        restarted = any(not mine[event.event_id].quarantined for event in collisions)
        # Nobody can say of a filtered event whether it is stored already.
        doubtful = [*new, *(event for event in answer if event not in kept)]
        late = not restarted and any(0 < event.event_id <= position.last_event_id for event in doubtful)
        if restarted:
            old = self._before_restart(answer, collisions[0])
            old = [event for event in old if event.event_id > position.last_event_id]
            for event in (*new, *collisions):
                event.generation += event not in old
            position.generation += 1
            position.before_restart = old
        else:
            # An unreadable event proves no restart: nobody knows what it is.
            for event in collisions:
                event.event_id = self._hashed(event.source)
        self.stored += sorted((*new, *collisions), key=lambda event: (event.generation, event.event_id))
        numbers = [self._number(item) for item in items]
        cursor = [number for number in numbers if number]
        moved = max(_last_run(cursor) if restarted or late else [position.last_event_id, *cursor], default=0)
        position.moves += restarted or moved != position.last_event_id
        position.last_event_id = moved
        if self._erase:
            self._erase_deleted()

    def _kept(self, answer: list[Stored]) -> list[Stored]:
        """The events of chosen chats, of their threads and of no chat. Any event of the answer may name a thread."""
        if not self._kept_chats:
            return answer
        for event in answer:
            if not event.quarantined:
                carrier = _carrier(event.type, event.payload)
                if carrier.get("parent_topic", {}).get("chatId") in self._chosen:
                    self._kept_chats.add(event.chat_id)
        return [event for event in answer if event.chat_id in self._kept_chats]

    @staticmethod
    def _precedes_restart(position: Position, event: Stored) -> bool:
        return any(old.event_id == event.event_id and old.is_same(event) for old in position.before_restart)

    @staticmethod
    def _before_restart(answer: list[Stored], collision: Stored) -> list[Stored]:
        """The events with old ids: the first of two ascending runs, if the second one has the event that collides."""
        runs: list[list[Stored]] = [[]]
        highest = 0
        for event in answer:
            if event.number:
                if event.number < highest:
                    runs.append([])
                highest = event.number
            runs[-1].append(event)
        return runs[0] if len(runs) == 2 and collision in runs[1] else []

    def _erase_deleted(self) -> None:
        """Every event about a deleted message loses what it says, and a reply to it what it quotes."""
        deleted = {(e.chat_id, e.subject) for e in self.stored if e.type == "deletedMessage" and not e.quarantined}
        for event in self.stored:
            event.erased = event.erased or (not event.quarantined and (event.chat_id, event.subject) in deleted)
            for message in _answered(event):
                if (event.chat_id, message["msgId"]) in deleted and message.keys() > _QUOTE_KEYS:
                    for key in message.keys() - _QUOTE_KEYS:
                        del message[key]
                    event.with_raw = False

    # Reading

    @staticmethod
    def _number(item: Any) -> int | None:
        number = item.get("eventId") if isinstance(item, dict) else None
        return number if type(number) is int and 0 < number < 2**63 else None

    def _read(self, bot: str, item: Any, at: datetime) -> Stored:
        source = wire(item)
        item = _storable(item)
        fields = item if isinstance(item, dict) else {}
        kind = fields.get("type") if isinstance(fields.get("type"), str) else None
        payload = fields.get("payload")
        says = payload if isinstance(payload, dict) else {}
        chat = _chat_of(kind, says)
        unreadable = kind is None or says is not payload or (
            kind in (*MESSAGES, *MEMBERS) and chat is None) or (kind in MESSAGES and "msgId" not in says)  # fmt: skip
        author = says.get("from", {}).get("userId")
        members = [user["userId"] for key in ("newMembers", "leftMembers") for user in says.get(key, [])]
        subject = says.get("msgId") or says.get("queryId") or ",".join(sorted(members)) or None
        own = says.get("editedTimestamp") or says.get("timestamp")
        return Stored(
            bot=bot,
            generation=self.positions[bot].generation,
            event_id=self._number(item) or self._hashed(source),
            type=kind,
            chat_id=None if unreadable or chat is None else chat["chatId"],
            user_id=None if unreadable else author,
            subject=None if unreadable else str(subject) if subject else None,
            occurred_at=_time(own) or at,
            received_at=at,
            payload=payload,
            source=source,
            quarantined=unreadable,
            with_raw=unreadable or wire(item) != source or not fields.keys() <= {"eventId", "type", "payload"},
            number=self._number(item),
        )

    # What is derived

    @property
    def readable(self) -> list[Stored]:
        """The events that something is derived from, in order."""
        return [event for event in self.stored if not event.quarantined]

    def events(self) -> dict[tuple[Any, ...], tuple[Any, ...]]:
        """The table `events`: the rest of the row by its key."""
        return {
            (e.bot, e.generation, e.event_id): (
                e.type, e.chat_id, e.user_id, e.subject, e.occurred_at, e.received_at,
                None if e.erased else e.payload, e.source if e.with_raw and not e.erased else None, e.quarantined,
            )
            for e in self.stored
        }  # fmt: skip

    def bots(self) -> dict[str, tuple[int, int, int]]:
        """The table `bots`: generation, last_event_id, moves."""
        return {bot: (p.generation, p.last_event_id, p.moves) for bot, p in self.positions.items()}

    def chats(self) -> dict[str, tuple[Any, ...]]:
        """The table `chats`: type, title, parent_chat_id, parent_msg_id, first_seen_at, seen_at."""
        chats: dict[str, tuple[Any, ...]] = {}
        for event in self.readable:
            chat = _chat_of(event.type, event.payload)
            if chat is None:
                continue
            topic = _carrier(event.type, event.payload).get("parent_topic", {})
            title = chat.get("title")
            if event.type == "changedChatInfo":
                title = event.payload.get("title") or event.payload.get("newTitle") or title
            new = chat.get("type"), title, topic.get("chatId"), _text(topic.get("messageId"))
            *old, since, seen = chats.get(chat["chatId"], (None, None, None, None, event.received_at, None))
            merged = tuple(was if says is None else says for says, was in zip(new, old, strict=True))
            chats[chat["chatId"]] = (*merged, since, event.received_at if seen is None or list(merged) != old else seen)
        return chats

    def users(self) -> dict[str, tuple[Any, ...]]:
        """The table `users`: first_name, last_name, nick, is_bot, seen_at."""
        users: dict[str, tuple[Any, ...]] = {}
        for event in self.readable:
            for user in _people(event.payload):
                new = user.get("firstName"), user.get("lastName"), user.get("nick"), user.get("isBot")
                *old, seen = users.get(user["userId"], (None, None, None, None, None))
                merged = tuple(was if says is None else says for says, was in zip(new, old, strict=True))
                users[user["userId"]] = (*merged, event.received_at if seen is None or list(merged) != old else seen)
        return users

    def members(self) -> dict[tuple[str, str], tuple[Any, ...]]:
        """The table `chat_members`: joined_at, left_at, added_by, removed_by."""
        members: dict[tuple[str, str], tuple[Any, ...]] = {}
        for event in self.readable:
            if event.type not in MEMBERS:
                continue
            joined = event.type == "newChatMembers"
            by = event.payload.get("addedBy" if joined else "removedBy", {}).get("userId")
            for user in event.payload.get("newMembers" if joined else "leftMembers", []):
                key = event.payload["chat"]["chatId"], user["userId"]
                joined_at, _, added_by, _ = members.get(key, (None, None, None, None))
                at = event.received_at
                members[key] = (at, None, by, None) if joined else (joined_at, at, added_by, by)
        return members

    def messages(self) -> dict[tuple[str, str], Json]:
        """The table `messages`, by chat_id and msg_id."""
        return {key: self._message(about)[0] for key, about in self._by_message().items()}

    def versions(self) -> dict[tuple[str, str, int], Json]:
        """The table `message_versions`, by chat_id, msg_id and version."""
        return {
            (*key, number): version
            for key, about in self._by_message().items()
            for number, version in enumerate(self._message(about)[1], 1)
        }

    def queue(self) -> set[tuple[str, str]]:
        """The messages that wait for a vector where no worker runs."""
        return {key for key, row in self.messages().items() if row["text"] and row["deleted_at"] is None}

    def _by_message(self) -> dict[tuple[str, str], list[Stored]]:
        messages: dict[tuple[str, str], list[Stored]] = {}
        for event in self.readable:
            if event.type in MESSAGES:
                assert event.chat_id and event.subject
                messages.setdefault((event.chat_id, event.subject), []).append(event)
        return messages

    def _message(self, about: list[Stored]) -> tuple[Json, list[Json]]:
        """The row of a message and its earlier versions, from all events about it in their order."""
        versions: dict[tuple[datetime, str], Json] = {}
        contents: list[Json] = []
        copies: list[Json] = []
        row: Json = dict.fromkeys(("user_id", "reply_to_msg_id", "forward", "thread", "deleted_at", "pinned_at"))
        erased = seen = False
        for event in about:
            if event.type == "deletedMessage":
                row["deleted_at"] = row["deleted_at"] or event.received_at
                erased = self._erase
            elif event.type == "pinnedMessage":
                row["pinned_at"] = row["pinned_at"] or event.received_at
            elif event.type == "unpinnedMessage":
                row["pinned_at"] = None
            content = _content(event)
            if content is None:
                continue
            row["user_id"] = row["user_id"] or content.pop("user_id")
            if event.type == "pinnedMessage":
                # A copy: it fills gaps and makes no version.
                if not erased:
                    copies.append(content)
                continue
            seen = True
            if not erased:
                contents.append(content)
                versions.setdefault((content["edited_at"] or _FIRST, content["text"] or ""), content)
        known = [versions[key] for key in sorted(versions)] or copies[-1:]
        belonging = contents or copies[::-1]
        for name in ("reply_to_msg_id", "forward", "thread"):
            row[name] = next((content[name] for content in belonging if content[name]), None)
        current = known[-1] if known else dict.fromkeys(("edited_at", "text", "format", "parts"))
        row["sent_at"] = min(_time(event.payload.get("timestamp")) or event.received_at for event in about)
        row["received_at"] = min(event.received_at for event in about)
        row |= {name: current[name] for name in ("edited_at", "text", "format", "parts")}
        row["version"] = len(versions) or int(seen)
        earlier = []
        for content, following in itertools.pairwise(known):
            replaced_at = following["edited_at"] or row["sent_at"]
            kept = {name: content[name] for name in ("edited_at", "text", "format", "parts")}
            earlier.append(kept | {"replaced_at": replaced_at})
        if erased:
            for one in (row, *earlier):
                one |= dict.fromkeys(("text", "format", "parts"))
            row["forward"] = None
        return row, earlier


_QUOTE_KEYS = {"msgId", "from", "timestamp"}


def _answered(event: Stored) -> list[Json]:
    """The messages that a message repeats because it answers them."""
    if event.quarantined or event.type not in ("newMessage", "editedMessage"):
        return []
    return [part["payload"]["message"] for part in event.payload.get("parts", []) if part["type"] == "reply"]


def _content(event: Stored) -> Json | None:
    """What an event says about the content of its message; None for a deletion, an unpin and a ghost."""
    says = event.payload
    if event.type not in ("newMessage", "editedMessage", "pinnedMessage"):
        return None
    parts = says.get("parts") or []
    if "editedTimestamp" in says and not says.get("text") and not parts:
        return None
    quoted = {kind: [p["payload"]["message"] for p in parts if p["type"] == kind] for kind in ("reply", "forward")}
    texts = [says.get("text"), *(p["payload"].get("caption") for p in parts if p["type"] == "file")]
    texts += [message.get("text") for message in quoted["forward"]]
    edited_at = _time(says.get("editedTimestamp"))
    return {
        "user_id": says.get("from", {}).get("userId"),
        "edited_at": event.received_at if event.type == "editedMessage" and not edited_at else edited_at,
        "text": "\n".join(dict.fromkeys(text for text in texts if text)) or None,
        "format": says.get("format"),
        "parts": parts or None,
        "reply_to_msg_id": next((message["msgId"] for message in quoted["reply"]), None),
        "forward": quoted["forward"] or None,
        "thread": says.get("parent_topic"),
    }


def _people(value: Any) -> list[Json]:
    """Every user who occurs in an event, in the order in which it names them."""
    if isinstance(value, list):
        return [user for entry in value for user in _people(entry)]
    if not isinstance(value, dict):
        return []
    own = [value] if "userId" in value else []
    return own + [user for entry in value.values() for user in _people(entry)]


def _carrier(kind: str | None, says: Json) -> Json:
    """What has the chat: a callbackQuery has it in its message, which may be wrapped as an event."""
    if kind != "callbackQuery" or "chat" in says:
        return says
    message = says.get("message", {})
    return message if "chat" in message else message.get("payload", {})


def _chat_of(kind: str | None, says: Json) -> Json | None:
    chat = _carrier(kind, says).get("chat")
    return chat if isinstance(chat, dict) and "chatId" in chat else None


def _time(seconds: Any) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _storable(value: Any) -> Any:
    """The value as jsonb can hold it: U+FFFD in the place of a zero byte."""
    return json.loads(json.dumps(value).replace("\\u0000", "\\ufffd"))


def _last_run(numbers: Sequence[int]) -> list[int]:
    """The last ascending run: after ids that started over, everything before it may be of the old ids."""
    run: list[int] = []
    for number in numbers:
        if run and number < run[-1]:
            run = []
        run.append(number)
    return run
