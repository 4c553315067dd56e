"""The profiles of a connection: the settings that each kind of session needs, set where the connection is opened.

The time limits end the session of a process that is stopped or cut off, so that its locks are released. They are one
half of the protection: the server does not arm its idle timers in the middle of a COPY, and not after every pipeline.
`store.blockers` is the other half.
"""

from __future__ import annotations

from dataclasses import dataclass

from vkteams_daemon.store.connections import Connection

# The role, the database or the environment may set these, too, and change what the server takes and gives as text, or
# what a statement finds.
WIRE = {
    "DateStyle": "ISO, MDY", "IntervalStyle": "postgres", "TimeZone": "UTC", "array_nulls": "on", "bytea_output": "hex",
    "extra_float_digits": "1", "standard_conforming_strings": "on", "quote_all_identifiers": "off",
    "transform_null_equals": "off", "client_encoding": "UTF8", "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off", "gin_fuzzy_search_limit": "0", "enable_seqscan": "on",
    "enable_sort": "on", "row_security": "on", "check_function_bodies": "on", "default_tablespace": "",
    # With "replica", which somebody may have set for a bulk load, the vectors of a deleted message would stay.
    "session_replication_role": "origin",
}  # fmt: skip
# The server must notice within seconds that a client on the network is gone (tcp(7)).
_COMMON = {
    "tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3",
    # Of Citus: a SET LOCAL holds on the other machines as well, and whoever changes other rows of a shard does not wait
    # for the end of this transaction. Our locks of chats and rows keep the order, as on one server.
    "citus.propagate_set_commands": "local", "citus.enable_deadlock_prevention": "off",
}  # fmt: skip
_NO_LIMITS = dict.fromkeys(
    (
        "statement_timeout", "lock_timeout", "idle_session_timeout", "idle_in_transaction_session_timeout",
        "transaction_timeout",
    ),
    "0",
)  # fmt: skip
# Our schema is the first that the administrator's search_path leads to. PostgreSQL looks into pg_catalog before the
# search_path, and into pg_temp before both unless it is named. Further schemas are left out: a function there that fits
# a call better would run with our rights. The operator is qualified because the administrator's path is still in force.
_NARROW_SEARCH_PATH = (
    "SELECT pg_catalog.set_config('search_path', CASE WHEN ours IS NULL THEN '' ELSE"
    " pg_catalog.concat_ws(', ', pg_catalog.quote_ident(ours), CASE WHEN vectors OPERATOR(pg_catalog.<>) ours"
    " THEN pg_catalog.quote_ident(vectors) END, 'pg_temp') END, false)"
    " FROM (SELECT (SELECT name FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) WITH ORDINALITY"
    "   AS path (name, place) WHERE NOT pg_catalog.starts_with(name::pg_catalog.text, 'pg_') ORDER BY place LIMIT 1),"
    "  (SELECT n.nspname FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n"
    "   ON n.oid OPERATOR(pg_catalog.=) e.extnamespace"
    "   WHERE e.extname OPERATOR(pg_catalog.=) 'vector'::pg_catalog.name)) AS schemas (ours, vectors)"
)
# These limits could end the statements that lift them.
_LIFT_LIMITS = "SET statement_timeout = 0; SET lock_timeout = 0"
_LIFT_NEWER_LIMITS = "SET transaction_timeout = 0"
_KNOWS_TRANSACTION_TIMEOUT = 170000
# A server may be too old for a parameter. Leave it out then. Everything else is set even if it has the value: the
# server's configuration may change while the session lasts. One needs a superuser, unless it is right already.
_SET = (
    "SELECT pg_catalog.set_config(name, value, false)"
    " FROM ROWS FROM (pg_catalog.unnest(%b::text[]), pg_catalog.unnest(%b::text[])) AS setting (name, value)"
    " WHERE pg_catalog.current_setting(name, true) IS NOT NULL"
    " AND (name <> 'session_replication_role' OR pg_catalog.current_setting(name) <> value)"
)
# A backend that waits for a lock must notice that its client is gone. Some systems cannot check, and refuse this.
_CHECK_CONNECTION = (
    "DO $$ BEGIN SET client_connection_check_interval = '2s'; EXCEPTION WHEN data_exception THEN NULL; END $$"
)


@dataclass(frozen=True, slots=True)
class Profile:
    """The settings of one kind of session, on top of those that every session has.

    Attributes:
        name: as the documentation calls it.
        settings: parameters of the server and their values.
    """

    name: str
    settings: dict[str, str]

    def apply(self, connection: Connection) -> None:
        """Set the parameters for the whole session.

        Args:
            connection: new, in autocommit mode.
        """
        settings = {**WIRE, **_COMMON, **_NO_LIMITS, **self.settings}
        statements = [_LIFT_LIMITS, _NARROW_SEARCH_PATH, _CHECK_CONNECTION]
        if connection.info.server_version >= _KNOWS_TRANSACTION_TIMEOUT:
            statements.insert(0, _LIFT_NEWER_LIMITS)
        connection.execute("; ".join(statements).encode())
        connection.execute(_SET.encode(), (list(settings), list(settings.values())), prepare=False)


WRITER = Profile(
    "writer",
    {"synchronous_commit": "on", "idle_session_timeout": "10s", "idle_in_transaction_session_timeout": "10s"},
)
"""The session that holds a bot's lock. It is pinged every 3 s, so a silent one is stopped or cut off."""

WORKER = Profile("worker", {"idle_in_transaction_session_timeout": "10s"})
"""Short transactions: workers, retention, erasure, replay, cursor, word counts."""

READER = Profile("reader", {"idle_in_transaction_session_timeout": "10s", "lock_timeout": "15s"})
"""Questions to the archive. They wait for a lock longer than the patience, after which its silent holder is ended."""

MAINTENANCE = Profile("maintenance", {})
"""Migrations, vacuum and index builds. They have no time limits, because a limit would leave an invalid index."""
