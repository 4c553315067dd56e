"""A standby that lags says so to those who ask it, and after a failover what it never had is told as a gap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.harness.batches import CHAT
from tests.harness.daemon import DaemonProcess
from tests.harness.postgres import PostgresServer
from tests.harness.waiting import until
from vkteams_daemon import times
from vkteams_daemon.config import Config
from vkteams_daemon.options import Database as DatabaseOptions
from vkteams_daemon.search import notes
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.simulator import Simulator
from vkteams_daemon.store import gaps


class Standby(PostgresServer):
    """A server that follows another by streaming replication, until it is promoted."""

    def __init__(self, directory: Path, primary: PostgresServer) -> None:
        self._primary = primary
        super().__init__(directory, durable=False)

    def _initdb(self) -> None:
        self.password = self._primary.password
        status, printed = self._owner.run([
            self._programs / "pg_basebackup", "-D", self._data, "-d", self._primary.url(), "--write-recovery-conf",
            "--checkpoint=fast", "--no-sync",
        ])  # fmt: skip
        assert status == 0, printed


@pytest.fixture
def pair(open_tmp: Path) -> Iterator[tuple[PostgresServer, Standby]]:
    """A server, and a standby that follows it."""
    servers: list[PostgresServer] = []
    try:
        for name in ("primary", "standby"):
            directory = open_tmp / name
            directory.mkdir(0o711)
            directory.chmod(0o711)
            servers.append(Standby(directory, servers[0]) if servers else PostgresServer(directory, durable=False))
            servers[-1].start()
        yield servers[0], servers[1]  # type: ignore[misc]
    finally:
        for server in servers:
            server.stop("immediate")


def test_events_that_a_promoted_standby_never_had_are_told(
    vkteamsd: Callable[..., DaemonProcess], simulator: Simulator, pair: tuple[PostgresServer, Standby]
) -> None:
    primary, standby = pair
    name = primary.create_database()
    hosts = f"{primary.host}:{primary.port},{standby.host}:{standby.port}"
    url = f"postgresql://{primary.user}:{primary.password}@{hosts}/{name}?target_session_attrs=read-write"
    daemon = vkteamsd(api_url=simulator.url, database_url=url, options={"api.backoff_max": 1}).started()

    def say(count: int) -> None:
        for _ in range(count):
            simulator.say(CHAT, "a.ivanova@corp.example", "text")
        until(lambda: simulator.state()["acknowledged"] == simulator.state()["issued"], 60, "the acknowledgement")

    def stored(server: PostgresServer) -> int:
        return int(server.execute("SELECT count(*) FROM events", database=name)[0][0])

    reading = DatabaseOptions(url=url, read_url=standby.url(name))

    def answered() -> tuple[int, list[str]]:
        """How many messages a search on the standby finds, and what it says of itself."""
        with Archive(Config(database=reading)) as archive:
            found = archive.search("text", mode="text")
            return len(found.hits), [note for note in found.coverage.gaps if "standby" in note]

    say(3)
    until(lambda: stored(standby) == 3, 60, "the events on the standby")
    until(lambda: answered() == (3, []), 60, "a standby that has all there is")
    standby.execute("SELECT pg_wal_replay_pause()")
    say(1)
    until(lambda: answered()[1], 60, "a standby that is behind")
    as_of = notes.STANDBY.format(moment=times.shown(datetime.now(UTC))[:10])[: -len(": what is newer is missing")]
    found, (said,) = answered()
    assert found == 3 and said.startswith(as_of), said
    standby.execute("SELECT pg_wal_replay_resume()")
    until(lambda: answered() == (4, []), 60, "a standby that has caught up")
    standby.stop()
    say(2)
    primary.stop("immediate")
    standby.start()
    found, (said,) = until(answered, 60, "an answer of a standby without its primary")
    assert found == 4 and said.startswith(as_of), said
    standby.execute("SELECT pg_promote()")
    daemon.wait_log("are missing from the archive", 60)
    assert f"up to 6 are missing from the archive: {gaps.WENT_BACK}" in daemon.log_text()
    say(1)
    until(lambda: stored(standby) == 5, 60, "the next event")
    (gap,) = daemon.answer("database", "gaps")["rows"]
    assert (gap["from_event_id"], gap["to_event_id"]) == (5, 6)
    assert any("see `vkteamsctl database gaps`" in line for line in daemon.answer("diagnostic", "health")["problems"])
