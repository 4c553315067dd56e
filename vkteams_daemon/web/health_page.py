"""The page for administrators: how the daemon is, how far the archive lags behind, what waits, and what is missing.

It counts over every chat, and shows no text of any.
"""

from __future__ import annotations

from dataclasses import dataclass

from vkteams_daemon.config import Config
from vkteams_daemon.daemon.health import DaemonHealth, State, read_health
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.search.history.message_counts import DayLag
from vkteams_daemon.search.history.results import Lag
from vkteams_daemon.search.visibility import NobodysChat
from vkteams_daemon.store.gaps import Gap
from vkteams_daemon.web.charts import Charts, Picture
from vkteams_daemon.web.language import Language

_DAYS = 14
_LEAST = 0.1  # seconds: the shortest lag that the picture tells from none


@dataclass(frozen=True, slots=True)
class HealthPage:
    """What the page shows."""

    health: DaemonHealth
    lag: Lag
    days: list[DayLag]
    gaps: list[Gap]
    nobodys: list[NobodysChat]


def read(archive: Archive, config: Config) -> HealthPage:
    """The page; the archive is seen as a whole."""
    lag, days = archive.lag(_DAYS)
    return HealthPage(read_health(config), lag, days, archive.gaps(), archive.nobodys_chats())


def state_names(language: Language) -> dict[State, str]:
    """The states of the daemon in the reader's language."""
    _ = language.gettext
    return {
        "running": _("runs"), "standby": _("stands by"), "starting": _("starts"), "degraded": _("in trouble"),
        "stopping": _("stops"), "stale": _("does not report"), "dead": _("has died"), "not running": _("does not run"),
        "unknown": _("unknown"),
    }  # fmt: skip


def draw_lag(archive: Archive, charts: Charts, language: Language) -> Picture:
    """The lag of the last days, on a logarithmic scale."""
    _, days = archive.lag(_DAYS)
    chart = charts.make(
        "Line", language.duration, show_legend=True, legend_at_bottom=True, legend_at_bottom_columns=2,
        logarithmic=True, dots_size=4,
    )  # fmt: skip
    chart.x_labels = [language.axis_date(day.date) for day in days]
    chart.add(language.gettext("half of the messages"), [max(_LEAST, day.p50) for day in days])
    chart.add(language.gettext("99 of 100"), [max(_LEAST, day.p99) for day in days])
    return charts.finish(chart)
