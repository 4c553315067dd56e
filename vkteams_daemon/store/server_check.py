"""Checks whether a server, a database and a schema can hold the archive.

Each check names the culprit in one sentence, and its hint says what an administrator can run. What would merely be
unwise for an archive that runs already is refused for a new one alone; `problems` tells it of both.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Iterable

import psycopg

from vkteams_daemon.errors import CannotWrite, ConfigError, SchemaError
from vkteams_daemon.store import distribution
from vkteams_daemon.store.connections import Connection

_OLDEST = 140000
# The owner of a schema may drop what is in it, so it is trusted. So are superusers, and roles that may become ours.
_OTHER_CREATORS = (
    "SELECT n.nspname::text,"
    " CASE WHEN a.grantee = 0::oid THEN 'PUBLIC' ELSE pg_catalog.quote_ident(r.rolname::text) END"
    " FROM pg_catalog.pg_namespace n CROSS JOIN LATERAL pg_catalog.aclexplode(n.nspacl) a"
    " LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee"
    " WHERE n.nspname = ANY (pg_catalog.current_schemas(false)) AND a.privilege_type = 'CREATE'"
    " AND a.grantee <> n.nspowner AND (a.grantee = 0::oid"
    "  OR NOT r.rolsuper AND NOT pg_catalog.pg_has_role(r.oid, current_user::name, 'MEMBER'::text))"
    " ORDER BY n.nspname, a.grantee"
)
# A machine of a cluster looks for functions in the search_path of the role, which no connection of ours can narrow.
_OTHER_CREATORS_THERE = (
    f"SELECT coalesce(pg_catalog.json_agg(creators), '[]') FROM ({_OTHER_CREATORS}) AS creators (schema, role)"
)
# Search needs lower case, and the parser and regular expressions need to know what is a letter.
_KNOWS_LETTERS = (
    "SELECT pg_catalog.lower('ПРИВЕТ'::text) = 'привет' AND 'я'::text ~ '[[:alpha:]]' AND"
    " pg_catalog.to_tsvector('pg_catalog.simple'::regconfig, 'ПРИВЕТ, Ёж'::text)::text ="
    " pg_catalog.to_tsvector('pg_catalog.simple'::regconfig, 'привет, ёж'::text)::text"
)
_OTHER_ARCHIVES = (
    "SELECT pg_catalog.quote_ident(n.nspname::text) FROM pg_catalog.pg_namespace n"
    " WHERE n.nspname <> current_schema() AND 4 = (SELECT count(*) FROM pg_catalog.pg_class c"
    "  WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p')"
    "  AND c.relname IN ('schema_version', 'bots', 'events', 'embedding_queue')"
    "  AND pg_catalog.pg_has_role(c.relowner, 'USAGE'::text)) ORDER BY n.nspname"
)


def check_session(connection: Connection, connect: Callable[[], Connection]) -> None:
    """Refuse a pooler that gives the transactions of one connection different sessions, or one session to several.

    The lock of a bot, the settings and the prepared statements belong to a session.

    Args:
        connection: in autocommit mode.
        connect: opens a second connection to the same place; a server that is connected directly needs none.

    Raises:
        ConfigError: such a pooler stands before the server.
    """
    # A server names its process when it accepts a connection. A pooler answers before it has chosen one.
    question = "SELECT pg_backend_pid(), pg_catalog.current_setting('vkteams.mark'::text, true)"
    if _session(connection, question)[0] == connection.info.backend_pid:
        return
    mark = secrets.token_hex(8)
    first = _session(
        connection, "SELECT pg_backend_pid(), pg_catalog.set_config('vkteams.mark', %s::text, false)", mark
    )
    # The second connection holds its session in a transaction. A pooler that is not busy would otherwise hand out the
    # same session again and again.
    with contextlib.closing(connect()) as other:
        try:
            with other.transaction():
                held = _session(other, question)
                if held[0] != first[0] and held[1] != mark and _session(connection, question) == first:
                    return
        except psycopg.Error as error:
            if "pooling" not in str(error):
                raise
    raise ConfigError(
        "database.url leads through a pooler in transaction mode, and the archive needs sessions of its own",
        hint="Connect to the server itself, or set the pooler to session mode (PgBouncer: pool_mode = session).",
    )


def check_writable(connection: Connection) -> None:
    """Refuse a server or a role that can only read.

    Raises:
        CannotWrite: the server is a standby, or default_transaction_read_only is on.
    """
    row = connection.execute(
        "SELECT pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only'::text) = 'on'"
    ).fetchone()
    standby, read_only = row or (False, False)
    if standby:
        raise CannotWrite(
            "the database server is a standby, which can only be read",
            hint="Name the primary in database.url, or all servers with target_session_attrs=read-write.",
        )
    if read_only:
        raise CannotWrite(
            "the database can only be read by this role (default_transaction_read_only = on)",
            hint="Set it to off with ALTER ROLE or ALTER DATABASE, or connect as another role.",
        )


def check_only_reads(connection: Connection) -> None:
    """Refuse a role that can change an archive in this database.

    Raises:
        ConfigError: it may write.
    """
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = current_user AND rolsuper)"
        " OR coalesce(pg_catalog.has_schema_privilege(current_schema()::text, 'CREATE'::text), false)"
        " OR EXISTS (SELECT FROM pg_class c WHERE c.relkind IN ('r'::\"char\", 'p'::\"char\")"
        "  AND c.relnamespace = pg_catalog.to_regnamespace(current_schema()::text)::oid"
        "  AND pg_catalog.has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE'::text)), current_user::text"
    ).fetchone()
    if row and row[0]:
        raise ConfigError(
            f"database.read_url: the role {row[1]} may do more than read",
            hint="docs/schema.md, Rights, has the statements for a role that only reads.",
        )


def check_new_archive(connection: Connection, tables: Iterable[str], *, beside: bool) -> None:
    """Refuse a place that cannot hold a new archive, or should not.

    Args:
        connection: in autocommit mode.
        tables: the names of our tables.
        beside: whether the database may hold another archive of this role in another schema.

    Raises:
        SchemaError: see the message.
    """
    row = connection.execute(
        "SELECT pg_catalog.current_setting('server_version_num'::text)::int4,"
        " pg_catalog.current_setting('server_encoding'::text), current_schema()::text, current_database()::text,"
        " (SELECT datistemplate FROM pg_catalog.pg_database WHERE datname = current_database())"
    ).fetchone()
    assert row is not None
    version, encoding, schema, database, is_template = row
    if version < _OLDEST:
        raise SchemaError(f"PostgreSQL {version // 10000} is too old: 14 or newer is needed")
    if encoding != "UTF8":
        raise SchemaError(f"the database's encoding is {encoding}, not UTF8", hint="Create it with ENCODING 'UTF8'.")
    if is_template:
        raise SchemaError(
            f"the database {database} is a template for new databases", hint="Create a database for the archive."
        )
    if schema is None:
        raise SchemaError("no schema of the search_path exists", hint="Create one, or set the role's search_path.")
    _check_extension(connection)
    foreign = _existing(connection, tables)
    if foreign:
        raise SchemaError(
            f"schema {schema} has tables of another program: {', '.join(foreign)}", hint="Use a schema of its own."
        )
    others = other_archives(connection)
    if others and not beside:
        raise SchemaError(
            f"the search_path leads to schema {schema}, and the archive is in schema {others[0]}",
            hint=f"Set the role's search_path to {others[0]}, or run `vkteamsctl database init` for a second archive.",
        )
    for message, hint in _weaknesses(connection):
        raise SchemaError(message, hint=hint)


def problems(connection: Connection) -> list[str]:
    """What is wrong with the database of an archive that runs already, a sentence each with what to do."""
    return [f"{message}: {hint}" for message, hint in _weaknesses(connection)]


def other_archives(connection: Connection) -> list[str]:
    """The other schemas of this database that hold an archive which this role may use."""
    return [schema for (schema,) in connection.execute(_OTHER_ARCHIVES).fetchall()]


def _session(connection: Connection, statement: str, *arguments: str) -> tuple[int, str]:
    """The server's process, and the mark of this session, if it has one."""
    row = connection.execute(statement.encode(), arguments, prepare=False).fetchone()
    assert row is not None
    return row[0], row[1]


def _weaknesses(connection: Connection) -> list[tuple[str, str]]:
    """(message, hint) of what a new archive is refused for, and what an existing one goes on with."""
    found = []
    creators = set(connection.execute(_OTHER_CREATORS).fetchall())
    there = distribution.as_on_machines(connection, _OTHER_CREATORS_THERE) or "[]"
    creators |= {(creator["schema"], creator["role"]) for creator in json.loads(there)}
    for schema in sorted({schema for schema, _ in creators}):
        roles = sorted(role for where, role in creators if where == schema)
        found.append((
            f"other roles may create functions in schema {schema}, and such a function could read the archive",
            f'Run `REVOKE CREATE ON SCHEMA "{schema}" FROM {", ".join(roles)}`.',
        ))  # fmt: skip
    row = connection.execute(_KNOWS_LETTERS).fetchone()
    if row and not row[0]:
        found.append((
            "the database takes letters for bytes (LC_CTYPE C), so search does not find ПРИВЕТ by привет",
            f"Run `CREATE DATABASE {connection.info.dbname} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C.UTF-8'`"
            " instead of this one.",
        ))  # fmt: skip
    return found


def _check_extension(connection: Connection) -> None:
    row = connection.execute(
        "SELECT (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'vector'),"
        " (SELECT n.nspname::text FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n"
        "  ON n.oid = e.extnamespace WHERE e.extname = 'vector'),"
        " pg_catalog.to_regtype('halfvec'::text) IS NOT NULL,"
        " EXISTS (SELECT FROM pg_catalog.pg_available_extensions WHERE name = 'vector')"
    ).fetchone()
    assert row is not None
    installed, where, usable, available = row
    if not installed and not available:
        raise SchemaError("the server has no pgvector", hint="Install pgvector for this PostgreSQL.")
    if installed and not usable:
        raise SchemaError(
            f"pgvector {installed} in schema {where} cannot be used: it is older than 0.7, or closed to this role",
            hint=f"Upgrade it, or run `GRANT USAGE ON SCHEMA {where} TO` this role.",
        )


def _existing(connection: Connection, tables: Iterable[str]) -> list[str]:
    """Those of these names that something in our schema has already."""
    rows = connection.execute(
        "SELECT c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = current_schema() AND c.relname::text = ANY (%s::text[]) ORDER BY c.relname",
        (list(tables),),
    ).fetchall()
    return [name for (name,) in rows]
