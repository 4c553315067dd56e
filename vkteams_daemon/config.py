"""The options: one table of names, defaults, checks and help, read from TOML, the environment and flags.

Environment stands over the file, flags over the environment. Whatever is wrong is one `ConfigError` of the form
`section.key: what is wrong (FILE, line N)`. The structs below *are* the table: `options()` lists it for the
documentation, for `etc/vkteamsd.toml` and for the checks.
"""

from __future__ import annotations

import os
import re
import tomllib
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from vkteams_daemon.errors import ConfigError, PermissionRefused

SYSTEM_FILE = Path("/etc/vkteams/vkteamsd.toml")


def _option(help: str, *, reload: bool = False, secret: bool = False, **checks: Any) -> msgspec.Meta:
    return msgspec.Meta(description=help, extra={"reload": reload, "secret": secret}, **checks)


class Api(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The Bot API and the bot."""

    url: Annotated[str, _option("Base URL of the Bot API, with or without /bot/v1.")] = "https://myteam.mail.ru/bot/v1"
    token: Annotated[str, _option("The bot's token; better kept in token_file.", reload=True, secret=True)] = ""
    token_file: Annotated[str, _option("File whose first line is the token.", reload=True)] = ""
    poll_time: Annotated[int, _option("Seconds the API may hold one poll.", reload=True, ge=1, le=300)] = 30
    read_margin: Annotated[
        float, _option("Seconds beyond poll_time until a poll without an answer has failed.", reload=True, gt=0, le=120)
    ] = 15.0
    connect_timeout: Annotated[float, _option("Seconds for one connection attempt.", reload=True, gt=0, le=120)] = 10.0
    backoff_max: Annotated[
        float, _option("Longest wait between attempts, in seconds.", reload=True, ge=0.5, le=3600)
    ] = 60.0
    ca_file: Annotated[str, _option("PEM file of the certificate authority of an own installation.")] = ""
    proxy: Annotated[str, _option("Proxy URL; empty means the environment's HTTPS_PROXY.", secret=True)] = ""


class Daemon(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The process: its user, files and times."""

    user: Annotated[str, _option("User to run as when started by root; empty: _vkteams where it exists.")] = ""
    allow_root: Annotated[bool, _option("Poll as root where there is no other user (containers, trials).")] = False
    role: Annotated[Literal["all", "listen", "embed"], _option("all, or listen only, or embed only.")] = "all"
    runtime_dir: Annotated[str, _option("Directory of the PID file, status file and sockets.")] = ""
    state_dir: Annotated[str, _option("Directory of models and of the bundled database.")] = ""
    pid_file: Annotated[str, _option("Path of the PID file.")] = ""
    status_file: Annotated[str, _option("Path of the status file.")] = ""
    log_file: Annotated[str, _option("Path of the log file.")] = ""
    status_interval: Annotated[
        float, _option("Seconds between two writes of the status file.", reload=True, ge=0.2, le=300)
    ] = 5.0
    stats_interval: Annotated[
        float, _option("Seconds between two statistics lines in the log.", reload=True, ge=1, le=86400)
    ] = 600.0
    start_timeout: Annotated[
        float, _option("Seconds to wait at start for an unreachable API or database.", ge=0, le=600)
    ] = 15.0
    start_degraded: Annotated[
        bool, _option("Start all the same, as degraded, when the API or the database stays unreachable.")
    ] = False


class Storage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept."""

    save: Annotated[bool, _option("Store events; false prints them instead (foreground only).")] = True
    chat_ids: Annotated[tuple[str, ...], _option("Keep only these chats and their threads; empty: every chat.")] = ()
    on_delete: Annotated[
        Literal["keep", "erase"], _option("Keep or erase the text of a message that its author deleted.", reload=True)
    ] = "keep"


class Database(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """PostgreSQL with pgvector."""

    url: Annotated[str, _option("postgresql:// URL or conninfo; empty: the bundled PostgreSQL.", secret=True)] = ""
    url_file: Annotated[str, _option("File whose first line is the URL.")] = ""
    pool_size: Annotated[int, _option("Most connections of one process beside the writer's own.", ge=1, le=100)] = 4
    connect_timeout: Annotated[int, _option("Seconds for one connection attempt.", ge=1, le=120)] = 5
    write_timeout: Annotated[float, _option("Seconds after which a stuck transaction is abandoned.", ge=1, le=600)] = (
        30.0
    )


class Embedding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Vectors."""

    model: Annotated[str, _option("Name of the model; empty: the one that `model use` chose.")] = ""
    models_dir: Annotated[str, _option("Directory of installed models; empty: models/ in state_dir.")] = ""
    workers: Annotated[int, _option("Embedding threads; 0: one per core, four at most.", ge=0, le=64)] = 0
    token_budget: Annotated[int, _option("Most tokens in one batch of the model.", ge=64, le=65536)] = 768
    claim: Annotated[int, _option("Most messages one worker takes from the queue at once.", ge=1, le=10000)] = 256
    max_attempts: Annotated[int, _option("Attempts before a text that fails is parked.", ge=1, le=100)] = 5
    poll_interval: Annotated[
        float, _option("Seconds between looks at an idle queue; new messages wake it at once.", gt=0, le=600)
    ] = 15.0


class Search(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Searching."""

    limit: Annotated[int, _option("Hits where no limit is given.", ge=1, le=1000)] = 10
    timeout: Annotated[float, _option("Seconds after which a search is cancelled.", gt=0, le=600)] = 30.0


class Log(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The log."""

    level: Annotated[Literal["debug", "info", "warning", "error"], _option("Least level written.", reload=True)] = (
        "info"
    )
    format: Annotated[Literal["text", "json"], _option("text lines, or one JSON object a line.", reload=True)] = "text"
    target: Annotated[
        Literal["file", "syslog"], _option("Where a detached daemon logs; in the foreground it is stderr.")
    ] = "file"


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All options, checked. `source` is the file they came from, `instance` the name given with --instance."""

    api: Api = Api()
    daemon: Daemon = Daemon()
    storage: Storage = Storage()
    database: Database = Database()
    embedding: Embedding = Embedding()
    search: Search = Search()
    log: Log = Log()
    source: str = ""
    instance: str = ""

    @property
    def runtime_dir(self) -> Path:
        """Directory of the PID file, the status file and the bundled database's socket."""
        return Path(self.daemon.runtime_dir) if self.daemon.runtime_dir else _runtime_base() / self.instance

    @property
    def state_dir(self) -> Path:
        """Directory of the bundled database and of the models."""
        return Path(self.daemon.state_dir) if self.daemon.state_dir else _state_base() / self.instance

    @property
    def pid_file(self) -> Path:
        """The PID file; a worker (`--role embed`) has its own."""
        return Path(self.daemon.pid_file) if self.daemon.pid_file else self.runtime_dir / f"{self._stem}.pid"

    @property
    def status_file(self) -> Path:
        """The status file, beside the PID file unless it is set."""
        if self.daemon.status_file:
            return Path(self.daemon.status_file)
        return self.pid_file.with_suffix(".status.json")

    @property
    def log_file(self) -> Path:
        """The log file."""
        if self.daemon.log_file:
            return Path(self.daemon.log_file)
        base = Path("/var/log/vkteams") if os.geteuid() == 0 and not self.daemon.state_dir else self.state_dir
        return (base / self.instance if base != self.state_dir else base) / f"{self._stem}.log"

    @property
    def models_dir(self) -> Path:
        """Directory that holds one directory per installed model."""
        return Path(self.embedding.models_dir) if self.embedding.models_dir else self.state_dir / "models"

    @property
    def _stem(self) -> str:
        return "vkteamsd-embed" if self.daemon.role == "embed" else "vkteamsd"


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table: `[section] key`, its default, help and how it may be set."""

    section: str
    key: str
    type: str
    default: Any
    help: str
    reload: bool
    secret: bool

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"VKTEAMS_{self.section}_{self.key}".upper()

    @property
    def variables(self) -> tuple[str, ...]:
        """Every environment variable that sets it: its own, then its short name where it has one."""
        return (self.variable, *(alias for alias, variable in _ALIASES.items() if variable == self.variable))


SECTIONS: dict[str, type[msgspec.Struct]] = {
    "api": Api, "daemon": Daemon, "storage": Storage, "database": Database,
    "embedding": Embedding, "search": Search, "log": Log,
}  # fmt: skip

_ALIASES = {
    "VKTEAMS_BOT_API_TOKEN": "VKTEAMS_API_TOKEN",
    "VKTEAMS_BOT_API_URL": "VKTEAMS_API_URL",
    "VKTEAMS_BOT_CHAT_ID": "VKTEAMS_STORAGE_CHAT_IDS",
    "DATABASE_URL": "VKTEAMS_DATABASE_URL",
}


def options() -> Iterator[Option]:
    """Every option there is, in the order of the sections."""
    for section, struct in SECTIONS.items():
        hints = get_type_hints(struct, include_extras=True)
        defaults = struct()
        for key in struct.__struct_fields__:
            kind, meta = get_args(hints[key])
            yield Option(
                section, key, _type_name(kind), getattr(defaults, key), meta.description,
                meta.extra["reload"], meta.extra["secret"],
            )  # fmt: skip


def find_file(explicit: str | Path | None, instance: str, environ: Mapping[str, str]) -> Path | None:
    """The configuration file to read: --config, VKTEAMS_BOT_CONFIG, the system's, the user's; None where there is none."""
    named = explicit or environ.get("VKTEAMS_BOT_CONFIG")
    if named:
        return Path(named)
    name = f"{instance or 'vkteamsd'}.toml"
    user = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "/")) / ".config") / "vkteams" / name
    return next((path for path in (SYSTEM_FILE.with_name(name), user) if path.exists()), None)


def load(
    path: str | Path | None = None,
    *,
    instance: str = "",
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Read, merge and check the options.

    Args:
        path: the file given with --config, or None to look for one.
        instance: the name given with --instance, or "".
        flags: `{"section.key": value}` from the command line; None values are left out.
        environ: the environment, os.environ by default.

    Raises:
        ConfigError: the first thing that is wrong, with the file's line where it stands in a file.
        PermissionRefused: the file, or a file that holds a secret, may not be read by this user.
    """
    environ = os.environ if environ is None else environ
    if not re.fullmatch(r"[A-Za-z0-9_.-]*", instance) or instance.startswith("."):
        raise ConfigError(f"--instance: {instance!r} is not a name of letters, digits, '_', '-' and '.'")
    file = find_file(path, instance, environ)
    text = _read(file) if file else ""
    tables = _parse(text, file) if file else {}
    known = {(o.section, o.key): o for o in options()}
    for name, value in _environment(environ, known):
        tables.setdefault(name[0], {})[name[1]] = value
    for dotted, value in (flags or {}).items():
        if value is not None:
            section, _, key = dotted.partition(".")
            tables.setdefault(section, {})[key] = value
    config = _convert(tables, text, file)
    config = msgspec.structs.replace(config, source=str(file) if file else "", instance=instance)
    return _with_secrets(config, environ)


def masked(config: Config) -> dict[str, dict[str, Any]]:
    """The options as plain values, secrets as `***` (passwords inside a URL included)."""
    shown: dict[str, dict[str, Any]] = {}
    for option in options():
        value = getattr(getattr(config, option.section), option.key)
        if option.secret and value:
            value = "***"
        shown.setdefault(option.section, {})[option.key] = list(value) if isinstance(value, tuple) else value
    return shown


def seconds(duration: str) -> float:
    """`90s`, `15m`, `2h`, `7d`, `4w` in seconds; ConfigError for anything else."""
    match = re.fullmatch(r"(\d+)([smhdw])", duration.strip())
    if not match:
        raise ConfigError(f"{duration!r} is not a duration such as 30m, 2h, 7d")
    return int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[match[2]]


def _runtime_base() -> Path:
    if os.geteuid() == 0:
        return Path("/run/vkteams")
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "vkteams" if base else Path(f"/tmp/vkteams-{os.geteuid()}")


def _state_base() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/vkteams")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "vkteams"


def _type_name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " | ".join(get_args(kind))
    if get_origin(kind) in (Union, types.UnionType):
        return " | ".join(_type_name(part) for part in get_args(kind))
    return "list" if get_origin(kind) is tuple else str(kind.__name__)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except PermissionError as error:
        raise PermissionRefused(f"{file}: this user may not read it") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{file}: cannot be read: {reason}") from error


def _parse(text: str, file: Path) -> dict[str, dict[str, Any]]:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from error
    for name, table in tables.items():
        if name not in SECTIONS:
            known = ", ".join(f"[{s}]" for s in SECTIONS)
            raise ConfigError(f"{name}: no such section{_place(text, file, name, '')}; there are {known}")
        if not isinstance(table, dict):
            raise ConfigError(f"{name}: is a section, not a value{_place(text, file, name, '')}")
    return tables


def _environment(
    environ: Mapping[str, str], known: Mapping[tuple[str, str], Option]
) -> Iterator[tuple[tuple[str, str], Any]]:
    variables = {option.variable: option for option in known.values()}
    for alias, variable in [*((v, v) for v in variables), *_ALIASES.items()]:
        value = environ.get(alias)
        if value is None or value == "":
            continue
        option = variables[variable]
        parsed: Any = value
        if option.type == "list":
            parsed = [part.strip() for part in value.split(",") if part.strip()]
        elif option.type == "bool":
            parsed = {"yes": True, "on": True, "no": False, "off": False}.get(value.lower(), value)
        yield (option.section, option.key), parsed


def _convert(tables: Mapping[str, Any], text: str, file: Path | None) -> Config:
    try:
        # strict=False reads the environment's "30" and "true"; a file has TOML's own types already.
        return msgspec.convert(tables, Config, strict=False)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        section, _, key = where.rstrip("`").partition(".")
        key = key.partition("[")[0]
        unknown = re.match(r"Object contains unknown field `(.+)`", what)
        if unknown:
            key, what = unknown[1], "no such option"
        name = f"{section}.{key}" if key else section
        raise ConfigError(f"{name}: {what}{_place(text, file, section, key)}") from error


def _place(text: str, file: Path | None, section: str, key: str) -> str:
    """`(FILE, line N)` where the file sets the key, otherwise nothing: it came from the environment or a flag."""
    current = ""
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\s*([\w.-]+)\s*\]", line)
        if header:
            current = header[1]
        found = current == section and (bool(header) if not key else re.match(rf"\s*\"?{re.escape(key)}\"?\s*=", line))
        if found or (not current and re.match(rf"\s*{re.escape(section)}\s*[.=]", line)):
            return f" ({file}, line {number})"
    return ""


def _with_secrets(config: Config, environ: Mapping[str, str]) -> Config:
    credentials = environ.get("CREDENTIALS_DIRECTORY", "")
    token = config.api.token or _first_line(config.api.token_file, "api.token_file")
    if not token and credentials and (Path(credentials) / "token").exists():
        token = _first_line(str(Path(credentials) / "token"), "$CREDENTIALS_DIRECTORY")
    url = config.database.url or _first_line(config.database.url_file, "database.url_file")
    if not url and credentials and (Path(credentials) / "database_url").exists():
        url = _first_line(str(Path(credentials) / "database_url"), "$CREDENTIALS_DIRECTORY")
    return msgspec.structs.replace(
        config,
        api=msgspec.structs.replace(config.api, token=token),
        database=msgspec.structs.replace(config.database, url=url),
    )


def _first_line(file: str, name: str) -> str:
    if not file:
        return ""
    try:
        line = Path(file).read_text(encoding="utf-8").partition("\n")[0].strip()
    except PermissionError as error:
        raise PermissionRefused(f"{name}: this user may not read {file}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: {file} cannot be read") from error
    if not line:
        raise ConfigError(f"{name}: {file} is empty")
    return line
