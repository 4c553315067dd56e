"""Opens the archive's database for one command, and closes it afterwards.

The imports stand inside: a command that needs no database does not wait for the driver.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

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


def refuse_reader(config: Config) -> None:
    """Refuse a configuration of people who search, for a command that needs the daemon's.

    Raises:
        ConfigError: it is one.
    """
    if config.only_reads:
        which = "database.read_url" if config.database.read_url else config.source
        raise ConfigError(
            f"this configuration only reads ({which}), and the command needs the daemon's",
            hint="Run it as root or as the daemon's user, with the daemon's configuration.",
        )


@contextlib.contextmanager
def open_database(
    config: Config, *, reads: bool = False, migrate: bool = False, beside: bool = False, distribute: bool = False
) -> Iterator[Database]:
    """The database, for a `with` block.

    Args:
        config: checked.
        reads: whether the command only reads. People who search may run it then.
        migrate: bring the schema up to date first, see `Database.open`.
        beside: see `Database.open`.
        distribute: see `Database.open`.

    Raises:
        ConfigError: the command writes, and the configuration only reads.
    """
    from vkteams_daemon.store.database import Database

    if not reads:
        refuse_reader(config)
    elif config.only_reads:
        reading = msgspec.structs.replace(config.database, url=config.database.read_url)
        config = msgspec.structs.replace(config, database=reading)
    database = Database(config, application="vkteamsctl")
    try:
        database.open(migrate=migrate, beside=beside, distribute=distribute)
        yield database
    finally:
        database.close()


@contextlib.contextmanager
def open_connection(
    config: Config, *, reads: bool = False, migrate: bool = False, beside: bool = False, maintenance: bool = False
) -> Iterator[Connection]:
    """One connection to the database in autocommit mode, for a `with` block; the driver's errors are StoreErrors.

    Args:
        config: checked.
        reads: as in `open_database`.
        migrate: bring the schema up to date first, and distribute an archive that is to be distributed.
        beside: whether that may make an archive beside one that this role has in another schema.
        maintenance: whether the connection is for vacuum and index builds, which must have no time limits.
    """
    from vkteams_daemon.store import connection_profiles
    from vkteams_daemon.store.connections import translate_errors

    profile = connection_profiles.MAINTENANCE if maintenance else connection_profiles.WORKER
    with (
        open_database(config, reads=reads, migrate=migrate, beside=beside, distribute=migrate) as database,
        translate_errors(),
        database.connect(profile) as connection,
    ):
        yield connection
