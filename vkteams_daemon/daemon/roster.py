"""Reads the roster of each chat: soon after it appears or changes, and once a day. Polling never waits for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from vkteams_daemon.botapi.client import BotClient
from vkteams_daemon.botapi.roster import read_roster
from vkteams_daemon.daemon.watch import Pulse
from vkteams_daemon.errors import (
    ApiProtocolError,
    ApiRefused,
    DatabaseUnavailable,
    RateLimited,
    StoppedEarly,
    VkTeamsError,
)
from vkteams_daemon.store import rosters
from vkteams_daemon.store.database import Database

log = logging.getLogger(__name__)

AGE = timedelta(days=1)  # of a roster that is read again
CHANGED_AGE = timedelta(minutes=1)  # of a roster that is read again because somebody has joined or left
PACE = 1.0  # seconds between two requests; the API limits the rate, and events go first
CHECK_INTERVAL = 10.0  # seconds between two checks whether a roster is due
UNREADABLE = timedelta(hours=1)  # until a roster that could not be read is tried again
RETRY_INTERVAL = 60.0  # seconds after the API has failed
STEP_LIMIT = 300.0  # seconds after which a request, or a step in the database, is overdue


def read_chat(
    database: Database, client: BotClient, chat_id: str, at: datetime, pause: Callable[[], None], *, bot_id: str
) -> str | None:
    """Ask for the roster of a chat and store it. Without one, store why; returns that reason.

    Args:
        database: open.
        client: used by this thread alone.
        chat_id: the chat.
        at: the time now.
        pause: called before every request but the first.
        bot_id: the bot of the client.

    Raises:
        ApiError: the API has failed; nothing is stored.
        StoreError: the database has failed.
    """
    try:
        roster = read_roster(client, chat_id, pause)
    except (ApiRefused, ApiProtocolError) as error:
        # A refusal stands for a day. What cannot be read may be a proxy's page, so it is tried again in an hour.
        tried = at if isinstance(error, ApiRefused) else at - AGE + UNREADABLE
        with database.connection() as connection:
            rosters.save_refusal(connection, chat_id, tried, str(error), bot_id=bot_id)
        return str(error)
    chat = {"type": roster.type, "title": roster.title, "about": roster.about}
    with database.connection() as connection:
        rosters.save(connection, chat_id, at, chat, roster.members, bot_id=bot_id)
    return None


class RosterReader:
    """Runs in a thread of its own, with a connection to the API of its own.

    Args:
        database: may not be open yet.
        make_client: makes the client; called anew after a failure.
        listening_bot: the bot, while this process listens to it and the API answers; otherwise None.
        wanted: whether rosters are wanted now.
        chat_ids: only these chats and their threads; empty for every chat.
        clock: the time of the day.
        pulse: this loop's.

    Attributes:
        pulse: as given.
    """

    def __init__(
        self,
        database: Database,
        make_client: Callable[[], BotClient],
        listening_bot: Callable[[], str | None],
        wanted: Callable[[], bool],
        *,
        chat_ids: tuple[str, ...] = (),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        pulse: Pulse | None = None,
    ) -> None:
        self._database = database
        self._make_client = make_client
        self._listening_bot = listening_bot
        self._wanted = wanted
        self._chat_ids = [chat_id.lower() for chat_id in chat_ids] or None
        self._clock = clock
        self.pulse = pulse or Pulse("roster")
        self._client: BotClient | None = None

    def run(self, stopping: threading.Event) -> None:
        """Read what is due, until `stopping` is set."""
        pause = CHECK_INTERVAL
        while not stopping.wait(pause):
            pause = CHECK_INTERVAL
            bot_id = self._listening_bot()
            if not self._wanted() or bot_id is None:
                continue
            try:
                with self.pulse.turn(STEP_LIMIT):
                    if self._read_next(bot_id, stopping):
                        pause = PACE
            except StoppedEarly:
                return
            except DatabaseUnavailable as error:
                log.debug("rosters: the database does not answer: %s", error)
            except RateLimited as error:
                pause = max(RETRY_INTERVAL, error.retry_after or 0.0)
                log.debug("rosters: the API asks to wait")
            except VkTeamsError as error:
                log.debug("rosters: %s", error)
                pause, self._client = RETRY_INTERVAL, None

    def abort(self) -> None:
        """End the request in flight, from any thread."""
        if self._client:
            self._client.abort()

    def _read_next(self, bot_id: str, stopping: threading.Event) -> bool:
        """Read the roster that is due first; returns whether there was one."""
        now = self._clock()
        with self._database.connection() as connection:
            due = rosters.list_due(
                connection, now - AGE, self._chat_ids, bot_id=bot_id, changed_before=now - CHANGED_AGE, limit=1
            )
        if not due:
            return False

        def pause() -> None:
            if stopping.wait(PACE):
                raise StoppedEarly("the daemon stops")
            self.pulse.busy(STEP_LIMIT)

        self._client = self._client or self._make_client()
        read_chat(self._database, self._client, due[0].chat_id, now, pause, bot_id=bot_id)
        return True
