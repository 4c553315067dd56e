"""Keeps the archive's words in order: counts them from time to time, and merges new ones into their index.

Spelling correction and the weights of words read the counts (`store.admin.word_counts`).
"""

from __future__ import annotations

import logging
import threading

from vkteams_daemon.daemon.watch import Pulse
from vkteams_daemon.errors import VkTeamsError
from vkteams_daemon.store.admin import search_index, word_counts
from vkteams_daemon.store.database import Database

log = logging.getLogger(__name__)

INTERVAL = 60.0  # seconds between two merges and checks whether a count is due; a check reads two rows
COUNT_LIMIT = 900.0  # seconds after which a count is overdue; it takes a second for each 200,000 messages


def count_words_loop(database: Database, stopping: threading.Event, pulse: Pulse, interval: float = INTERVAL) -> None:
    """Merge new words, and count whenever a count is due, until `stopping` is set. After an error, try the next time.

    The daemon does not wait for this thread when it stops: a count that is cut off changes nothing.
    """
    while not stopping.wait(interval):
        try:
            with pulse.turn(COUNT_LIMIT), database.connection() as connection:
                search_index.merge_pending(connection)
                if word_counts.count_words(connection):
                    log.debug("the archive's words are counted")
        except VkTeamsError as error:
            log.debug("the archive's words are not counted: %s", error)
