"""Reads `[database] url`: what libpq takes, and what is wrong with the rest. No message repeats a value of it."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path

import psycopg
from psycopg import conninfo, pq

from vkteams_daemon.errors import ConfigError

SCHEMES = ("postgresql", "postgres")

# In a message of libpq.
WRONG_VALUE = "invalid .*value|invalid port number|could not parse network address|definition of service .* not found"
_OWN_OPTIONS = ("connect_timeout", "application_name", "client_encoding")  # every connection of this program sets them
_NUMBERS = (
    "connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
)  # fmt: skip
# libpq sends these to the server when it connects. No keyword of a conninfo string stands for them.
_STARTUP_VARIABLES = ("PGDATESTYLE", "PGTZ", "PGGEQO")
_NEVER_EMPTY = {"sslcertmode": "allow", "min_protocol_version": "3.0", "max_protocol_version": "3.0"}
_HOME_CERTIFICATES = {"cert": "postgresql.crt", "key": "postgresql.key", "rootcert": "root.crt", "crl": "root.crl"}
# What other programs write into a URL, and how libpq wants it.
_FOREIGN_PARAMETERS = {
    "schema": "Write options=-csearch_path%3DSCHEMA.",
    "currentSchema": "Write options=-csearch_path%3DSCHEMA.",
    "search_path": "Write options=-csearch_path%3DSCHEMA.",
    "sslaccept": "Write sslmode=require or sslmode=verify-full.",
    "pgbouncer": "Leave it out, and connect to the server itself or through a pool in session mode.",
}


def parse(url: str) -> dict[str, str]:
    """The keywords of libpq that this URL or conninfo string sets, with their values.

    Raises:
        ConfigError: libpq cannot read it. The message names the part, and the hint says how to write it.
    """
    url = url.strip()
    if url[:1] in ("'", '"'):
        raise ConfigError("database.url: it stands in quotation marks", hint="Leave them out.")
    scheme, separator, rest = url.partition("://")
    if separator and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.:-]*", scheme):
        _check_scheme(scheme)
        _check_parts(rest)
    try:
        options = conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError as error:
        # The driver's message repeats the URL, which holds the password.
        option = re.search(r'invalid connection option "([a-z_]+)"', str(error))
        if option and "password" not in url.partition(option[1])[0]:
            raise ConfigError(f"database.url: libpq has no option {option[1]}") from None
        raise ConfigError(
            "database.url: it is neither a postgresql:// URL nor a conninfo string",
            hint="Put a value with spaces into single quotation marks.",
        ) from None
    return {name: str(value) for name, value in options.items() if value is not None}


def check(url: str, option: str) -> None:
    """Find what libpq does not take in the URL of another option than `database.url`, before anything connects.

    Raises:
        ConfigError: something is wrong. The message names the option.
    """
    try:
        check_values(parse(url))
    except ConfigError as error:
        raise ConfigError(str(error).replace("database.url:", f"{option}:", 1), hint=error.hint) from None


def check_values(options: Mapping[str, str]) -> None:
    """Find a value that libpq does not take, before anything connects.

    libpq reads the values only when it begins to connect, so this begins it, to a socket that does not exist.

    Raises:
        ConfigError: a value is wrong, of these options or of the environment, or names a file that is missing.
    """
    for name in _NUMBERS:
        if not re.fullmatch(r"\s*[+-]?[0-9]+\s*", options.get(name, "0")):
            raise ConfigError(f"database.url: the value of {name} is not a number")
    for address in filter(None, options.get("hostaddr", "").split(",")):
        try:
            socket.getaddrinfo(address.strip(), None, flags=socket.AI_NUMERICHOST)
        except (OSError, UnicodeError):
            raise ConfigError("database.url: the value of hostaddr is not an IP address") from None
    _check_root_certificates(options)
    # One host a port: libpq wants as many of the one as of the other.
    ports = options.get("port", "")
    nowhere = {**options, "host": ",".join(["/nonexistent"] * (ports.count(",") + 1))}
    nowhere.pop("hostaddr", None)
    connection = pq.PGconn.connect_start(conninfo.make_conninfo("", **nowhere).encode())
    message = connection.get_error_message()
    connection.finish()
    problem = next((line for line in message.splitlines() if re.search(WRONG_VALUE, line)), "")
    if problem:
        variables = blamed_variables(options, problem)
        where = f" ({', '.join(variables)} in the environment)" if variables else ""
        raise ConfigError(f"database.url: {problem.strip().removeprefix('connection is bad: ')}{where}")


def _check_root_certificates(options: Mapping[str, str]) -> None:
    """Refuse a missing file of certificates where the server's certificate must be verified."""

    def value(name: str) -> str:
        return options.get(name) or os.environ.get(f"PG{name.upper()}", "")

    file = value("sslrootcert")
    if not value("sslmode").startswith("verify-") or file == "system":
        return
    path = Path(file) if file else Path(os.environ.get("HOME", "/")) / ".postgresql" / _HOME_CERTIFICATES["rootcert"]
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            f"database.url: sslmode={value('sslmode')} needs certificates, and there is no {path}",
            hint="Name the file of your authority with sslrootcert, or write sslrootcert=system.",
        ) from None
    except OSError:
        return  # this user may not look there; the daemon's may


def home_files(home: Path) -> dict[str, str]:
    """The files of this home directory that libpq would find if it were the user's own, by keyword."""
    files = {
        "passfile": home / ".pgpass",
        **{f"ssl{name}": home / ".postgresql" / file for name, file in _HOME_CERTIFICATES.items()},
    }
    return {
        keyword: str(file)
        for keyword, file in files.items()
        if file.exists() and not os.environ.get(f"PG{keyword.upper()}")
    }


def blamed_variables(options: Mapping[str, str], message: str) -> list[str]:
    """The variables of the environment that may have caused this error of a connection with these options.

    These are the variables that libpq reads besides the options. If the message repeats the values of some, only those.
    """
    names = [
        option.envvar.decode()
        for option in pq.Conninfo.get_defaults()
        if option.envvar and option.keyword.decode() not in options
    ]
    values = {name: os.environ[name] for name in (*names, *_STARTUP_VARIABLES) if os.environ.get(name)}
    return [name for name, value in values.items() if value in message] or list(values)


def closed_to_environment(options: Mapping[str, str]) -> dict[str, str]:
    """These options, and the default of every other option that a variable of the environment could set.

    Four variables have no option that overrides them. They are removed from the environment of this process.
    `build_conninfo` sets the options that are missing here.
    """
    for name in ("PGSERVICE", *_STARTUP_VARIABLES):
        os.environ.pop(name, None)
    defaults = {
        option.keyword.decode(): (option.compiled or b"").decode()
        for option in pq.Conninfo.get_defaults()
        if option.envvar and option.keyword.decode() not in ("service", *_OWN_OPTIONS)
    }
    # libpq refuses an empty value of these.
    defaults |= {name: value for name, value in _NEVER_EMPTY.items() if name in defaults}
    return {**defaults, **options}


def _check_scheme(scheme: str) -> None:
    if scheme in SCHEMES:
        return
    plain = re.sub(r"^jdbc:|\+.*$", "", scheme.lower())
    if plain in SCHEMES:
        raise ConfigError(f"database.url: {scheme}:// is not understood", hint="Write postgresql://.")
    raise ConfigError(f"database.url: {scheme}:// is not PostgreSQL", hint="Write postgresql://.")


def _check_parts(rest: str) -> None:
    """Check what follows `postgresql://`.

    A letter of a password that has a meaning in URLs moves the border between two parts, and libpq would then complain
    about a piece of the password.
    """
    location, _, query = rest.partition("?")
    authority, _, database = location.partition("/")
    login, separator, hosts = authority.rpartition("@")
    if "@" in login or ("@" in location and not separator):
        raise ConfigError(
            "database.url: the user or the password holds a letter that has a meaning in URLs",
            hint="Write %40 for @, %2F for /, %3A for :, %3F for ? and %25 for %.",
        )
    if "@" in query and not separator:
        raise ConfigError(
            "database.url: the user or the password holds a ?, or a parameter holds an @",
            hint="Write %3F for ? and %40 for @.",
        )
    user, _, password = login.partition(":")
    parts = {"the user": user, "the password": password, "the host": hosts, "the database": database}
    parameters = [parameter.partition("=") for parameter in query.split("&")] if query else []
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    for name, equals, value in parameters:
        shown = name if re.fullmatch(r"[A-Za-z_.-]+", name) else "of another name"
        if not equals:
            raise ConfigError(f"database.url: the parameter {shown} has no value")
        if name not in known and (name, value) != ("ssl", "true"):
            raise ConfigError(
                f"database.url: the parameter {shown} is not understood",
                hint=_FOREIGN_PARAMETERS.get(name, "Leave it out, or write libpq's parameter for it."),
            )
        if "=" in value:
            raise ConfigError(f"database.url: the parameter {name} holds a =", hint="Write %3D for =.")
        parts[f"the parameter {name}"] = value
    for part, value in parts.items():
        if re.search("%(?![0-9A-Fa-f]{2})|%00", value):
            raise ConfigError(f"database.url: {part} holds a bare %", hint="Write %25 for %.")
    for host in hosts.split(","):
        port = re.sub(r"^\[[^]]*\]|^[^:]*", "", host)
        if not re.fullmatch(r"(:[0-9]*)?", port):
            raise ConfigError("database.url: the port is not a number")
