"""The checks of vkteamsd's start, run beforehand by the same code.

They create and start nothing, and use no network. Whether the API accepts the token, and the database the user, is
known only when the daemon starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from vkteams_daemon.config import Config


def read_as_daemon(path: str | None, instance: str, flags: Mapping[str, Any]) -> Config:
    """The configuration as a daemon reads it that starts in this directory.

    Raises:
        ConfigError, PermissionRefused: see `Settings.read` in daemon/process/settings.py.
    """
    from vkteams_daemon.daemon.process.settings import Settings

    return Settings(path, instance, flags).read()


def checks(config: Config, *, foreground: bool, token: bool = True) -> Iterator[Callable[[], object]]:
    """The checks in the order of vkteamsd; each raises the error with which vkteamsd would end.

    Args:
        config: with absolute paths.
        foreground: whether vkteamsd would stay in the foreground.
        token: False if the token may come later, for example from systemd's credentials.
    """
    from vkteams_daemon.botapi.client import make_client
    from vkteams_daemon.daemon import main as vkteamsd
    from vkteams_daemon.daemon.process import privileges
    from vkteams_daemon.store.database import Database

    if not token and not config.api.token:
        config = msgspec.structs.replace(config, api=msgspec.structs.replace(config.api, token="later"))
    yield lambda: vkteamsd.check_start(config, foreground)
    yield lambda: privileges.choose_user(config)
    if config.daemon.role != "embed":
        yield lambda: make_client(config).close()
    if config.storage.save and config.database.url:
        yield lambda: Database(config).conninfo
