"""A server that starts its ids over, with gaps, in any order and in answers of any size: no event is lost."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import psycopg
import pytest

from tests.harness.batches import CHAT, batch, new
from tests.harness.scale import scaled
from tests.harness.waiting import until
from vkteams_daemon.store.ingest import id_restart
from vkteams_daemon.store.ingest.writer import Writer

OTHER = "other@chat.agent"


@dataclass
class Server:
    """The API with its ids and the events that are not acknowledged."""

    dice: random.Random
    lenient: bool
    gap: int
    size: int | None
    shuffles: bool
    number: int = 0
    highest: int = 0
    restarts: int = 0
    said: int = 0
    events: list[tuple[int, str, str]] = field(default_factory=list)

    def say(self, chat: str, skip: int = 0) -> str:
        """Add a message; returns its id."""
        self.said += 1
        self.number += 1 + skip + self.dice.randint(0, self.gap)
        self.highest = self.number
        self.events.append((self.number, f"m{self.said}", chat))
        return f"m{self.said}"

    def answer(self, acknowledged: int) -> list[tuple[int, str, str]]:
        """The events above the id. A strict server forgets the others. It treats an id that it never gave as 0."""
        cursor = acknowledged if acknowledged <= self.highest else 0
        above = [event for event in self.events if event[0] > cursor]
        if not self.lenient:
            self.events = above
        answer = above[: self.size]
        if self.shuffles:
            self.dice.shuffle(answer)
        return answer

    def restart(self) -> None:
        """Begin with id 1 again."""
        self.number, self.highest, self.events = 0, 0, []
        self.restarts += 1


def new_writer(database_url: str, filtered: bool) -> Writer:
    writer = Writer(lambda: psycopg.connect(database_url, autocommit=True), "1", chat_ids=[CHAT] if filtered else [])
    until(writer.acquire, 20, "the lock")
    return writer


@pytest.mark.parametrize(
    ("ids", "collision", "first"),
    [([101, 102, 5, 6], 2, 2), ([101, 102, 5, 6], 3, 2), ([101, 5, 6], 0, 0), ([101, 5, 6, 1], 1, 0), ([5, 6], 1, 0)],
    ids=["at the restart", "after it", "before it", "three runs", "one run"],
)
def test_only_two_ascending_runs_tell_where_the_new_ids_begin(ids: list[int], collision: int, first: int) -> None:
    events = batch(*map(new, ids))
    assert id_restart.restart_index(events, events[collision]) == first


@pytest.mark.parametrize("crashes", [False, True], ids=["", "crashes"])
@pytest.mark.parametrize("seed", range(scaled("seeds of ids that start over", full=10, quick=4)))
def test_id_restarts_lose_and_double_nothing(database_url: str, seed: int, crashes: bool) -> None:
    """Also if the database takes the answers in parts, and the process dies between them."""
    dice = random.Random(seed)
    filtered = seed % 2 == 1
    server = Server(dice, dice.random() < 0.3, dice.choice([0, 0, 1, 3]), dice.choice([None, 1, 2, 5]), seed % 3 == 0)
    writer = new_writer(database_url, filtered)
    wanted = []

    def say(skip: int = 0, chat: str = CHAT) -> None:
        name = server.say(chat, skip)
        if chat == CHAT:
            wanted.append(name)

    def poll() -> bool:
        assert writer.cursor
        answer = server.answer(writer.cursor.last_event_id)
        events = batch(*(new(number, name, chat=chat) for number, name, chat in answer))
        for _ in range(dice.choice([1, 1, 1, 2]) if events else 0):
            limit = dice.choice([None, 1, 2, 3]) if crashes else None
            while writer.store(events, limit).partial:
                if dice.random() < 0.3:
                    crash()
                    return True
        return bool(answer)

    def crash() -> None:
        nonlocal writer
        writer.close()
        writer = new_writer(database_url, filtered)

    def drain() -> None:
        assert any(not poll() for _ in range(500)), "the cursor makes no progress"

    for turn in range(20):
        for _ in range(dice.randint(0, 5)):
            say(chat=OTHER if filtered and dice.random() < 0.5 else CHAT)
        for _ in range(dice.randint(1, 3)):
            poll()
        if turn == 10 or dice.random() < 0.1:
            # Far above every id after the restart, so that the server cannot take this cursor for one of its new ids.
            say(skip=1000 * (server.restarts + 1))
            drain()
            server.restart()
    drain()
    writer.close()
    with psycopg.connect(database_url) as connection:
        stored = [row[0] for row in connection.execute("SELECT subject FROM events").fetchall()]
    assert server.restarts
    assert sorted(stored) == sorted(wanted)
