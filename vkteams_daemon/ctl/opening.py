"""Opens the archive's database for one command."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vkteams_daemon.config import Config

if TYPE_CHECKING:
    from vkteams_daemon.store.database import Database


@contextlib.contextmanager
def opened(config: Config, *, migrate: bool = False) -> Iterator[Database]:
    """The database of this configuration, closed afterwards; with `migrate` its schema is brought up to date first."""
    from vkteams_daemon.store.database import Database

    database = Database(config, application="vkteamsctl")
    try:
        database.open(migrate=migrate)
        yield database
    finally:
        database.close()
