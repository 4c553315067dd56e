"""The layout of an archive over several machines with Citus: which tables lie where, and whether that was asked for.

The keys of `messages` and of all that hangs on it begin with the chat, the key of `events` with the bot. So a message
and what belongs to it lie on one machine, and so do the events of one bot. docs/scaling.md says what this brings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from vkteams_daemon.errors import ConfigError, DatabaseUnavailable
from vkteams_daemon.store.connections import Connection

BY_CHAT = (
    "messages", "message_versions", "embeddings", "chat_user_counts", "chat_hour_counts", "chat_vector_counts"
)  # fmt: skip
"""Distributed by chat_id, the shards of one chat on one machine."""

BY_BOT = ("events", "bot_chat_counts")
"""Distributed by bot_id."""

EVERYWHERE = ("bots", "chats", "users", "embedding_models")
"""Reference tables: each machine has a copy, because questions join them with distributed rows."""

# All other tables stay on the coordinator: nothing joins them with distributed rows but small lists of their values.

_HAS_CITUS = "SELECT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus')"
_DISTRIBUTED = (
    "SELECT EXISTS (SELECT FROM pg_catalog.pg_dist_partition"
    " WHERE logicalrelid::oid = pg_catalog.to_regclass('messages')::oid)"
)
_OF_THESE = (
    "SELECT t.name FROM pg_catalog.unnest(%s::text[]) WITH ORDINALITY AS t (name, place) WHERE {}EXISTS"
    " (SELECT FROM pg_catalog.pg_dist_partition p WHERE p.logicalrelid::oid = t.name::regclass::oid) ORDER BY t.place"
)
_TABLES, _MISSING = _OF_THESE.format(""), _OF_THESE.format("NOT ")
_MAY_SETTLE = (
    "SELECT pg_catalog.has_function_privilege('pg_catalog.recover_prepared_transactions()'::text, 'EXECUTE'::text)"
)
_FOREIGN_KEYS = (
    "SELECT c.conrelid::regclass::text, pg_catalog.quote_ident(c.conname::text),"
    " pg_catalog.pg_get_constraintdef(c.oid) FROM pg_catalog.pg_constraint c WHERE c.contype = 'f'"
    " AND c.conrelid = ANY (%s::regclass[]::oid[]) ORDER BY 1, 2"
)

# One after the other: in parallel each shard would take a connection.
_ON_SHARDS = "SELECT shardid, success, result FROM pg_catalog.run_command_on_placements(%s::regclass, %s, false)"
_ON_MACHINES = "SELECT success, result FROM pg_catalog.run_command_on_all_nodes(%s)"
_AS_ON_MACHINES = "SELECT success, result FROM pg_catalog.run_command_on_coordinator(%s)"


@dataclass(frozen=True, slots=True)
class ShardAnswer:
    """What a machine has answered for a shard that it holds; a shard of a reference table has an answer of each."""

    shard_id: int
    answer: str


# An open connection stays with its answer: `migrate` distributes an archive while no daemon runs.
_known: WeakKeyDictionary[Connection, bool] = WeakKeyDictionary()


def is_distributed(connection: Connection) -> bool:
    """Whether the archive of this connection is distributed."""
    known = _known.get(connection)
    if known is None:
        known = _known[connection] = _has_citus(connection) and bool(_value(connection, _DISTRIBUTED))
    return known


def check(connection: Connection, wanted: bool) -> None:
    """Compare the archive with `[database] distributed`.

    Raises:
        ConfigError: one of them is distributed, and the other is not.
    """
    distributed = is_distributed(connection)
    if distributed and not wanted:
        raise ConfigError(
            "the archive is distributed over several machines (Citus), and database.distributed is false",
            hint="Set database.distributed = true.",
        )
    if wanted and not distributed:
        raise ConfigError(
            "database.distributed is true, and the archive lies on one server",
            hint="Set it to false, or run `vkteamsctl database migrate`, which distributes the archive.",
        )


def check_server(connection: Connection) -> None:
    """Refuse a server that cannot distribute an archive.

    Raises:
        ConfigError: it has no Citus, or is not its coordinator.
    """
    if not _has_citus(connection):
        raise ConfigError(
            "database.distributed is true, and this database has no extension citus",
            hint="Run `CREATE EXTENSION citus` in this database on every machine, or set it to false.",
        )
    if not _value(connection, "SELECT pg_catalog.citus_is_coordinator()"):
        raise ConfigError(
            "database.url leads to a worker of the Citus cluster, and the archive is made on its coordinator",
            hint="Name the coordinator in database.url.",
        )


def refuse(connection: Connection, what: str, instead: str) -> None:
    """Refuse what does not work on a distributed archive.

    Raises:
        ConfigError: the archive is distributed.
    """
    if is_distributed(connection):
        raise ConfigError(f"{what} does not work for an archive on several machines (Citus)", hint=instead)


def tables(connection: Connection, names: Sequence[str]) -> list[str]:
    """Those of these tables that lie on several machines."""
    if not is_distributed(connection):
        return []
    return [name for (name,) in connection.execute(_TABLES, (list(names),)).fetchall()]


def on_shards(connection: Connection, table: str, command: str) -> list[ShardAnswer]:
    """Ask for each shard of a table the machine that holds it.

    Args:
        connection: to the coordinator.
        table: distributed.
        command: a statement with one value as its answer; `%s` in it is the shard's name. It finds what it names in
            the search_path of the role, and not in that of this connection.

    Raises:
        DatabaseUnavailable: a machine does not answer.
    """
    rows = connection.execute(_ON_SHARDS, (table, command)).fetchall()
    return [ShardAnswer(shard_id, _answer(success, result)) for shard_id, success, result in rows]


def on_machines(connection: Connection, command: str) -> None:
    """Run a statement on every machine.

    Raises:
        DatabaseUnavailable: it has failed on one.
    """
    for success, result in connection.execute(_ON_MACHINES, (command,)).fetchall():
        _answer(success, result)


def as_on_machines(connection: Connection, command: str) -> str | None:
    """Run a statement on the coordinator with the settings that a machine has: those of the role.

    Args:
        connection: to the coordinator, if the server has Citus.
        command: a statement with one value as its answer.

    Returns:
        The answer; None on a server without Citus.
    """
    if not _has_citus(connection):
        return None
    [(success, result)] = connection.execute(_AS_ON_MACHINES, (command,)).fetchall()
    return _answer(success, result)


def _answer(success: bool, result: str) -> str:
    if not success:
        raise DatabaseUnavailable(f"a machine of the cluster does not answer: {result}")
    return result


def settle(connection: Connection) -> None:
    """Finish the transactions that a machine which went away has left in doubt, if this role may.

    Otherwise Citus does it within a minute. Until then what they have written is not visible.

    Args:
        connection: in autocommit mode.
    """
    # Asked apart: the server refuses a statement that names the function, even if it would not call it.
    if is_distributed(connection) and _value(connection, _MAY_SETTLE):
        connection.execute("SELECT pg_catalog.recover_prepared_transactions()")


def distribute(connection: Connection) -> None:
    """Distribute those tables that are not distributed yet, with their rows, in one transaction.

    Args:
        connection: in autocommit mode; its role owns the tables.
    """
    with connection.transaction():
        # A foreign key can only be made between tables that are distributed already.
        missing = {name for (name,) in connection.execute(_MISSING, ([*EVERYWHERE, *BY_BOT, *BY_CHAT],)).fetchall()}
        if not missing:
            return
        connection.execute("SET LOCAL citus.multi_shard_modify_mode = 'sequential'")
        foreign_keys = connection.execute(_FOREIGN_KEYS, (sorted(missing),)).fetchall()
        for table, name, _ in foreign_keys:
            connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}".encode())
        for table in EVERYWHERE:
            if table in missing:
                connection.execute("SELECT pg_catalog.create_reference_table(%s::regclass)", (table,))
        for tables, column in ((BY_BOT, "bot_id"), (BY_CHAT, "chat_id")):
            for table in tables:
                if table in missing:
                    together = "none" if table == tables[0] else tables[0]
                    connection.execute(
                        "SELECT pg_catalog.create_distributed_table(%s::regclass, %s, colocate_with => %s)",
                        (table, column, together),
                    )
        _known.pop(connection, None)
        for table, name, definition in foreign_keys:
            connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}".encode())


def _has_citus(connection: Connection) -> bool:
    return bool(_value(connection, _HAS_CITUS))


def _value(connection: Connection, statement: str) -> object:
    row = connection.execute(statement.encode()).fetchone()
    return row[0] if row else None
