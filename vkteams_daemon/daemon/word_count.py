"""What the daemon does for the archive beside listening, now and then: it counts the words (`store.words`)."""

from __future__ import annotations

import logging
import threading

from vkteams_daemon.errors import VkTeamsError
from vkteams_daemon.store.admin import word_counts
from vkteams_daemon.store.database import Database

log = logging.getLogger(__name__)

INTERVAL = 60.0  # seconds between two looks at whether there is anything to do; a look is two rows


def count_words_loop(database: Database, stopping: threading.Event, interval: float = INTERVAL) -> None:
    """Do what is due until `stopping` is set; a database that does not answer is asked again at the next look.

    Whoever stops does not wait for it: what is cut off in the middle changes nothing.
    """
    while not stopping.wait(interval):
        try:
            with database.connection() as connection:
                if word_counts.count_words(connection):
                    log.debug("the archive's words are counted")
        except VkTeamsError as error:
            log.debug("the archive's words are not counted: %s", error)
