"""TERM in every state of the daemon (row 9): it ends within 5 s, and a second signal ends it at once."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.harness.batches import batch, new
from tests.harness.daemon import DaemonProcess
from tests.harness.locks import locked, wait_blocked
from tests.harness.oracle import BOT, Oracle
from tests.harness.postgres import PostgresServer
from tests.harness.proxy import Proxy
from tests.harness.scale import FULL, drawn, scaled
from tests.harness.simulator import wait_polled
from tests.harness.temporary import SERVER_USER, servers
from tests.harness.traffic import Traffic, emit_event
from tests.harness.waiting import until
from vkteams_daemon.simulator import Simulator
from vkteams_daemon.store.ingest.writer import Writer
from vkteams_daemon.system import user

LIMIT = 5.0  # seconds
AT_ONCE = 2.0  # seconds
SPOOLING = {"daemon.single_host": True, "storage.spool_after": 0.5, "api.backoff_max": 1.0}


@dataclass
class Stage:
    """What a daemon needs, with a proxy before each server.

    Attributes:
        url: the database, reached directly.
        unused_url: a database without a schema.
    """

    make: Callable[..., DaemonProcess]
    simulator: Simulator
    server: PostgresServer
    url: str
    unused_url: str
    oracle: Oracle
    api: Proxy
    database: Proxy
    models: Path

    def daemon(self, **options: object) -> DaemonProcess:
        """A daemon behind both proxies, not started."""
        options = {"embedding.workers": 1, "embedding.models_dir": str(self.models), **options}
        daemon = self.make(
            api_url=self.simulator.url.replace(str(self.simulator.port), str(self.api.port)),
            database_url=self.database.before(self.url), hanging=True, options=options,
        )  # fmt: skip
        self.oracle.spool_dir = daemon.directory / "state"
        return daemon

    def listening(self, **options: object) -> DaemonProcess:
        """A daemon that listens."""
        daemon = self.daemon(**options).started()
        wait_polled(self.simulator)
        return daemon

    def starting(self, daemon: DaemonProcess, stack: ExitStack, *arguments: str) -> DaemonProcess:
        """Start it, and do not wait until it is ready."""
        starter = daemon.spawn(*arguments)
        stack.callback(starter.communicate, timeout=30)
        until(lambda: daemon.pid, 20, "the daemon's lock")
        return daemon


State = Callable[[Stage, ExitStack], DaemonProcess]


def listening(stage: Stage, stack: ExitStack) -> DaemonProcess:
    return stage.listening()


def busy(stage: Stage, stack: ExitStack) -> DaemonProcess:
    daemon = stage.listening()
    stack.enter_context(Traffic(stage.simulator, rate=100))
    until(lambda: stage.simulator.state()["acknowledged"] > 20, 30, "traffic")
    return daemon


def standby(stage: Stage, stack: ExitStack) -> DaemonProcess:
    holder = stack.enter_context(contextlib.closing(Writer(lambda: psycopg.connect(stage.url, autocommit=True), BOT)))
    assert holder.acquire()
    daemon = stage.daemon().started()
    daemon.wait_state("standby")
    return daemon


def api_down(stage: Stage, stack: ExitStack) -> DaemonProcess:
    daemon = stage.listening()
    stage.api.stop()
    stage.api.reset()
    daemon.wait_state("degraded")
    return daemon


def api_silent(stage: Stage, stack: ExitStack) -> DaemonProcess:
    daemon = stage.listening()
    stage.api.black_hole()
    return daemon


def api_silent_at_start(stage: Stage, stack: ExitStack) -> DaemonProcess:
    stage.api.deaf()
    daemon = stage.starting(stage.daemon(), stack)
    until(lambda: stage.api.connections, 20, "a request")
    return daemon


def api_asks_to_wait(stage: Stage, stack: ExitStack) -> DaemonProcess:
    daemon = stage.listening(**{"api.poll_time": 1})
    stage.simulator.faults("rate_limit", 1, "events/get", retry_after=600)
    daemon.wait_log("the Bot API asks to wait")
    return daemon


def name_look_up_hangs(stage: Stage, stack: ExitStack) -> DaemonProcess:
    daemon = stage.listening()
    daemon.hang("look-up")
    stage.api.reset()
    daemon.wait_hung("look-up")
    return daemon


def database_refuses(stage: Stage, stack: ExitStack) -> DaemonProcess:
    daemon = stage.listening()
    stage.database.stop()
    stage.database.reset()
    daemon.wait_state("degraded")
    return daemon


def database_silent(stage: Stage, stack: ExitStack) -> DaemonProcess:
    daemon = stage.listening()
    stage.database.black_hole()
    emit_event(stage.simulator, 0)
    until(lambda: (found := daemon.status()) and found.events.received, 20, "an event that cannot be stored")
    return daemon


def database_silent_at_start(stage: Stage, stack: ExitStack) -> DaemonProcess:
    stage.database.black_hole()
    daemon = stage.starting(stage.daemon(), stack)
    until(lambda: stage.database.connections, 20, "a connection")
    return daemon


def database_frozen(stage: Stage, stack: ExitStack) -> DaemonProcess:
    daemon = stage.listening()
    stage.server.pause()
    stack.callback(stage.server.resume)
    emit_event(stage.simulator, 0)
    until(lambda: (found := daemon.status()) and found.events.received, 20, "an event that cannot be stored")
    return daemon


def spooling(stage: Stage, stack: ExitStack) -> DaemonProcess:
    daemon = stage.listening(**SPOOLING)
    stage.database.stop()
    stage.database.reset()
    emit_event(stage.simulator, 0)
    daemon.wait_log("the events go to the spool")
    return daemon


def draining_the_spool(stage: Stage, stack: ExitStack) -> DaemonProcess:
    daemon = spooling(stage, stack)
    stack.enter_context(locked(stage.url, "events"))
    stage.database.start()
    wait_blocked(stage.url, "events")
    return daemon


def waiting_for_a_migration(stage: Stage, stack: ExitStack) -> DaemonProcess:
    stage.url = stage.unused_url
    with psycopg.connect(stage.url) as connection:
        connection.execute(
            "CREATE TABLE schema_version (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        )
    stack.enter_context(locked(stage.url, "schema_version"))
    daemon = stage.starting(stage.daemon(), stack)
    wait_blocked(stage.url, "schema_version")
    return daemon


def loading_the_model(stage: Stage, stack: ExitStack) -> DaemonProcess:
    daemon = stage.daemon()
    daemon.hang("model")
    daemon.started()
    daemon.wait_hung("model")
    return daemon


def embedding(stage: Stage, stack: ExitStack) -> DaemonProcess:
    daemon = stage.listening()
    daemon.hang("embedding")
    emit_event(stage.simulator, 0)
    daemon.wait_hung("embedding")
    return daemon


def building_an_index(stage: Stage, stack: ExitStack) -> DaemonProcess:
    stack.enter_context(locked(stage.url, "embeddings", "ROW EXCLUSIVE"))
    daemon = stage.listening()
    building = "SELECT 1 FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting for%'"
    until(lambda: stage.server.execute(building), 30, "a build that waits")
    return daemon


def in_retention(stage: Stage, stack: ExitStack) -> DaemonProcess:
    other = Writer(lambda: psycopg.connect(stage.url, autocommit=True), "1000000002")
    with contextlib.closing(other):
        assert other.acquire()
        now = int(time.time())
        other.store(batch(new(1), *(new(n, timestamp=now) for n in range(2, 12))))
    stack.enter_context(locked(stage.url, "message_versions"))
    daemon = stage.listening(**{"storage.retention": "1d"})
    wait_blocked(stage.url, "message_versions")
    return daemon


def reading_its_configuration(stage: Stage, stack: ExitStack) -> DaemonProcess:
    daemon = stage.listening(**{"api.poll_time": 1})
    stage.api.deaf()
    daemon.configure(**{"api.token": f"001.9999999999.8888888888:{BOT}"})
    before = stage.api.accepted
    daemon.signal(signal.SIGHUP)
    until(lambda: stage.api.accepted > before, 20, "a trial of the new token")
    return daemon


def embed_role_without_a_database(stage: Stage, stack: ExitStack) -> DaemonProcess:
    stage.database.black_hole()
    daemon = stage.daemon(**{"daemon.role": "embed"})
    daemon.pid_file = daemon.pid_file.with_name("vkteamsd-embed.pid")
    stage.starting(daemon, stack)
    until(lambda: stage.database.connections, 20, "a connection")
    return daemon


def making_the_bundled_database(stage: Stage, stack: ExitStack) -> DaemonProcess:
    daemon = stage.daemon(**{"database.url": ""})
    home = daemon.directory / "state" / "postgresql"
    home.parent.mkdir()
    user.choose_owner(SERVER_USER).make_directory(home, 0o750)
    stage.starting(daemon, stack)
    until(lambda: list(home.glob(".*.*")), 20, "a database that is being made")
    return daemon


STATES: dict[str, State] = {
    state.__name__: state
    for state in (
        listening, busy, standby, api_down, api_silent, api_silent_at_start, api_asks_to_wait, name_look_up_hangs,
        database_refuses, database_silent, database_silent_at_start, database_frozen, spooling, draining_the_spool,
        waiting_for_a_migration, loading_the_model, embedding, building_an_index, in_retention,
        reading_its_configuration, embed_role_without_a_database, making_the_bundled_database,
    )
}  # fmt: skip


@pytest.fixture
def stage(
    vkteamsd: Callable[..., DaemonProcess],
    simulator: Simulator,
    durable_server: PostgresServer,
    durable_oracle: Oracle,
    open_proxy: Callable[[int], Proxy],
    models_dir: Path,
) -> Iterator[Stage]:
    with durable_server.fresh(migrated=False) as unused_url:
        yield Stage(
            vkteamsd, simulator, durable_server, durable_oracle.url, unused_url, durable_oracle,
            open_proxy(simulator.port), open_proxy(durable_server.port), models_dir,
        )  # fmt: skip


def _once(daemon: DaemonProcess) -> None:
    assert daemon.stop() < LIMIT


def _twice(daemon: DaemonProcess) -> None:
    """The second one is another signal: two of one kind may be delivered as one."""
    first, second = random.sample([signal.SIGTERM, signal.SIGINT], 2)
    pid = daemon.signal(first)
    began = time.monotonic()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, second)
    daemon.wait_gone()
    assert time.monotonic() - began < AT_ONCE


# Here events have come, and some are not in the database yet.
WITH_EVENTS = {busy.__name__, database_silent.__name__, database_frozen.__name__, spooling.__name__,
               draining_the_spool.__name__, embedding.__name__}  # fmt: skip
# Both ways at full size; otherwise one of them in each state.
WAYS = {"once": [_once], "twice": [_twice]} if FULL else {"once or twice": [_once, _twice]}


@pytest.mark.parametrize("way", WAYS)
@drawn("states in which the daemon is told to stop", STATES, quick=5)
def test_it_ends_in_time_in_every_state(stage: Stage, name: str, way: str) -> None:
    scaled("ways to tell the daemon to stop, in each state", full=2, quick=1)
    with ExitStack() as stack:
        daemon = STATES[name](stage, stack)
        random.choice(WAYS[way])(daemon)
    until(lambda: not daemon.processes(), 2, "the end of the process, which has given its lock back")
    assert not daemon.pid_file.exists()
    # After a second signal nobody waits for the end of what makes the bundled database.
    until(lambda: not servers(daemon.directory), 0 if way == "once" else 20, "the end of its servers")
    if name in WITH_EVENTS:
        stage.api.heal()
        stage.database.heal()
        daemon.started()
        stage.oracle.wait()
        stage.oracle.check()
