"""HUP: the configuration is read again in a thread of its own, and taken over where it is right and the same bot's."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from vkteams_daemon import config as configuration
from vkteams_daemon.botapi.client import BotClient, make_client
from vkteams_daemon.config import Config
from vkteams_daemon.errors import VkTeamsError

log = logging.getLogger(__name__)


class Reload:
    """However many HUPs have come meanwhile, the configuration is read once after the last of them.

    Args:
        config: in force.
        read: reopens the log and reads the configuration again, as it was read at the start.
        bot_id: the bot that is listened to, None as long as that is not known.
        take: called with the configuration that is in force from now on, and a client where it needs another one.
    """

    def __init__(
        self,
        config: Config,
        read: Callable[[], Config],
        bot_id: Callable[[], str | None],
        take: Callable[[Config, BotClient | None], None],
    ) -> None:
        self._config = config
        self._read = read
        self._bot_id = bot_id
        self._take = take
        self._wanted = threading.Event()
        self._stop = threading.Event()

    def wanted(self) -> None:
        """Read it again, soon."""
        self._wanted.set()

    def stop(self) -> None:
        """End the loop."""
        self._stop.set()
        self._wanted.set()

    def run(self) -> None:
        """The loop, until `stop`."""
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._stop.is_set():
                return
            self._once()

    def _once(self) -> None:
        try:
            new, waiting = configuration.merge_reloadable(self._config, self._read())
            other = self._other_client(new)
        except VkTeamsError as error:
            log.error("the configuration stays as it was: %s", error)
            return
        self._config = new
        self._take(new, other)
        log.info("configuration read again%s", f"; these wait for a restart: {', '.join(waiting)}" if waiting else "")

    def _other_client(self, new: Config) -> BotClient | None:
        """A client for a changed token or changed time limits, once it has shown to be the same bot's."""
        old, api, known = self._config.api, new.api, self._bot_id()
        same = (api.token, api.connect_timeout, api.read_margin) == (old.token, old.connect_timeout, old.read_margin)
        if same or new.daemon.role == "embed":
            return None
        other = make_client(new)
        bot = other.self_get()
        if known is not None and bot.user_id != known:
            raise VkTeamsError(f"the new token belongs to bot {bot.user_id}, not to {known}")
        return other
