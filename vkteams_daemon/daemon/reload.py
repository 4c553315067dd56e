"""Reads the configuration again on HUP, and puts it in force if it is valid and its token belongs to the same bot."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from vkteams_daemon import config as configuration
from vkteams_daemon.botapi.client import BotClient, make_client
from vkteams_daemon.config import Config
from vkteams_daemon.daemon.watch import Pulse
from vkteams_daemon.errors import VkTeamsError

log = logging.getLogger(__name__)

RELOAD_LIMIT = 300.0  # seconds after which a reload is overdue; a new token is tried at the API


class Reloader:
    """Works in a thread of its own. Several requests during one reading lead to one more reading, after the last.

    Args:
        config: in force.
        read: reopens the log and reads the configuration again, from the same sources as at the start.
        bot_id: the id of the bot, or None while it is not known.
        apply: called with the configuration that is in force from now on, and with a new client if it needs one.
        pulse: this loop's.
    """

    def __init__(
        self,
        config: Config,
        read: Callable[[], Config],
        bot_id: Callable[[], str | None],
        apply: Callable[[Config, BotClient | None], None],
        pulse: Pulse | None = None,
    ) -> None:
        self._config = config
        self._read = read
        self._bot_id = bot_id
        self._apply = apply
        self._pulse = pulse or Pulse("reload")
        self._requested = threading.Event()
        self._stop = threading.Event()

    def request(self) -> None:
        """Let the thread read the configuration again."""
        self._requested.set()

    def stop(self) -> None:
        """End the loop."""
        self._stop.set()
        self._requested.set()

    def run(self) -> None:
        """The loop, until `stop`."""
        while True:
            self._requested.wait()
            self._requested.clear()
            if self._stop.is_set():
                return
            with self._pulse.turn(RELOAD_LIMIT):
                self._reload()

    def _reload(self) -> None:
        try:
            config, need_restart = configuration.merge_reloadable(self._config, self._read())
            client = self._new_client(config)
        except VkTeamsError as error:
            log.error("the configuration stays as it was: %s", error)
            return
        self._config = config
        self._apply(config, client)
        names = f"; these wait for a restart: {', '.join(need_restart)}" if need_restart else ""
        log.info("configuration read again%s", names)

    def _new_client(self, config: Config) -> BotClient | None:
        """A client for a changed token or changed time limits; None if neither has changed.

        Raises:
            ApiError: the token does not work.
            VkTeamsError: the token belongs to another bot.
        """
        old, new, bot_id = self._config.api, config.api, self._bot_id()
        same = (new.token, new.connect_timeout, new.read_margin) == (old.token, old.connect_timeout, old.read_margin)
        if same or config.daemon.role == "embed":
            return None
        client = make_client(config)
        bot = client.self_get()
        if bot_id is not None and bot.user_id != bot_id:
            raise VkTeamsError(f"the new token belongs to bot {bot.user_id}, not to {bot_id}")
        return client
