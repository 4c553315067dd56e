"""`vkteamsctl database stats`: what the archive holds, in numbers, with small bars on a terminal."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vkteams_daemon.config import Config
from vkteams_daemon.ctl import filters
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.connections import open_archive
from vkteams_daemon.ctl.output import Answer, Screen, cell, size

if TYPE_CHECKING:
    from vkteams_daemon.search.history.results import Statistics

_BAR_WIDTH = 12  # letters of the longest bar
_EIGHTHS = " ▏▎▍▌▋▊▉"


def register(noun: Noun) -> None:
    """Add the verb stats."""
    stats = noun.verb("stats", "what the archive holds", _stats, "vkteamsctl database stats --since 7d --output json")
    stats.add_argument("--chat-id", metavar="ID", help="count only this chat")
    filters.add_count_since(stats)


def _stats(args: argparse.Namespace, config: Config) -> Answer:
    with open_archive(config) as archive:
        chats = archive.existing([args.chat_id] if args.chat_id else None)
        statistics = archive.statistics(chat_ids=chats, since=args.since)
    return Answer(statistics, lambda screen: _show(screen, statistics))


def bar(value: float, maximum: float) -> str:
    """A bar, full at the maximum. A value above zero always shows something."""
    eighths = max(1, round(8 * _BAR_WIDTH * value / maximum)) if value > 0 and maximum > 0 else 0
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8].strip())


def _show(screen: Screen, s: Statistics) -> None:
    waiting = f" ({s.parked} parked)" if s.parked else ""
    since = f", since {cell(s.oldest_queued_at)}" if s.oldest_queued_at else ""
    screen.pairs((
        ("events", f"{s.events} ({s.quarantined} quarantined), last {cell(s.last_event_at)}"),
        ("messages", f"{s.messages} ({s.edited} edited, {s.deleted} deleted)"),
        ("from, to", f"{cell(s.first_message_at)}, {cell(s.last_message_at)}"),
        ("earlier texts", s.versions),
        ("chats", s.chats),
        ("authors", s.users),
        ("waiting for a vector", f"{s.queued}{waiting}{since}"),
        ("sent to stored", _lag(s.lag.sent_to_stored_p50, s.lag.sent_to_stored_p99)),
        ("stored to vector", _lag(s.lag.stored_to_vector_p50, s.lag.stored_to_vector_p99)),
    ))  # fmt: skip
    if s.models:
        screen.line()
        screen.table(
            ("model", "state", "dims", "vectors", "messages", "index"),
            [(m.name, m.state, m.dims, m.vectors, m.messages, m.indexed) for m in s.models],
        )
    head = ("messages", "edited", "deleted")
    _chart(
        screen, ("chat", "title", *head),
        [(c.chat_id, c.title, c.messages, c.edited, c.deleted) for c in s.busiest],
    )  # fmt: skip
    _chart(
        screen, ("author", *head),
        [(u.name or u.user_id, u.messages, u.edited, u.deleted) for u in s.authors],
    )  # fmt: skip
    _chart(screen, ("day", *head), [(d.day.isoformat(), d.messages, d.edited, d.deleted) for d in s.days])
    if s.tables:
        rows: list[tuple[Any, ...]] = [("database", None, None, s.sizes["database"])]
        for table in s.tables:
            rows.append((table.name, table.rows, None, table.octets))
            rows += [(None, None, index.name, index.octets) for index in table.indexes]
        _chart(screen, ("table", "rows, about", "index", "size"), rows, measured=3)


def _chart(screen: Screen, headings: Sequence[str], rows: Sequence[tuple[Any, ...]], measured: int = -3) -> None:
    """A table; on a terminal, with a bar for the number in the measured column."""
    if not rows:
        return
    maximum = max(row[measured] for row in rows)
    bars = [(bar(row[measured], maximum),) if screen.terminal else () for row in rows]
    if headings[measured] == "size":
        rows = [(*row[:-1], size(row[-1])) for row in rows]
    screen.line()
    screen.table(
        (*headings, "") if screen.terminal else headings,
        [(*row, *cells) for row, cells in zip(rows, bars, strict=True)],
        free=("title", "author"),
    )


def _lag(p50: float | None, p99: float | None) -> str | None:
    if p50 is None or p99 is None:
        return None
    return f"median {_seconds(p50)}, 99 of 100 within {_seconds(p99)} (of the newest 1000 messages)"


def _seconds(value: float) -> str:
    if abs(value) < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if abs(value) < 7200 else f"{value / 3600:.0f} h"
