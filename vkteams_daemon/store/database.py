"""Connections to PostgreSQL: the pool, the connections that are owned by one thread, and the schema's migrations.

This is the only room that opens connections and the one that turns the driver's errors into ours.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import re
import time
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import conninfo, errors
from psycopg_pool import ConnectionPool, PoolTimeout

from vkteams_daemon.config import Config
from vkteams_daemon.errors import CannotWrite, ConfigError, DatabaseUnavailable, SchemaError, StoreError, VkTeamsError

Connection = psycopg.Connection[tuple[Any, ...]]

# A connection that crosses a network must notice within seconds that the other side is gone (libpq, tcp(7)).
_KEEPALIVE = {
    "keepalives": "1", "keepalives_idle": "5", "keepalives_interval": "2", "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}  # fmt: skip
# The server has ended a session that kept it waiting: in a transaction, with one that took too long, or idle.
_ENDED = ("25P03", "25P04", "57P05")
_MIGRATION_LOCK = "hashtextextended('vkteams migration ' || current_schema(), 0)"


class Database:
    """The archive's database: the one that the configuration names, or the bundled one.

    Args:
        config: `[database]` says where it is and how large the pool may grow.
        url: used instead of the configuration's URL.
        application: what the server lists the connections as.

    Attributes:
        making: the bundled database is being made, which happens once and takes its time.
    """

    def __init__(self, config: Config, *, url: str | None = None, application: str = "vkteams") -> None:
        self._config = config
        self._url = url or config.database.url
        self._application = application
        self.making = False
        self._embedded: Any = None
        self._pool: ConnectionPool[Connection] | None = None

    def open(self, *, migrate: bool = True, timeout: float | None = None) -> None:
        """Find the server (starting the bundled one), bring the schema up to date and open the pool.

        Raises:
            DatabaseUnavailable: no connection; try again later.
            SchemaError, ConfigError, CannotWrite: what will not mend itself.
        """
        if not self._url:
            # Its wheel is an extra: whoever has a server of their own need not have it.
            from vkteams_daemon.store.embedded import Embedded

            config = self._config
            embedded = Embedded(config.state_dir, config.runtime_dir, config.daemon.user)
            self.making = not embedded.made
            try:
                self._url = embedded.acquire() if timeout is None else embedded.acquire(timeout=timeout)
            finally:
                self.making = False
            self._embedded = embedded
        with self.connect() as connection:
            if migrate:
                bring_up_to_date(connection)
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
        if self._embedded is not None:
            self._embedded.release()
            self._embedded, self._url = None, self._config.database.url

    def __enter__(self) -> Database:
        self.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def conninfo(self) -> str:
        """The connection string, time limits and name included. It holds the password: not for printing."""
        return parameters(self._url, self._config.database.connect_timeout, self._application)

    @property
    def pool(self) -> ConnectionPool[Connection]:
        """The pool, once `open` has returned."""
        if self._pool is None:
            raise DatabaseUnavailable("the database is not open")
        return self._pool

    @contextlib.contextmanager
    def connection(self) -> Iterator[Connection]:
        """A pooled autocommit connection; the driver's errors come out as ours."""
        with translated(), self.pool.connection() as connection:
            yield connection

    def connect(self) -> Connection:
        """A connection of the caller's own, in autocommit mode."""
        with translated():
            return psycopg.connect(self._reachable(), autocommit=True)

    def _reachable(self) -> str:
        """The connection string, the bundled server started again where it has died since."""
        if self._embedded is not None:
            try:
                self._url = self._embedded.acquire()
            except VkTeamsError as error:
                raise psycopg.OperationalError(str(error)) from error  # what the pool's own threads understand
        return self.conninfo


def parameters(url: str, connect_timeout: int, application: str) -> str:
    """The URL or conninfo with our time limits, where it does not set its own; ConfigError where it cannot be read."""
    # The driver would take another encoding from PGCLIENTENCODING, and not every text fits into that.
    defaults = {
        "connect_timeout": str(connect_timeout), "application_name": application, "client_encoding": "UTF8",
        **_KEEPALIVE,
    }  # fmt: skip
    try:
        given = conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # The driver's message repeats the URL, and with it the password.
        raise ConfigError("database.url: it is neither a postgresql:// URL nor a conninfo string") from None
    return conninfo.make_conninfo("", **{**defaults, **{k: str(v) for k, v in given.items() if v is not None}})


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turns the driver's errors into StoreErrors, in one sentence and without passwords."""
    try:
        yield
    except (psycopg.Error, PoolTimeout) as error:
        failure = as_store_error(error)
    else:
        return
    raise failure


def as_store_error(error: BaseException) -> StoreError | ConfigError:
    """The StoreError that says the same as this error of the driver."""
    state = getattr(error, "sqlstate", None) or ""
    text = first_line(error)
    if isinstance(error, errors.InvalidAuthorizationSpecification | errors.InvalidPassword | errors.InvalidCatalogName):
        return ConfigError(f"the database refuses the connection: {text}", hint="Check database.url.")
    if state in ("53100", "53400", "25006", "58030"):
        return CannotWrite(f"the database cannot write: {text}", hint="Free disk space, or find the writable server.")
    if state == "42501":
        return SchemaError(f"the database role lacks a right: {text}", hint="docs/schema.md lists the rights it needs.")
    if state.startswith("42"):
        return SchemaError(f"the schema does not fit this version: {text}", hint="Run `vkteamsctl database migrate`.")
    if not state and "password authentication failed" in text:
        return ConfigError(f"the database refuses the connection: {text}", hint="Check database.url.")
    if not state and re.search(r"invalid .*value|definition of service .* not found", text):
        return ConfigError(f"database.url: {text.removeprefix('connection is bad: ')}")
    if not state and re.search(r'(database|role) ".*" does not exist', text):
        return ConfigError(f"the database refuses the connection: {text}", hint="Check database.url.")
    if state.startswith("40"):
        return StoreError(f"the database asks to try again: {text}")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | PoolTimeout) or state in _ENDED:
        return DatabaseUnavailable(f"the database cannot be reached: {text}")
    return StoreError(f"the database refuses the statement: {text}")


def first_line(error: BaseException) -> str:
    """The first line of the server's or the driver's message; messages of the driver hold no password."""
    diagnostic = getattr(error, "diag", None)
    text = (diagnostic.message_primary if diagnostic else None) or str(error)
    lines = [line.strip() for line in text.removeprefix("connection failed: ").splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def migrations() -> dict[int, str]:
    """The numbered migrations as {version: SQL}."""
    folder = importlib.resources.files("vkteams_daemon.store") / "migrations"
    found = {}
    for file in folder.iterdir():
        match = re.fullmatch(r"(\d{3})_\w+\.sql", file.name)
        if match:
            found[int(match[1])] = file.read_text(encoding="utf-8")
    return dict(sorted(found.items()))


def schema_version(connection: Connection) -> int:
    """The version of the schema that the connection sees; 0 where there is none."""
    # In the schema that is written to: further down the search_path another program may have such a table.
    present = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = current_schema() AND tablename = 'schema_version')"
    ).fetchone()
    if not present or not present[0]:
        return 0
    row = connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchone()
    return int(row[0]) if row else 0


def check_version(connection: Connection) -> None:
    """Raises SchemaError unless the schema is the one this program was written for."""
    with translated():
        found, known = schema_version(connection), max(migrations())
    if found > known:
        raise SchemaError(
            f"the schema is version {found}, newer than this program's {known}", hint="Upgrade vkteams-daemon."
        )
    if not found:
        raise SchemaError(
            "the database holds no archive yet", hint="Start vkteamsd, or run `vkteamsctl database init`."
        )
    if found < known:
        raise SchemaError(
            f"the schema is version {found}, this program needs {known}", hint="Run `vkteamsctl database migrate`."
        )


def bring_up_to_date(connection: Connection, *, patience: float = 60.0) -> list[int]:
    """Apply the missing migrations, each in a transaction of its own; whoever comes first does, the others wait.

    Returns:
        The versions that this call applied.
    """
    applied = []
    with translated():
        if schema_version(connection) == max(migrations()):
            return []
        _check_fit(connection)
        _lock(connection, patience)
        try:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS schema_version"
                " (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
            )
            version = schema_version(connection)
            for number, script in migrations().items():
                if number <= version:
                    continue
                with connection.transaction():
                    connection.execute(script.encode())
                    connection.execute("INSERT INTO schema_version (version) VALUES (%s)", (number,))
                applied.append(number)
        finally:
            if not connection.closed and connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
                connection.execute(f"SELECT pg_advisory_unlock({_MIGRATION_LOCK})".encode())
    check_version(connection)
    return applied


def _lock(connection: Connection, patience: float) -> None:
    deadline = time.monotonic() + patience
    while True:
        row = connection.execute(f"SELECT pg_try_advisory_lock({_MIGRATION_LOCK})".encode()).fetchone()
        if row and row[0]:
            return
        if time.monotonic() > deadline:
            raise DatabaseUnavailable(f"another process has been migrating the schema for {patience:g} s")
        time.sleep(0.1)


def _check_fit(connection: Connection) -> None:
    row = connection.execute(
        "SELECT current_setting('server_version_num')::int, current_setting('server_encoding'), current_schema(),"
        " ARRAY(SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema()),"
        " (SELECT extversion FROM pg_extension WHERE extname = 'vector'),"
        " (SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'),"
        " to_regtype('halfvec') IS NOT NULL,"
        " EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector')"
    ).fetchone()
    assert row is not None
    version, encoding, schema, tables, installed, place, usable, available = row
    if version < 140000:
        raise SchemaError(f"PostgreSQL {version // 10000} is too old: 14 or newer is needed")
    if encoding != "UTF8":
        raise SchemaError(f"the database's encoding is {encoding}, not UTF8", hint="Create it with ENCODING 'UTF8'.")
    if schema is None:
        raise SchemaError("no schema of the search_path exists", hint="Create one, or set the role's search_path.")
    if "events" in tables and "schema_version" not in tables:
        raise SchemaError(f"schema {schema} has a table `events` that is not ours", hint="Use a schema of its own.")
    if not installed and not available:
        raise SchemaError("the server has no pgvector", hint="Install pgvector for this PostgreSQL.")
    if installed and not usable:
        raise SchemaError(
            f"pgvector {installed} in schema {place} cannot be used: it is older than 0.7, or not in the search_path",
            hint=f"Upgrade it, or add {place} to the role's search_path.",
        )


def migrate(url: str) -> list[int]:
    """Bring the database at this URL up to date; returns the versions applied."""
    with translated(), psycopg.connect(parameters(url, 5, "vkteams"), autocommit=True) as connection:
        return bring_up_to_date(connection)
