"""`vkteamsctl daemon top`: the status file on the whole terminal, drawn anew every moment until q is pressed.

It only looks: the daemon is not signalled, and a daemon that goes away is shown as gone.
"""

from __future__ import annotations

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

from vkteams_daemon.ctl.output import cell, one_line, size
from vkteams_daemon.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from vkteams_daemon.daemon.health import DaemonHealth
    from vkteams_daemon.daemon.status import Percentiles, Status

_BARS = " ▁▂▃▄▅▆▇█"
_SAMPLES = 60
_QUITS = b"qQ\x03\x04"  # with Ctrl-C and Ctrl-D, where the terminal makes no signal of them


class Rates:
    """Events a second between one status file and the next, the newest last."""

    def __init__(self) -> None:
        self.samples: deque[float] = deque(maxlen=_SAMPLES)
        self._last: tuple[int, datetime, int] | None = None

    def see(self, status: Status) -> None:
        """Take in a status file, once; another process's counts start over."""
        now = (status.pid, status.updated_at, status.events.received)
        if self._last and self._last[0] == now[0]:
            seconds = (now[1] - self._last[1]).total_seconds()
            if seconds <= 0:
                return
            self.samples.append((now[2] - self._last[2]) / seconds)
        self._last = now

    def drawn(self) -> str:
        """One small bar for each sample; what is not nothing is never drawn as nothing."""
        most = max(self.samples, default=0.0)
        if most <= 0:
            return "".join("▁" for _ in self.samples)
        return "".join(_BARS[max(1, min(8, round(8 * rate / most)))] for rate in self.samples)


def run(look: Callable[[], DaemonHealth], interval: float, style: Callable[[str], str]) -> None:
    """Show it until somebody quits.

    Args:
        look: how the daemon is now.
        interval: seconds between two looks.
        style: the style of a condition's word.

    Raises:
        UsageError: this is no terminal, or one that cannot be drawn on.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM", "dumb") == "dumb":
        raise UsageError("daemon top needs a terminal", hint="`vkteamsctl daemon status` says it once.")
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False, no_color=bool(os.environ.get("NO_COLOR")))
    rates = Rates()
    with (
        contextlib.suppress(KeyboardInterrupt),
        _keys() as pressed,
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        while True:
            condition = look()
            if condition.status is not None:
                rates.see(condition.status)
            live.update(_page(condition, rates, interval, style(condition.state)), refresh=True)
            if pressed(interval):
                return


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """Reads single keys; gives a function that waits so long for one that quits, and puts the terminal back."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def pressed(seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if select.select([descriptor], [], [], left)[0]:
                key = os.read(descriptor, 1)
                # Nothing to read any more: whoever looked has gone.
                if not key or key in _QUITS:
                    return True
        return False

    try:
        tty.setcbreak(descriptor)
        yield pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _page(condition: DaemonHealth, rates: Rates, interval: float, style: str) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head = Text.assemble(("vkteamsd is ", "bold"), (condition.state, f"bold {style}"))
    if condition.error:
        head.append(f": {one_line(condition.error)}")
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold", no_wrap=True)
    rows.add_column(overflow="fold")
    for name, value in _rows(condition, rates):
        rows.add_row(name, Text(one_line(value)))
    return Group(head, Text(""), rows, Text(""), Text(f"q quits · a look every {interval:g} s", style="dim"))


def _rows(condition: DaemonHealth, rates: Rates) -> list[tuple[str, str]]:
    status = condition.status
    if status is None:
        return []
    events, embedding, api, database = status.events, status.embedding, status.api, status.database
    counted = ("received", "saved", "duplicate", "filtered", "quarantined", "failed")
    return [
        ("process", f"{cell(condition.pid)}, {status.role}, version {status.version}"),
        ("since", cell(status.started_at)),
        ("bot", f"{cell(status.bot.nick)} ({cell(status.bot.id)})"),
        ("api", f"{cell(api.state)}, last poll {cell(api.last_poll_at)}{_reason(api.last_error)}"),
        ("database", f"{cell(database.state)}{_reason(database.last_error)}"),
        ("events", ", ".join(f"{getattr(events, name)} {name}" for name in counted)),
        ("a second", f"{events.per_second:g}  {rates.drawn()}"),
        ("last event", f"{cell(events.last_event_id)}, {cell(events.last_event_at)}"),
        ("embedding", f"{embedding.state}, {cell(embedding.model)}"),
        ("texts", f"{cell(embedding.queued)} queued, {embedding.embedded} embedded, {embedding.failed} failed"),
        ("a second", f"{embedding.texts_per_second:g}"),
        ("poll to row", _milliseconds(status.latency_ms.poll_to_row)),
        ("row to vector", _milliseconds(status.latency_ms.row_to_vector)),
        ("memory", size(status.rss_bytes)),
        ("written", f"{cell(status.updated_at)}, {cell(condition.age)} s ago"),
    ]


def _reason(error: str | None) -> str:
    return f", {error}" if error else ""


def _milliseconds(found: Percentiles) -> str:
    if found.p50 is None or found.p99 is None:
        return "-"
    return f"{found.p50:.3g} ms, {found.p99:.3g} ms at most for 99 of 100"
