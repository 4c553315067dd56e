"""The checks of vkteamsd's start, run beforehand by the same code.

They create and start nothing, and use no network. Whether the API accepts the token, and the database the user, only
`try_live` asks: before a restart, which would end a healthy daemon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from vkteams_daemon.config import Config
from vkteams_daemon.errors import ApiError, CertificateRefused, DatabaseUnavailable, Unauthorised

if TYPE_CHECKING:
    from vkteams_daemon.daemon.status import Status

_API_TIMEOUT = 5.0  # seconds for the answer of the Bot API


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        run: raises the error with which vkteamsd would end.
        of_rights: whether the outcome depends on the user who starts vkteamsd.
    """

    run: Callable[[], object]
    of_rights: bool = False


def read_as_daemon(path: str | None, instance: str, flags: Mapping[str, Any]) -> Config:
    """The configuration as a daemon reads it that starts in this directory.

    Raises:
        ConfigError, PermissionRefused: see `Settings.read` in daemon/process/settings.py.
    """
    from vkteams_daemon.daemon.process.settings import Settings

    return Settings(path, instance, flags).read()


def checks(config: Config, *, foreground: bool, log: bool, token: bool = True) -> Iterator[Check]:
    """The checks in the order of vkteamsd.

    Args:
        config: with absolute paths.
        foreground: whether vkteamsd would stay in the foreground.
        log: whether it would write a log file.
        token: False if the token may come later, for example from systemd's credentials.
    """
    from vkteams_daemon.botapi.client import make_client
    from vkteams_daemon.daemon import main as vkteamsd
    from vkteams_daemon.daemon.process import privileges
    from vkteams_daemon.store import database_url
    from vkteams_daemon.store.bundled.server import BundledServer
    from vkteams_daemon.store.database import Database

    if not token and not config.api.token:
        config = msgspec.structs.replace(config, api=msgspec.structs.replace(config.api, token="later"))
    yield Check(lambda: vkteamsd.check_start(config, foreground))
    yield Check(lambda: privileges.choose_user(config), of_rights=True)
    yield Check(lambda: privileges.check_places(config, log=log))
    yield Check(lambda: privileges.check_rights(config, privileges.choose_user(config), log=log), of_rights=True)
    if config.daemon.role != "embed":
        yield Check(lambda: make_client(config).close())
    if config.storage.save and config.database.url:
        yield Check(lambda: database_url.check_values(database_url.parse(Database(config).conninfo)))
    elif config.storage.save:
        server = BundledServer(config.state_dir, config.runtime_dir, config.daemon.user)
        yield Check(server.check_owner, of_rights=True)
    if config.database.read_url:
        yield Check(lambda: database_url.check(config.database.read_url, "database.read_url"))


def try_live(config: Config, running: Status) -> None:
    """Try what a new process would need of the network: certificate and token of the API, and the database of a URL.

    A refusal would come at the start as well. A part that does not answer is no reason against a restart, unless it
    answers the running daemon.

    Args:
        config: that the new process would have.
        running: the status of the daemon that runs.

    Raises:
        VkTeamsError: the new process would not work as well as the running one.
    """
    from vkteams_daemon.botapi.client import make_client
    from vkteams_daemon.store.database import Database

    if config.daemon.role != "embed":
        client = make_client(config, limit=_API_TIMEOUT)
        try:
            client.self_get()
        except (Unauthorised, CertificateRefused):
            raise
        except ApiError:
            if running.api.state not in ("backoff", "unauthorized"):  # none yet: its first poll is held
                raise
        finally:
            client.close()
    if config.storage.save and config.database.url:
        try:
            Database(config, application="vkteamsctl").connect().close()
        except DatabaseUnavailable:
            if running.database.state != "down":
                raise
