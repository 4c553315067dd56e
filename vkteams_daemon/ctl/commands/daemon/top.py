"""`vkteamsctl daemon top`: the status file on the whole terminal, drawn again every second until q is pressed.

It only reads the file. The daemon gets no signal, and a daemon that ends is shown as not running.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from vkteams_daemon.config import Config
from vkteams_daemon.ctl import argument_types
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.commands.daemon.status import read_daemon_health, style
from vkteams_daemon.ctl.commands.daemon.target import add_role
from vkteams_daemon.ctl.output import Answer, cell, figure, one_line, size
from vkteams_daemon.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from vkteams_daemon.daemon.health import DaemonHealth
    from vkteams_daemon.daemon.status import Percentiles, Status

_BARS = " ▁▂▃▄▅▆▇█"
_SAMPLES = 60
_QUIT_KEYS = b"qQ\x03\x04"  # also Ctrl-C and Ctrl-D, which reach us as keys if the terminal sends no signal


def register(noun: Noun) -> None:
    """Add the verb top."""
    top = noun.verb(
        "top",
        "watch vkteamsd live on a terminal; q quits",
        _top,
        "vkteamsctl daemon top --interval 0.5",
        needs_config=False,
    )
    add_role(top)
    top.add_argument(
        "--interval", metavar="SECONDS", type=argument_types.interval, default=1.0, help="seconds between updates (1)"
    )


def _top(args: argparse.Namespace, _: Config) -> Answer:
    if getattr(args, "output", "table") != "table":
        raise UsageError("daemon top is for people", hint="Programs can use `vkteamsctl --output json daemon status`.")
    _run(lambda: read_daemon_health(args), args.interval)
    return Answer(None, lambda screen: None)


class Rates:
    """Events a second between each status file and the next, the newest last."""

    def __init__(self) -> None:
        self.samples: deque[float] = deque(maxlen=_SAMPLES)
        self._last: tuple[int, datetime, int] | None = None

    def add(self, status: Status) -> None:
        """Add a status file; the same file counts once. The counts of another process start from 0."""
        sample = (status.pid, status.updated_at, status.events.received)
        if self._last and self._last[0] == sample[0]:
            seconds = (sample[1] - self._last[1]).total_seconds()
            if seconds <= 0:
                return
            self.samples.append((sample[2] - self._last[2]) / seconds)
        self._last = sample

    def bars(self) -> str:
        """One small bar for each sample. A rate of 0 has the lowest bar, so that every sample is visible."""
        maximum = max(self.samples, default=0.0)
        if maximum <= 0:
            return "▁" * len(self.samples)
        return "".join(_BARS[max(1, min(8, round(8 * rate / maximum)))] for rate in self.samples)


def _run(read_health: Callable[[], DaemonHealth], interval: float) -> None:
    """Show the daemon until a key quits.

    Args:
        read_health: gives the health of the daemon now.
        interval: seconds between two readings.

    Raises:
        UsageError: standard input or output is not a terminal, or the terminal cannot be drawn on.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM", "dumb") == "dumb":
        raise UsageError("daemon top needs a terminal", hint="`vkteamsctl daemon status` shows the state once.")
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False, no_color=bool(os.environ.get("NO_COLOR")))
    rates = Rates()
    with (
        contextlib.suppress(KeyboardInterrupt),
        _keys() as quit_pressed,
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        while True:
            health = read_health()
            if health.status is not None:
                rates.add(health.status)
            live.update(_page(health, rates, interval), refresh=True)
            if quit_pressed(interval):
                return


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """Reads single keys, for a `with` block: a function that waits so many seconds for a key that quits.

    The terminal has its old settings afterwards.
    """
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def quit_pressed(seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while (remaining := deadline - time.monotonic()) > 0:
            if select.select([descriptor], [], [], remaining)[0]:
                key = os.read(descriptor, 1)
                # An empty read is the end of the terminal.
                if not key or key in _QUIT_KEYS:
                    return True
        return False

    try:
        tty.setcbreak(descriptor)
        yield quit_pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _page(health: DaemonHealth, rates: Rates, interval: float) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head = Text.assemble(("vkteamsd is ", "bold"), (health.state, f"bold {style(health.state)}"))
    if health.error:
        head.append(f": {one_line(health.error)}")
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold", no_wrap=True)
    rows.add_column(overflow="fold")
    for name, value in _rows(health, rates):
        rows.add_row(name, Text(one_line(value)))
    return Group(head, Text(""), rows, Text(""), Text(f"q quits · updated every {interval:g} s", style="dim"))


def _rows(health: DaemonHealth, rates: Rates) -> list[tuple[str, str]]:
    status = health.status
    if status is None:
        return []
    events, embedding, api, database = status.events, status.embedding, status.api, status.database
    models = " + ".join(model.name for model in embedding.models)
    counts = ("received", "saved", "duplicate", "filtered", "quarantined", "failed")
    spooled = [f"{status.spool.events} in the spool"] if status.spool.events else []
    return [
        ("process", f"{cell(health.pid)}, {status.role}, version {status.version}"),
        ("since", cell(status.started_at)),
        ("bot", f"{cell(status.bot.nick)} ({cell(status.bot.id)})"),
        ("api", f"{cell(api.state)}, last poll {cell(api.last_poll_at)}{_reason(api.last_error)}"),
        ("database", f"{cell(database.state)}{_reason(database.last_error)}"),
        ("events", ", ".join([f"{getattr(events, name)} {name}" for name in counts] + spooled)),
        ("a second", f"{figure(events.per_second)}  {rates.bars()}"),
        ("last event", f"{cell(events.last_event_id)}, {cell(events.last_event_at)}"),
        ("embedding", f"{embedding.state}, {models or 'no model'}"),
        ("texts", f"{cell(embedding.queued)} queued, {embedding.embedded} embedded, {embedding.failed} failed"),
        ("a second", figure(embedding.texts_per_second)),
        ("poll to row", _milliseconds(status.latency_ms.poll_to_row)),
        ("row to vector", _milliseconds(status.latency_ms.row_to_vector)),
        ("memory", size(status.rss_bytes)),
        ("written", f"{cell(status.updated_at)}, {cell(health.age)} s ago"),
    ]


def _reason(error: str | None) -> str:
    return f", {error}" if error else ""


def _milliseconds(latency: Percentiles) -> str:
    if latency.p50 is None or latency.p99 is None:
        return "-"
    return f"median {figure(latency.p50, 3)} ms, 99 of 100 within {figure(latency.p99, 3)} ms"
