"""The archive's database: the connection pool, single connections, and the bundled server if no URL is configured."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import psycopg

from vkteams_daemon.config import Config
from vkteams_daemon.errors import ConfigError, DatabaseUnavailable, StoreError, VkTeamsError
from vkteams_daemon.store import connections, database_url, distribution, server_check
from vkteams_daemon.store.blockers import LockWatch
from vkteams_daemon.store.connection_profiles import MAINTENANCE, WORKER, Profile
from vkteams_daemon.store.connections import Connection, Pool, build_conninfo, translate_errors
from vkteams_daemon.store.schema import apply_migrations, check_version
from vkteams_daemon.system.user import daemon_user


class Database:
    """The archive's database: the one that the configuration names, or the bundled one.

    Args:
        config: `[database]` holds the URL and the size of the pool.
        url: replaces the URL of the configuration.
        application: the application_name of the connections.
        profile: of the pooled connections.
        any_layout: whether it may be distributed or not, whatever the configuration says.

    Attributes:
        owner: whom the server is to see where root asks; None is the user of this process.
        initialising: whether `open` is creating the bundled database now. That happens once and takes several seconds.
    """

    def __init__(
        self,
        config: Config,
        *,
        url: str | None = None,
        application: str = "vkteams",
        profile: Profile = WORKER,
        any_layout: bool = False,
    ) -> None:
        self._config = config
        self._layout = None if any_layout else config.database.distributed
        self._profile = profile
        self._url = url or config.database.url
        # Root asks a server of the administrator's as the daemon does; the bundled one knows root.
        self.owner = daemon_user(config.daemon.user) if self._url else None
        self._application = application
        self.initialising = False
        self._bundled_server: Any = None
        self._pool: Pool | None = None
        self._closed = False
        # The watch uses a conninfo that is known to work. It must never wait for the bundled server to start.
        self._locks = LockWatch(
            lambda: connections.connect(self.conninfo, MAINTENANCE.apply, self.owner), patience=config.database.patience
        )

    @property
    def patience(self) -> float:
        """Seconds after which a silent holder of a lock is ended."""
        return self._config.database.patience

    @property
    def blocked_by(self) -> str:
        """The sessions that block this process for long and are not ours to end; "" if there are none."""
        return self._locks.foreign

    def open(self, *, migrate: bool = True, beside: bool = False, distribute: bool = False) -> None:
        """Start the bundled server if it is used, check or migrate the schema, and open the pool.

        Args:
            migrate: apply missing migrations. If False, an old schema raises SchemaError.
            beside: whether a new archive may stand beside one that this role has in another schema.
            distribute: whether an archive on one server is distributed now if `[database] distributed` is set.

        Raises:
            DatabaseUnavailable: no connection; try again later.
            SchemaError, ConfigError, CannotWrite: an administrator must act; trying again does not help.
        """
        self._closed = False
        if not self._url:
            # Its wheel is an optional extra, so it may be missing where another server is used.
            from vkteams_daemon.store.bundled.server import BundledServer

            config = self._config
            bundled_server = BundledServer(
                config.state_dir, config.runtime_dir, config.daemon.user, patience=config.database.patience
            )
            self.initialising = not bundled_server.exists
            try:
                self._url = bundled_server.acquire()
            finally:
                self.initialising = False
            self._bundled_server = bundled_server
        self._locks.start()
        with self._environment_blamed(), self._connect(MAINTENANCE) as connection:
            with translate_errors():
                if self._bundled_server is None:
                    server_check.check_session(connection, lambda: self._connect(WORKER))
                if migrate:
                    server_check.check_writable(connection)
            if migrate:
                distributed = self._config.database.distributed
                apply_migrations(
                    connection, beside=beside, distributed=distributed, move=distribute, patience=self.patience
                )
            else:
                check_version(connection)
                if self._layout is not None:
                    with translate_errors():
                        distribution.check(connection, self._layout)
        if self._pool is None:
            self._pool = connections.make_pool(
                self._current_conninfo,
                functools.partial(self._prepare, self._profile),
                size=self._config.database.pool_size,
                timeout=self._config.database.connect_timeout + 5,
                name=self._application,
                owner=self.owner,
            )

    def close(self) -> None:
        """Close the pool and release the bundled server. The last process that releases it stops it.

        Until `open` is called again, every attempt to connect raises DatabaseUnavailable.
        """
        self._closed = True
        if self._pool is not None:
            self._pool.close(timeout=2)
            self._pool = None
        self._locks.stop()
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
        """The connection string with time limits and application name. It holds the password: do not print it.

        Raises:
            ConfigError: libpq does not understand the URL.
            DatabaseUnavailable: the database is closed. libpq would take another one for an empty URL.
        """
        if self._closed or not self._url:
            raise DatabaseUnavailable("the database is not open")
        return build_conninfo(self._url, self._config.database.connect_timeout, self._application, self.owner)

    @property
    def pool(self) -> Pool:
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
        with self._environment_blamed():
            return self._connect(profile)

    def _connect(self, profile: Profile | None) -> Connection:
        with translate_errors():
            return connections.connect(self._current_conninfo(), functools.partial(self._prepare, profile), self.owner)

    @contextlib.contextmanager
    def _environment_blamed(self) -> Iterator[None]:
        """Name the variables of libpq that are set, if the block fails: the administrator may not know of them."""
        try:
            yield
        except (StoreError, ConfigError) as error:
            try:
                options = database_url.parse(self.conninfo)
            except VkTeamsError:
                raise error from None  # nothing was asked: the URL is wrong, or the database is closed
            names = database_url.blamed_variables(options, str(error))
            if not names:
                raise
            verb = "is" if len(names) == 1 else "are"
            raise type(error)(f"{error} ({', '.join(names)} {verb} set in the environment)", hint=error.hint) from None

    def _prepare(self, profile: Profile | None, connection: Connection) -> None:
        self._locks.add(connection)
        if profile:
            profile.apply(connection)

    def _current_conninfo(self) -> str:
        """The connection string. If the bundled server has died, it is started again first."""
        try:
            if self._bundled_server is not None:
                self._url = self._bundled_server.acquire()
            return self.conninfo
        except ConfigError:
            raise
        except VkTeamsError as error:
            # The pool's threads expect an error of the driver.
            raise psycopg.OperationalError(str(error)) from error
