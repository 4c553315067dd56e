"""Checks the promise: compares the events that the simulator issued with the events in the database.

No event is lost, none is unexpected, none is stored twice, and no lastEventId was above the highest event id that was
committed or spooled at that moment. For the last check the oracle reads the spool and queries the database at the
moment in which a poll arrives.
"""

from __future__ import annotations

import contextlib
import json
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.harness.waiting import until
from vkteams_daemon.simulator import Simulator

BOT = "1000000001"


class Oracle:
    """Watches one simulator and one database.

    Args:
        simulator: its polls are watched from now on.
        url: the database, reached directly and not through a proxy of the test.

    Attributes:
        spool_dir: the state directory of a daemon that may spool; None without one.
        ahead: acknowledgements of events that were neither committed nor spooled, as (lastEventId, highest id).
        unchecked: acknowledgements that came while the database could not be queried.
    """

    def __init__(self, simulator: Simulator, url: str) -> None:
        self.simulator = simulator
        self.url = url
        self.spool_dir: Path | None = None
        self.ahead: list[tuple[int, int]] = []
        self.unchecked: list[int] = []
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[Any] | None = None
        simulator.on_poll = self._polled

    def issued(self) -> dict[int, dict[str, Any]]:
        """Every event that the simulator has issued, by its id."""
        return {e.event.number: e.event.to_json() for e in self.simulator.log() if e.event and e.kind == "event"}

    def stored(self) -> list[int]:
        """The event ids in the database, each as often as it is there."""
        return [row[0] for row in self.rows("SELECT event_id FROM events ORDER BY event_id")]

    def rows(self, statement: str, *parameters: Any) -> list[Any]:
        """The rows of a statement."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(statement.encode(), parameters or None).fetchall()

    def wait(self, timeout: float = 60.0) -> None:
        """Wait until as many events are stored as were issued."""
        count = "SELECT count(*) FROM events"

        def all_there() -> bool:
            with contextlib.suppress(psycopg.OperationalError):
                return bool(self.rows(count)[0][0] >= self.simulator.state()["issued"])
            return False

        until(all_there, timeout, "every issued event in the database", interval=0.05)

    def check(self) -> None:
        """Check all four, and that every new message is stored once."""
        issued, stored = self.issued(), self.stored()
        assert set(issued) - set(stored) == set(), "lost"
        assert set(stored) - set(issued) == set(), "unexpected"
        assert len(stored) == len(set(stored)), "doubled"
        assert self.ahead == [], "acknowledged before it was committed"
        issued_messages = {e["payload"]["msgId"] for e in issued.values() if e["type"] == "newMessage"}
        stored_messages = [row[0] for row in self.rows("SELECT msg_id FROM messages")]
        assert sorted(stored_messages) == sorted(issued_messages)

    def close(self) -> None:
        """Stop watching."""
        self.simulator.on_poll = None
        with self._lock:
            if self._connection:
                self._connection.close()

    def _polled(self, last_event_id: int) -> None:
        with self._lock:
            # The spool first: what leaves it is committed already.
            spooled = max(spooled_ids(self.spool_dir), default=0) if self.spool_dir else 0
            if last_event_id <= spooled:
                return
            for _ in range(2):  # a connection from before a restart of the server fails once
                try:
                    if self._connection is None or self._connection.closed:
                        self._connection = psycopg.connect(self.url, autocommit=True, connect_timeout=3)
                    row = self._connection.execute("SELECT coalesce(max(event_id), 0) FROM events").fetchone()
                except psycopg.Error:
                    if self._connection:
                        self._connection.close()
                    continue
                if row is not None and row[0] < last_event_id:
                    self.ahead.append((last_event_id, row[0]))
                return
            self.unchecked.append(last_event_id)


def spooled_ids(directory: Path) -> list[int]:
    """The ids of the events in a state directory's spools, read without the product's help."""
    ids: list[int] = []
    for path in directory.glob("*.spool"):
        with contextlib.suppress(FileNotFoundError):  # it has just been emptied
            ids += ids_in_spool(path.read_bytes())
    return ids


def ids_in_spool(content: bytes) -> list[int]:
    """The ids of the events in a spool, up to the first record that is not whole."""
    ids: list[int] = []
    at = 0
    while at + 12 <= len(content):
        _, length, checksum = struct.unpack_from(">4sII", content, at)
        record = content[at + 12 : at + 12 + length]
        if len(record) < length or zlib.crc32(content[at + 4 : at + 8] + record) != checksum:
            break
        body = record.partition(b"\n")[2]
        ids += [event["eventId"] for event in json.loads(body)["events"] if "eventId" in event] if body else []
        at += 12 + length
    return ids


@pytest.fixture
def oracle(simulator: Simulator, database_url: str) -> Any:
    """Watches `simulator` and `database_url`."""
    watching = Oracle(simulator, database_url)
    yield watching
    watching.close()


@pytest.fixture
def durable_oracle(simulator: Simulator, durable_database_url: str) -> Any:
    """Watches `simulator` and `durable_database_url`."""
    watching = Oracle(simulator, durable_database_url)
    yield watching
    watching.close()
