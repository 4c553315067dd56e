"""Opens the archive's database for one command, and closes it afterwards.

The imports stand inside: a command that needs no database does not wait for the driver.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vkteams_daemon.config import Config
from vkteams_daemon.errors import ConfigError

if TYPE_CHECKING:
    from vkteams_daemon.search.archive import Archive
    from vkteams_daemon.store.connections import Connection
    from vkteams_daemon.store.database import Database


def open_archive(config: Config) -> Archive:
    """The archive for questions, for a `with` block."""
    from vkteams_daemon.search.archive import Archive

    return Archive(config)


@contextlib.contextmanager
def open_database(
    config: Config, *, migrate: bool = False, beside: bool = False, distribute: bool = False
) -> Iterator[Database]:
    """The database, for a `with` block; `migrate`, `beside` and `distribute` as in `Database.open`."""
    from vkteams_daemon.store.database import Database

    if config.database.read_url and not config.database.url:
        raise ConfigError(
            "this configuration only reads (database.read_url), and the command needs the daemon's",
            hint="Run it as root or as the daemon's user, with the daemon's configuration.",
        )
    database = Database(config, application="vkteamsctl")
    try:
        database.open(migrate=migrate, beside=beside, distribute=distribute)
        yield database
    finally:
        database.close()


@contextlib.contextmanager
def open_connection(
    config: Config, *, migrate: bool = False, beside: bool = False, maintenance: bool = False
) -> Iterator[Connection]:
    """One connection to the database in autocommit mode, for a `with` block; the driver's errors are StoreErrors.

    Args:
        config: checked.
        migrate: bring the schema up to date first, and distribute an archive that is to be distributed.
        beside: whether that may make an archive beside one that this role has in another schema.
        maintenance: whether the connection is for vacuum and index builds, which must have no time limits.
    """
    from vkteams_daemon.store import connection_profiles
    from vkteams_daemon.store.connections import translate_errors

    profile = connection_profiles.MAINTENANCE if maintenance else connection_profiles.WORKER
    with (
        open_database(config, migrate=migrate, beside=beside, distribute=migrate) as database,
        translate_errors(),
        database.connect(profile) as connection,
    ):
        yield connection
