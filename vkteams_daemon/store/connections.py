"""Opens every connection to PostgreSQL, and translates the driver's errors into ours."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
from psycopg import conninfo
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg_pool import ConnectionPool, PoolTimeout

from vkteams_daemon.errors import CannotWrite, ConfigError, DatabaseUnavailable, SchemaError, StoreError
from vkteams_daemon.store import connection_refusal, database_url
from vkteams_daemon.system.user import Owner

Connection = psycopg.Connection[tuple[Any, ...]]
Pool = ConnectionPool[Connection]


class SearchVector(bytes):
    """A tsvector in PostgreSQL's binary form."""


class _SearchVectorDumper(Dumper):
    oid = 3614  # tsvector
    format = Format.BINARY

    def dump(self, obj: bytes) -> bytes:
        return obj


psycopg.adapters.register_dumper(SearchVector, _SearchVectorDumper)

# The client must notice within seconds that the other end of a network connection is gone (libpq, tcp(7)).
_KEEPALIVE = {
    "keepalives": "1", "keepalives_idle": "5", "keepalives_interval": "2", "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}  # fmt: skip
# The server's timeouts end a session: idle in a transaction, in a transaction for too long, or idle.
_SESSION_ENDED = ("25P03", "25P04", "57P05")
_REFUSED = ("28000", "28P01", "3D000")  # no such role, right or password; no such database
_CANNOT_WRITE = {
    "53100": "Free disk space on the database's server.",
    "53400": "Look into the server's log: one of its limits is reached, such as temp_file_limit.",
    "58030": "Look at the disk of the database's server, and into its log.",
    "25006": "Run this as root or as the daemon's user, who may write; if the server is a standby, name the"
    " writable one in database.url.",
}


def build_conninfo(url: str, connect_timeout: int, application: str, owner: Owner | None = None) -> str:
    """The conninfo string for this URL or conninfo string. Our time limits are added where it sets none.

    An application_name of the URL is put behind ours. If root connects as another user, libpq takes the files of that
    user's home.

    Raises:
        ConfigError: libpq does not understand it.
    """
    # Without client_encoding the driver would use PGCLIENTENCODING, and that encoding may not hold every text.
    defaults = {
        "connect_timeout": str(connect_timeout), "application_name": application, "client_encoding": "UTF8",
        **_KEEPALIVE,
    }  # fmt: skip
    options = database_url.parse(url)
    if owner is not None:
        defaults |= database_url.home_files(owner.home)
    if name := options.get("application_name"):
        # Other processes know our sessions by the beginning of the name, see `blockers`.
        options["application_name"] = f"{application} {name}"
    return conninfo.make_conninfo("", **{**defaults, **options})


def connect(conninfo: str, prepare: Callable[[Connection], None] | None, owner: Owner | None = None) -> Connection:
    """Open a connection in autocommit mode.

    Args:
        conninfo: from `build_conninfo`.
        prepare: sets the session up, see `connection_profiles`; None if the caller does.
        owner: whom the server is to see; None is the user of this process.
    """
    with owner.connecting() if owner else contextlib.nullcontext():
        try:
            connection = psycopg.connect(conninfo, autocommit=True)
        except psycopg.OperationalError as error:
            error.sqlstate = error.sqlstate or connection_refusal.sqlstate(conninfo, str(error))
            raise
    try:
        if prepare:
            prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def make_pool(
    conninfo: Callable[[], str],
    prepare: Callable[[Connection], None],
    *,
    size: int,
    timeout: float,
    name: str,
    owner: Owner | None = None,
) -> Pool:
    """Open a pool of connections as `connect` makes them.

    Args:
        conninfo: called for each new connection.
        prepare: sets the session of each new connection up.
        size: most connections.
        timeout: seconds that a caller waits for a connection.
        name: of its threads.
        owner: whom the server is to see; None is the user of this process.
    """

    class OwnersConnection(psycopg.Connection[tuple[Any, ...]]):
        @classmethod
        def connect(cls, *args: Any, **kwargs: Any) -> Any:
            with owner.connecting() if owner else contextlib.nullcontext():
                return super().connect(*args, **kwargs)

    return ConnectionPool(
        conninfo, connection_class=OwnersConnection, kwargs={"autocommit": True}, configure=prepare, min_size=0,
        max_size=size, max_idle=60, timeout=timeout, reconnect_timeout=5, name=name, open=True,
    )  # fmt: skip


def abort(connection: Connection) -> None:
    """End what the connection waits for, from any thread. The thread that waits gets an error of the driver."""
    if connection.closed:
        return
    with (
        contextlib.suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(connection.fileno())) as connection_socket,
    ):
        connection_socket.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def login_role(connection: Connection) -> Iterator[None]:
    """A transaction with the rights of the role that has logged in.

    An administrator may have run `ALTER ROLE vkteams SET role = owner`. The other role may neither see what our own
    sessions do nor end them.

    Args:
        connection: in autocommit mode.
    """
    with connection.transaction():
        connection.execute("SET LOCAL ROLE NONE")
        yield


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Raise StoreErrors for the driver's errors. Each message is one sentence without passwords."""
    try:
        yield
    except (psycopg.Error, PoolTimeout) as error:
        failure = as_store_error(error)
    else:
        return
    try:
        raise failure
    finally:
        del failure  # its traceback leads to this frame, and a frame that kept it would be a reference cycle


def as_store_error(error: BaseException) -> StoreError | ConfigError:
    """The StoreError or ConfigError for this error of the driver."""
    state = getattr(error, "sqlstate", None) or ""
    text = first_line(error)
    needs_password = isinstance(error, psycopg.Error) and bool(error.pgconn and error.pgconn.needs_password)
    # Errors of statements with such a code have other classes. At the connection it is about what the client has sent
    # with its first message: the options, the time zone.
    wrong_setting = isinstance(error, psycopg.OperationalError) and state != "42501" and state[:2] in ("22", "42")
    if state in _REFUSED or needs_password or wrong_setting:
        return ConfigError(
            f"the database refuses the connection: {text}", hint="Check database.url or database.read_url."
        )
    if is_full_disk_elsewhere(error):
        state = "53100"
    if state in _CANNOT_WRITE:
        return CannotWrite(f"the database cannot write: {text}", hint=_CANNOT_WRITE[state])
    if state == "42501":
        return SchemaError(f"the database role lacks a right: {text}", hint="docs/schema.md lists the rights it needs.")
    if state.startswith("42"):
        return SchemaError(f"the schema does not fit this version: {text}", hint="Run `vkteamsctl database migrate`.")
    if not state and re.search(database_url.WRONG_VALUE, text):
        return ConfigError(f"database.url: {text}")
    if state.startswith("40"):
        return StoreError(f"the database asks to try again: {text}")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | PoolTimeout) or state in _SESSION_ENDED:
        return DatabaseUnavailable(f"the database cannot be reached: {text}")
    return StoreError(f"the database refuses the statement: {text}")


def is_full_disk_elsewhere(error: BaseException) -> bool:
    """Whether another machine of a Citus cluster has no room: of its error the coordinator may keep the text alone."""
    return getattr(error, "sqlstate", None) == "XX000" and os.strerror(errno.ENOSPC) in str(error)


def first_line(error: BaseException) -> str:
    """The first line of the message of the server or the driver. Messages of the driver hold no password."""
    diagnostic = getattr(error, "diag", None)
    text = (diagnostic.message_primary if diagnostic else None) or str(error)
    lines = [line.strip() for line in re.sub("^connection (failed|is bad): ", "", text).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
