"""`vkteamsctl database stats` as people read it: numbers, and on a terminal small bars beside them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vkteams_daemon.config import Config
from vkteams_daemon.ctl.output import Answer, Screen, cell, size

if TYPE_CHECKING:
    from vkteams_daemon.search.history.results import Statistics

_WIDTH = 12  # of the longest bar
_EIGHTHS = " ▏▎▍▌▋▊▉"


def answer(args: argparse.Namespace, config: Config) -> Answer:
    """What the archive holds, or a part of it."""
    from vkteams_daemon.search.archive import Archive

    with Archive(config) as archive:
        counted = archive.statistics(
            chat_ids=archive.existing([args.chat_id] if args.chat_id else None), since=args.since
        )
    return Answer(counted, lambda screen: _show(screen, counted))


def bar(value: float, most: float) -> str:
    """A bar that is full where the value is the most there is, and never empty where there is something."""
    eighths = max(1, round(8 * _WIDTH * value / most)) if value > 0 and most > 0 else 0
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
    """A table; on a terminal with a bar for the number in the measured column."""
    if not rows:
        return
    most = max(row[measured] for row in rows)
    bars = [(bar(row[measured], most),) if screen.terminal else () for row in rows]
    if headings[measured] == "size":
        rows = [(*row[:-1], size(row[-1])) for row in rows]
    screen.line()
    screen.table(
        (*headings, "") if screen.terminal else headings,
        [(*row, *drawn) for row, drawn in zip(rows, bars, strict=True)],
        free=("title", "author"),
    )


def _lag(median: float | None, worst: float | None) -> str | None:
    if median is None or worst is None:
        return None
    return f"{_seconds(median)}, {_seconds(worst)} at most for 99 of 100 (the newest 1000 messages)"


def _seconds(value: float) -> str:
    if abs(value) < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if abs(value) < 7200 else f"{value / 3600:.0f} h"
