"""The archive's database: its connection pool, its own connections, and the bundled server where it has no other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool

from vkteams_daemon.config import Config
from vkteams_daemon.errors import DatabaseUnavailable, VkTeamsError
from vkteams_daemon.store.connections import Connection, build_conninfo, translate_errors
from vkteams_daemon.store.schema import apply_migrations, check_version


class Database:
    """The archive's database: the one that the configuration names, or the bundled one.

    Args:
        config: `[database]` says where it is and how large the pool may grow.
        url: used instead of the configuration's URL.
        application: what the server lists the connections as.

    Attributes:
        initialising: the bundled database is being made, which happens once and takes its time.
    """

    def __init__(self, config: Config, *, url: str | None = None, application: str = "vkteams") -> None:
        self._config = config
        self._url = url or config.database.url
        self._application = application
        self.initialising = False
        self._bundled_server: Any = None
        self._pool: ConnectionPool[Connection] | None = None

    def open(self, *, migrate: bool = True) -> None:
        """Find the server (starting the bundled one), bring the schema up to date and open the pool.

        Raises:
            DatabaseUnavailable: no connection; try again later.
            SchemaError, ConfigError, CannotWrite: what will not mend itself.
        """
        if not self._url:
            # Its wheel is an extra: whoever has a server of their own need not have it.
            from vkteams_daemon.store.bundled.server import BundledServer

            config = self._config
            bundled_server = BundledServer(config.state_dir, config.runtime_dir, config.daemon.user)
            self.initialising = not bundled_server.exists
            try:
                self._url = bundled_server.acquire()
            finally:
                self.initialising = False
            self._bundled_server = bundled_server
        with self.connect() as connection:
            if migrate:
                apply_migrations(connection)
            else:
                check_version(connection)
        if self._pool is None:
            self._pool = ConnectionPool(
                self._reachable,
                kwargs={"autocommit": True},
                min_size=0,
                max_size=self._config.database.pool_size,
                max_idle=60,
                timeout=self._config.database.connect_timeout + 5,
                reconnect_timeout=5,
                name=self._application,
                open=True,
            )

    def close(self) -> None:
        """Close the pool, and let go of the bundled server; the last to let go stops it."""
        if self._pool is not None:
            self._pool.close(timeout=2)
            self._pool = None
        if self._bundled_server is not None:
            self._bundled_server.release()
            self._bundled_server, self._url = None, self._config.database.url

    def __enter__(self) -> Database:
        self.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def conninfo(self) -> str:
        """The connection string, time limits and name included. It holds the password: not for printing."""
        return build_conninfo(self._url, self._config.database.connect_timeout, self._application)

    @property
    def pool(self) -> ConnectionPool[Connection]:
        """The pool, once `open` has returned."""
        if self._pool is None:
            raise DatabaseUnavailable("the database is not open")
        return self._pool

    @contextlib.contextmanager
    def connection(self) -> Iterator[Connection]:
        """A pooled autocommit connection; the driver's errors come out as ours."""
        with translate_errors(), self.pool.connection() as connection:
            yield connection

    def connect(self) -> Connection:
        """A connection of the caller's own, in autocommit mode."""
        with translate_errors():
            return psycopg.connect(self._reachable(), autocommit=True)

    def _reachable(self) -> str:
        """The connection string, the bundled server started again where it has died since."""
        if self._bundled_server is not None:
            try:
                self._url = self._bundled_server.acquire()
            except VkTeamsError as error:
                raise psycopg.OperationalError(str(error)) from error  # what the pool's own threads understand
        return self.conninfo
