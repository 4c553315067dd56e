"""The parameters of a connection to PostgreSQL, and the translation of the driver's errors into ours."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import conninfo, errors
from psycopg_pool import PoolTimeout

from vkteams_daemon.errors import CannotWrite, ConfigError, DatabaseUnavailable, SchemaError, StoreError

Connection = psycopg.Connection[tuple[Any, ...]]

# The client must notice within seconds that the other end of a network connection is gone (libpq, tcp(7)).
_KEEPALIVE = {
    "keepalives": "1", "keepalives_idle": "5", "keepalives_interval": "2", "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}  # fmt: skip
# The server's timeouts end a session: idle in a transaction, in a transaction for too long, or idle.
_SESSION_ENDED = ("25P03", "25P04", "57P05")


def build_conninfo(url: str, connect_timeout: int, application: str) -> str:
    """The conninfo string for this URL or conninfo string. Our time limits are added where it sets none.

    Raises:
        ConfigError: it is neither a URL nor a conninfo string.
    """
    # Without client_encoding the driver would use PGCLIENTENCODING, and that encoding may not hold every text.
    defaults = {
        "connect_timeout": str(connect_timeout), "application_name": application, "client_encoding": "UTF8",
        **_KEEPALIVE,
    }  # fmt: skip
    try:
        options = conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # The driver's message repeats the URL, which holds the password.
        raise ConfigError("database.url: it is neither a postgresql:// URL nor a conninfo string") from None
    return conninfo.make_conninfo("", **{**defaults, **{k: str(v) for k, v in options.items() if v is not None}})


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Raise StoreErrors for the driver's errors. Each message is one sentence without passwords."""
    try:
        yield
    except (psycopg.Error, PoolTimeout) as error:
        failure = as_store_error(error)
    else:
        return
    raise failure


def as_store_error(error: BaseException) -> StoreError | ConfigError:
    """The StoreError or ConfigError for this error of the driver."""
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
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | PoolTimeout) or state in _SESSION_ENDED:
        return DatabaseUnavailable(f"the database cannot be reached: {text}")
    return StoreError(f"the database refuses the statement: {text}")


def first_line(error: BaseException) -> str:
    """The first line of the message of the server or the driver. Messages of the driver hold no password."""
    diagnostic = getattr(error, "diag", None)
    text = (diagnostic.message_primary if diagnostic else None) or str(error)
    lines = [line.strip() for line in text.removeprefix("connection failed: ").splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
