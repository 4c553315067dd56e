"""What vkteamsd would refuse at its start, asked beforehand of the very code that refuses it there.

Nothing is made, started or asked over the network: whether the API takes the token, and the database the user, shows
only when the daemon starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from vkteams_daemon.config import Config


def as_daemon(path: str | None, instance: str, flags: Mapping[str, Any]) -> Config:
    """The configuration as a daemon that starts in this directory reads it.

    Raises:
        ConfigError, PermissionRefused: as daemon.settings.Settings.read.
    """
    from vkteams_daemon.daemon.process.settings import Settings

    return Settings(path, instance, flags).read()


def checks(config: Config, *, foreground: bool, token: bool = True) -> Iterator[Callable[[], object]]:
    """What vkteamsd looks at, in its order; each raises the error with which vkteamsd would end.

    Args:
        config: with absolute paths.
        foreground: whether it is to stay in the foreground.
        token: False where the token may come later, as from systemd's credentials.
    """
    from vkteams_daemon.daemon import main as vkteamsd
    from vkteams_daemon.daemon.process import privileges
    from vkteams_daemon.daemon.reload import make_client
    from vkteams_daemon.store.database import Database

    if not token and not config.api.token:
        config = msgspec.structs.replace(config, api=msgspec.structs.replace(config.api, token="later"))
    yield lambda: vkteamsd.check_start(config, foreground)
    yield lambda: privileges.choose_user(config)
    if config.daemon.role != "embed":
        yield lambda: make_client(config).close()
    if config.storage.save:
        yield lambda: Database(config).conninfo
