"""Notes when the API answers, and finds the pauses after which it may have forgotten events.

The Bot API keeps events for a time that only its administrator knows (`[api] retention`). Nobody can tell afterwards
what was said in a longer pause, so the pause becomes a gap. If the time is not known, a pause of more than a day is a
possible gap.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from vkteams_daemon.config import parse_duration
from vkteams_daemon.daemon.polling.poll_series import PollSeries
from vkteams_daemon.daemon.watch import Pulse
from vkteams_daemon.errors import VkTeamsError
from vkteams_daemon.store import gaps
from vkteams_daemon.store.database import Database

log = logging.getLogger(__name__)

INTERVAL = 60.0  # seconds between two notes
_LIMIT = 60.0  # seconds after which a note is overdue


def outage_loop(
    database: Database,
    bot_id: Callable[[], str | None],
    series: PollSeries,
    retention: Callable[[], str],
    stopping: threading.Event,
    pulse: Pulse,
    interval: float = INTERVAL,
) -> None:
    """Note the polls until `stopping` is set. If the database does not answer, the next note covers the same polls.

    The daemon does not wait for this thread when it stops.

    Args:
        database: may not be open yet.
        bot_id: the bot that this process listens to; None while it does not listen.
        series: the polls of the poll loop.
        retention: the present value of the option: `7d`, or "" if it is not known.
        stopping: ends the loop.
        pulse: of the loop.
        interval: seconds between two notes.
    """
    while not stopping.wait(interval):
        bot, polls = bot_id(), series.polls
        if bot is None or polls is None:
            continue
        kept_for = parse_duration(retention()) if retention() else None
        try:
            with pulse.turn(_LIMIT), database.connection() as connection:
                found = gaps.note_polls(connection, bot, polls, kept_for)
        except VkTeamsError as error:
            log.debug("the polls are not noted: %s", error)
            continue
        series.noted(polls)
        for each in found:
            log.error(
                "events of bot %s may be missing from the archive: %s; see `vkteamsctl database gaps`",
                bot,
                each.reason,
            )
