"""The archive's database: the connection pool, single connections, and the bundled server if no URL is configured."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool

from vkteams_daemon.config import Config
from vkteams_daemon.errors import DatabaseUnavailable, VkTeamsError
from vkteams_daemon.store.connections import Connection, build_conninfo, translate_errors
from vkteams_daemon.store.profiles import MAINTENANCE, WORKER, Profile
from vkteams_daemon.store.schema import apply_migrations, check_version


class Database:
    """The archive's database: the one that the configuration names, or the bundled one.

    Args:
        config: `[database]` holds the URL and the size of the pool.
        url: replaces the URL of the configuration.
        application: the application_name of the connections.
        profile: of the pooled connections.

    Attributes:
        initialising: whether `open` is creating the bundled database now. That happens once and takes several seconds.
    """

    def __init__(
        self, config: Config, *, url: str | None = None, application: str = "vkteams", profile: Profile = WORKER
    ) -> None:
        self._config = config
        self._profile = profile
        self._url = url or config.database.url
        self._application = application
        self.initialising = False
        self._bundled_server: Any = None
        self._pool: ConnectionPool[Connection] | None = None

    def open(self, *, migrate: bool = True) -> None:
        """Start the bundled server if it is used, check or migrate the schema, and open the pool.

        Args:
            migrate: apply missing migrations. If False, an old schema raises SchemaError.

        Raises:
            DatabaseUnavailable: no connection; try again later.
            SchemaError, ConfigError, CannotWrite: an administrator must act; trying again does not help.
        """
        if not self._url:
            # Its wheel is an optional extra, so it may be missing where another server is used.
            from vkteams_daemon.store.bundled.server import BundledServer

            config = self._config
            bundled_server = BundledServer(config.state_dir, config.runtime_dir, config.daemon.user)
            self.initialising = not bundled_server.exists
            try:
                self._url = bundled_server.acquire()
            finally:
                self.initialising = False
            self._bundled_server = bundled_server
        with self.connect(MAINTENANCE) as connection:
            if migrate:
                apply_migrations(connection)
            else:
                check_version(connection)
        if self._pool is None:
            self._pool = ConnectionPool(
                self._current_conninfo,
                kwargs={"autocommit": True},
                configure=self._profile.apply,
                min_size=0,
                max_size=self._config.database.pool_size,
                max_idle=60,
                timeout=self._config.database.connect_timeout + 5,
                reconnect_timeout=5,
                name=self._application,
                open=True,
            )

    def close(self) -> None:
        """Close the pool and release the bundled server. The last process that releases it stops it."""
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
        """The connection string with time limits and application name. It holds the password: do not print it."""
        return build_conninfo(self._url, self._config.database.connect_timeout, self._application)

    @property
    def pool(self) -> ConnectionPool[Connection]:
        """The pool. It exists after `open`.

        Raises:
            DatabaseUnavailable: the database is not open.
        """
        if self._pool is None:
            raise DatabaseUnavailable("the database is not open")
        return self._pool

    @contextlib.contextmanager
    def connection(self) -> Iterator[Connection]:
        """A pooled connection in autocommit mode. Errors of the driver are raised as StoreErrors."""
        with translate_errors(), self.pool.connection() as connection:
            yield connection

    def connect(self, profile: Profile | None = WORKER) -> Connection:
        """Open a connection outside the pool, in autocommit mode. The caller closes it.

        Args:
            profile: what the session needs; None if the caller applies it.
        """
        with translate_errors():
            connection = psycopg.connect(self._current_conninfo(), autocommit=True)
            try:
                if profile:
                    profile.apply(connection)
            except BaseException:
                connection.close()
                raise
            return connection

    def _current_conninfo(self) -> str:
        """The connection string. If the bundled server has died, it is started again first."""
        if self._bundled_server is not None:
            try:
                self._url = self._bundled_server.acquire()
            except VkTeamsError as error:
                # The pool's threads expect an error of the driver.
                raise psycopg.OperationalError(str(error)) from error
        return self.conninfo
