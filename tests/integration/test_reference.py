"""Whatever the Bot API delivers in whatever order: the tables hold what the reference model says."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.harness.batches import wrong_counts
from tests.harness.reference import Json, ReferenceArchive, wire
from tests.harness.scale import FULL, scaled
from vkteams_daemon.botapi import events as api
from vkteams_daemon.store.derive import projection
from vkteams_daemon.store.ingest import insertion
from vkteams_daemon.store.ingest.writer import Writer
from vkteams_daemon.store.rebuild import erasure, replay

BOTS = ("1000000001", "1000000002")
SENT = 1_764_000_000
START = datetime(2026, 1, 1, tzinfo=UTC)
TABLES = (
    "embedding_queue", "message_versions", "messages", "events", "chats", "users", "chat_members", "bots",
    "chat_user_counts", "chat_hour_counts", "bot_chat_counts",
)  # fmt: skip

# Events. What is known of one message, chat or person agrees in all of them, as far as an event says it.

_EDIT_TIMES = (10, 20, 30)
_TEXTS: dict[str, Json] = {
    "plain": {"text": "a"},
    "bold": {"text": "b", "format": {"bold": [{"offset": 0, "length": 1}]}},
    "nothing": {},
    "a zero byte": {"text": "a\0b"},
    "a reply": {"text": "c", "parts": [{"type": "reply", "payload": {"message": {
        "msgId": "m2", "from": {"userId": "w"}, "text": "before", "timestamp": SENT - 60}}}]},
    "a mention": {"text": "@[v]", "parts": [{"type": "mention", "payload": {"userId": "v"}}]},
    "a forward": {"parts": [{"type": "forward", "payload": {"message": {
        "msgId": "x1", "from": {"userId": "x"}, "text": "said elsewhere", "timestamp": SENT - 90,
        "parts": [{"type": "mention", "payload": {"userId": "y"}}]}}}]},
    "a file": {"parts": [{"type": "file", "payload": {"fileId": "f", "caption": "the rack"}}]},
    "a keyboard": {"text": "d", "parts": [{"type": "inlineKeyboardMarkup", "payload": [[{"text": "Ack"}]]}]},
    "an unknown part": {"text": "e", "parts": [{"type": "poll", "payload": [1.5, None]}]},
}  # fmt: skip
_UNREADABLE: list[Json] = [
    {"type": "newMessage", "payload": {"msgId": "m1", "text": "x", "editedTimestamp": SENT, "timestamp": SENT - 9}},
    {"type": "newMessage", "payload": {"chat": {"chatId": "c1"}, "text": "x"}},
    {"type": "newMessage", "payload": [1]},
    {"type": 7, "payload": {}},
    {"type": "leftChatMembers", "payload": {}},
    {"payload": {"chat": {"chatId": "c1"}}},
    {"type": "editedMessage"},
]
_CHATS = ("c1", "c2", "t1")  # t1 is a thread of c1
_MESSAGES = ("m1", "m2", "m3")


@st.composite
def _chats(draw: st.DrawFn) -> Json:
    chat: Json = {"chatId": draw(st.sampled_from(_CHATS))}
    if draw(st.booleans()):
        chat["type"] = "group"
    if draw(st.booleans()):
        chat["title"] = draw(st.sampled_from(["Ops", "Dev"]))
    return chat


@st.composite
def _users(draw: st.DrawFn) -> Json:
    user: Json = {"userId": draw(st.sampled_from("uvw"))}
    for name, values in (("firstName", ["Anna", "Ann"]), ("nick", ["ann"]), ("isBot", [True])):
        if draw(st.integers(0, 2)) == 0:
            user[name] = draw(st.sampled_from(values))
    return user


@st.composite
def _messages(draw: st.DrawFn) -> Json:
    """The key of a message, and what else of it an event says."""
    chat = draw(_chats())
    says: Json = {"msgId": draw(st.sampled_from(_MESSAGES)), "chat": chat}
    if draw(st.integers(0, 3)):
        says["timestamp"] = SENT + int(says["msgId"][1:])
    if draw(st.integers(0, 3)):
        says["from"] = {"userId": "a" + says["msgId"]}
    if chat["chatId"] == "t1" and draw(st.booleans()):
        says["parent_topic"] = {"chatId": "c1", "messageId": 7576322310144000017, "type": "message"}
    return says


@st.composite
def _events(draw: st.DrawFn) -> Json:
    """An event without an id."""
    kind = draw(st.sampled_from([
        "newMessage", "newMessage", "editedMessage", "editedMessage", "deletedMessage", "ghost", "pinnedMessage",
        "unpinnedMessage", "newChatMembers", "leftChatMembers", "changedChatInfo", "callbackQuery", "messageReaction",
        "chatArchived", "unreadable",
    ]))  # fmt: skip
    says = draw(_messages())
    if kind in ("newMessage", "editedMessage", "pinnedMessage"):
        # A copy of a reply is a reply too: what an event says of a message agrees in all of them.
        texts = sorted(_TEXTS.keys() - {"a reply"} if kind == "pinnedMessage" else _TEXTS)
        says |= _TEXTS[draw(st.sampled_from(texts))]
    if kind == "editedMessage" and draw(st.integers(0, 4)):
        says["editedTimestamp"] = SENT + draw(st.sampled_from(_EDIT_TIMES))
    if kind == "ghost":
        kind, says["editedTimestamp"] = "newMessage", SENT + 40
    if kind in ("newChatMembers", "leftChatMembers"):
        joined = kind == "newChatMembers"
        users = draw(st.lists(_users(), min_size=1, max_size=2, unique_by=lambda user: user["userId"]))
        says = {"chat": says["chat"], "newMembers" if joined else "leftMembers": users}
        by = draw(st.sampled_from([None, "b1", "b2"]))
        if by:
            says["addedBy" if joined else "removedBy"] = {"userId": by}
    elif kind == "changedChatInfo":
        says = {"chat": says["chat"], draw(st.sampled_from(["title", "newTitle", "newAbout"])): "Operations"}
    elif kind == "callbackQuery":
        message: Json = says | {"text": "Alert"}
        if draw(st.booleans()):
            message = {"eventId": 7, "type": "newMessage", "payload": message}
        says = {"queryId": draw(st.sampled_from("pq")), "from": draw(_users()), "message": message}
    elif kind == "messageReaction":
        says["reaction"] = "thumbs up"
    elif kind == "chatArchived":
        says = {"chat": says["chat"], "why": ["x"], "from": draw(_users())}
    elif kind == "unreadable":
        return draw(st.sampled_from(_UNREADABLE))
    made: Json = {"type": kind, "payload": says}
    if draw(st.integers(0, 19)) == 0:
        made["unknownField"] = 1
    return made


@dataclass
class Answer:
    """One answer to one bot."""

    bot: str
    items: list[Json]


@dataclass
class Restart:
    """Another process listens to the bot from now on."""

    bot: str


@dataclass
class Story:
    """What happens, in order.

    Attributes:
        erase: `[storage] on_delete`.
        copy_from: messages from which on they go by COPY.
        chat_ids: `[storage] chat_ids`.
    """

    erase: bool
    copy_from: int
    chat_ids: tuple[str, ...]
    steps: list[Answer | Restart] = field(default_factory=list)


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Answers with ids that ascend, jump, come again, come late, start over, or cannot be used."""
    chat_ids = draw(st.sampled_from([(), (), (), ("c1",), ("c2",)]))
    story = Story(draw(st.booleans()), draw(st.sampled_from([1, 2, 100])), chat_ids)
    next_id = dict.fromkeys(BOTS, 1)
    past: dict[str, list[Json]] = {bot: [] for bot in BOTS}
    for _ in range(draw(st.integers(1, 8))):
        bot = draw(st.sampled_from(BOTS))
        how = draw(st.sampled_from(["ascending"] * 6 + ["any", "any", "again", "restart", "process"]))
        if how == "process":
            story.steps.append(Restart(bot))
            continue
        if how == "restart":
            next_id[bot] = draw(st.integers(1, 4))
        items: list[Json] = []
        if how == "again" or draw(st.integers(0, 3)) == 0:
            items += draw(st.lists(st.sampled_from(past[bot]), max_size=4)) if past[bot] else []
        for made in draw(st.lists(_events(), min_size=0 if items else 1, max_size=6)):
            unusable = draw(st.integers(0, 14)) == 0
            if unusable:
                number: Any = draw(st.sampled_from([None, 0, -5, 2**63, "x", 1.5]))
            elif how == "any":
                number = draw(st.integers(1, 9))
            else:
                number = next_id[bot]
                next_id[bot] += draw(st.sampled_from([1, 1, 1, 2]))
            items.append({"eventId": number, **made})
        if how == "any":
            items = draw(st.permutations(items))
        past[bot] += items
        story.steps.append(Answer(bot, items))
    return story


class Archive:
    """The product: a writer for each bot, on one database."""

    def __init__(self, url: str, *, erase: bool, chat_ids: tuple[str, ...]) -> None:
        self._connect: Callable[[], Any] = functools.partial(psycopg.connect, url, autocommit=True)
        self.connection = self._connect()
        self._erase = erase
        self._chat_ids = chat_ids
        self._writers: dict[str, Writer] = {}
        for table in TABLES:
            self.connection.execute(f"DELETE FROM {table}".encode())

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self.connection.close()

    def new_process(self, bot: str) -> None:
        if bot in self._writers:
            self._writers.pop(bot).close()

    def answer(self, bot: str, items: list[Json], at: datetime) -> None:
        if bot not in self._writers:
            writer = self._writers[bot] = Writer(self._connect, bot, chat_ids=self._chat_ids)
            writer.erase = self._erase
            assert writer.acquire()
        self._writers[bot].store(api.read(b'{"events":[' + b",".join(map(wire, items)) + b"]}", at))

    def rows(self, statement: str, key: int) -> dict[Any, Any]:
        """The rest of each row by its key of so many columns."""
        rows = self.connection.execute(statement.encode()).fetchall()
        return {row[0] if key == 1 else row[:key]: row[key:] for row in rows}

    def tables(self) -> dict[str, Any]:
        """Every table, in the form of the model."""
        names = ("user_id", "sent_at", "edited_at", "deleted_at", "pinned_at", "version", "text", "format", "parts",
                 "reply_to_msg_id", "forward", "thread", "received_at")  # fmt: skip
        messages = self.rows(f"SELECT chat_id, msg_id, {', '.join(names)} FROM messages", 2)
        earlier = ("edited_at", "text", "format", "parts", "replaced_at")
        versions = self.rows(f"SELECT chat_id, msg_id, version, {', '.join(earlier)} FROM message_versions", 3)
        return {
            "events": self.rows("SELECT bot_id, generation, event_id, type, chat_id, user_id, subject, occurred_at,"
                                " received_at, payload, raw, error IS NOT NULL FROM events", 3),
            "bots": self.rows("SELECT bot_id, generation, last_event_id, moves FROM bots", 1),
            "chats": self.rows("SELECT chat_id, type, title, parent_chat_id, parent_msg_id, first_seen_at, seen_at"
                               " FROM chats", 1),
            "users": self.rows("SELECT user_id, first_name, last_name, nick, is_bot, seen_at FROM users", 1),
            "members": self.rows("SELECT chat_id, user_id, joined_at, left_at, added_by, removed_by"
                                 " FROM chat_members", 2),
            "messages": {key: dict(zip(names, row, strict=True)) for key, row in messages.items()},
            "versions": {key: dict(zip(earlier, row, strict=True)) for key, row in versions.items()},
            "queue": set(self.rows("SELECT chat_id, msg_id FROM embedding_queue", 2)),
        }  # fmt: skip

    def replay(self) -> None:
        """`vkteamsctl database replay`, and the same with --all."""
        replay.quarantined(self.connection, erase=self._erase)
        replay.everything(self.connection, erase=self._erase)


@pytest.fixture
def model_url(database_url: str) -> Iterator[str]:
    """An archive with a model, so that messages are queued for their vectors."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO embedding_models (name, fingerprint, dims, state) VALUES ('tiny', 'f', 4, 'active')"
        )
    yield database_url


@pytest.mark.timeout(20_000 if FULL else 120)
def test_the_tables_hold_what_the_reference_model_says(model_url: str) -> None:
    @settings(
        max_examples=scaled("stories that are compared with the reference model", full=5_000, quick=20),
        derandomize=not FULL, print_blob=True, suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
    )  # fmt: skip
    @given(stories())
    def hold(story: Story) -> None:
        _tell(model_url, story)

    hold()


def _tell(url: str, story: Story) -> None:
    """Let the product and the model take in the story, and compare the tables before and after a replay."""
    expected = ReferenceArchive(api.hashed_id, erase=story.erase, chat_ids=story.chat_ids)
    with pytest.MonkeyPatch.context() as patch:
        for module in (projection, insertion, replay):
            patch.setattr(module, "COPY_THRESHOLD", story.copy_from)
        archive = Archive(url, erase=story.erase, chat_ids=story.chat_ids)
        try:
            for number, step in enumerate(story.steps):
                if isinstance(step, Restart):
                    archive.new_process(step.bot)
                    expected.new_process(step.bot)
                else:
                    at = START + timedelta(seconds=number)
                    archive.answer(step.bot, step.items, at)
                    expected.answer(step.bot, step.items, at)
            _compare(archive.tables(), expected)
            assert wrong_counts(archive.connection) == []
            archive.replay()
            _compare(archive.tables(), expected)
            assert wrong_counts(archive.connection) == []
            # A retention that reaches half of the messages, and the events that tell of them again.
            erasure.erase(archive.connection, START + timedelta(seconds=len(story.steps) / 2))
            assert wrong_counts(archive.connection) == []
            archive.replay()
            assert wrong_counts(archive.connection) == []
        finally:
            archive.close()


def _compare(tables: dict[str, Any], expected: ReferenceArchive) -> None:
    # The events first: everything else follows from them.
    for name in ("events", "bots", "messages", "versions", "chats", "users", "members", "queue"):
        assert tables[name] == getattr(expected, name)(), name
