"""The profiles of a connection: the settings that each kind of session needs, set where the connection is opened.

The time limits end the session of a process that is stopped or cut off, so that its locks are released. They are one
half of the protection: the server does not arm its idle timers in the middle of a COPY, and not after every pipeline.
`store.blockers` is the other half.
"""

from __future__ import annotations

from dataclasses import dataclass

from vkteams_daemon.store.connections import Connection

# The server must notice within seconds that a client on the network is gone (tcp(7)).
_COMMON = {"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3"}
_NO_LIMITS = dict.fromkeys(
    (
        "statement_timeout", "lock_timeout", "idle_session_timeout", "idle_in_transaction_session_timeout",
        "transaction_timeout",
    ),
    "0",
)  # fmt: skip
# A server may be too old for a parameter. Leave it out then.
_SET = (
    "SELECT pg_catalog.set_config(name, value, false) FROM unnest(%b::text[], %b::text[]) AS setting (name, value)"
    " WHERE current_setting(name, true) IS NOT NULL"
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
        settings = {**_COMMON, **_NO_LIMITS, **self.settings}
        connection.execute(_CHECK_CONNECTION)
        connection.execute(_SET.encode(), (list(settings), list(settings.values())), prepare=False)


WRITER = Profile(
    "writer",
    {"synchronous_commit": "on", "idle_session_timeout": "10s", "idle_in_transaction_session_timeout": "10s"},
)
"""The session that holds a bot's lock. It is pinged every 3 s, so a silent one is stopped or cut off."""

WORKER = Profile("worker", {"idle_in_transaction_session_timeout": "10s"})
"""Short transactions: workers, retention, erasure, replay, cursor, word counts."""

READER = Profile("reader", {"idle_in_transaction_session_timeout": "10s", "lock_timeout": "10s"})
"""Questions to the archive."""

MAINTENANCE = Profile("maintenance", {})
"""Migrations, vacuum and index builds. They have no time limits, because a limit would leave an invalid index."""
