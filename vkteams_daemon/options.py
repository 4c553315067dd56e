"""The table of options: sections, names, types, defaults, checks and help. It is the only description of an option.

The structs *are* the table. `options()` lists it for the documentation, for `etc/vkteamsd.toml` and for the checks.
"""

# Without `from __future__ import annotations`: each command would evaluate the types of the options again, from text.

import functools
import os
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

SYSTEM_DIRECTORY = Path("/etc/vkteams")
"""The directory of the system's configuration. A process that reads a file of it works with the system's daemon."""
DEFAULT_USER = "_vkteams"
"""The user that root starts the daemon as, where the configuration names none."""
READERS_GROUP = "vkteams-readers"
"""The group of the people who may search the system's archive and see its health, and nothing else."""
READERS = "readers"
"""The directory in it for those people: configurations of the same names, without a secret, readable for the group."""

# The form of a bot's token, its colon perhaps percent-encoded; and a URL with a password, which a path may have cut to
# one slash.
_TOKEN = re.compile(r"\b[0-9]{3}\.[0-9]{5,}\.[0-9]{5,}(?::|%3[Aa])[0-9]+")
_URL_PASSWORD = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*:/{1,2}[^/@:\s]*:)[^/@\s]+@")


def _option(help: str, *, reload: bool = False, secret: bool = False, form: str = "", **checks: Any) -> msgspec.Meta:
    """An option's help and checks. `form` describes in words what its pattern accepts."""
    return msgspec.Meta(description=help, extra={"reload": reload, "secret": secret, "form": form}, **checks)


def hide_credentials(text: str) -> str:
    """The text with `***` for everything that has the form of a bot's token, and for the password of every URL."""
    return _URL_PASSWORD.sub(r"\1***@", _TOKEN.sub("***", text))


def is_token(text: str) -> bool:
    """Whether a text has the form of a bot's token."""
    return bool(_TOKEN.fullmatch(text.strip()))


def has_credentials(text: str) -> bool:
    """Whether a text has the form of a bot's token, or of a URL with a password."""
    return is_token(text) or bool(_URL_PASSWORD.search(text))


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A section of the configuration, whose repr shows no secret."""

    def __repr__(self) -> str:
        secrets = _secret_keys(type(self))
        fields = ((key, getattr(self, key)) for key in self.__struct_fields__)
        texts = (f"{key}={masked_value(value, secret=key in secrets)!r}" for key, value in fields)
        return f"{type(self).__name__}({', '.join(texts)})"


def masked_value(value: Any, *, secret: bool) -> Any:
    """The value of an option as it may be shown: `***` for a secret, and no credentials in any other text."""
    if secret and value:
        return "***"
    if isinstance(value, tuple):
        return tuple(masked_value(part, secret=False) for part in value)
    return hide_credentials(value) if isinstance(value, str) else value


@functools.cache
def _secret_keys(section: type[msgspec.Struct]) -> frozenset[str]:
    hints = get_type_hints(section, include_extras=True)
    return frozenset(key for key in section.__struct_fields__ if get_args(hints[key])[1].extra["secret"])


class Api(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The Bot API and the bot."""

    url: Annotated[str, _option("Base URL of the Bot API, with or without /bot/v1.")] = "https://myteam.mail.ru/bot/v1"
    token: Annotated[str, _option("The bot's token; token_file is the safer place.", reload=True, secret=True)] = ""
    token_file: Annotated[str, _option("File whose first line is the token.", reload=True)] = ""
    poll_time: Annotated[int, _option("Seconds the API may hold one poll.", reload=True, ge=1, le=300)] = 30
    read_margin: Annotated[
        float, _option("Seconds after poll_time at which an unanswered poll fails.", reload=True, gt=0, le=120)
    ] = 15.0
    connect_timeout: Annotated[float, _option("Seconds for one connection attempt.", reload=True, gt=0, le=120)] = 10.0
    roster: Annotated[
        bool, _option("Read who is in each chat and who runs it, once a day and one request a second.", reload=True)
    ] = True
    retention: Annotated[
        str,
        _option(
            "How long the API keeps events that nobody fetches; empty: unknown. A longer outage is a gap.", reload=True,
            form="hours, days or weeks, such as 7d", pattern=r"^([1-9][0-9]{0,4}[hdw])?\Z",
        ),
    ] = ""  # fmt: skip
    backoff_max: Annotated[
        float, _option("Longest wait between attempts, in seconds.", reload=True, ge=0.5, le=3600)
    ] = 60.0
    ca_file: Annotated[str, _option("PEM file of the certificate authority, for an installation of your own.")] = ""
    proxy: Annotated[str, _option("Proxy URL; empty: the environment's HTTPS_PROXY.", secret=True)] = ""


class Daemon(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The process: its user, files and time limits."""

    user: Annotated[str, _option("User to run as when root starts it; empty: _vkteams.")] = ""
    allow_root: Annotated[bool, _option("Run as root if there is no other user (containers, trials).")] = False
    role: Annotated[
        Literal["all", "listen", "embed"], _option("What the process does: everything, listen only, or embed only.")
    ] = "all"
    runtime_dir: Annotated[str, _option("Directory of the PID file, status file and sockets.")] = ""
    state_dir: Annotated[str, _option("Directory of the models, the bundled database and the spool.")] = ""
    pid_file: Annotated[str, _option("Path of the PID file.")] = ""
    status_file: Annotated[str, _option("Path of the status file.")] = ""
    log_file: Annotated[str, _option("Path of the log file.")] = ""
    status_interval: Annotated[
        float, _option("Seconds between two writes of the status file.", reload=True, ge=0.2, le=300)
    ] = 5.0
    stats_interval: Annotated[
        float, _option("Seconds between two statistics lines in the log.", reload=True, ge=1, le=86400)
    ] = 600.0
    metrics: Annotated[
        str,
        _option(
            "Address of /metrics, /livez and /readyz, such as 127.0.0.1:9187; empty: none.",
            form="HOST:PORT", pattern=r"^(\S+:[0-9]{1,5})?\Z",
        ),
    ] = ""  # fmt: skip
    single_host: Annotated[
        bool, _option("Promise that no other host listens to this bot: the daemon may then spool.")
    ] = False
    start_timeout: Annotated[
        float, _option("Seconds that a start waits for an unreachable API or database.", ge=0, le=600)
    ] = 15.0
    start_degraded: Annotated[
        bool, _option("Start as degraded, instead of failing, if the API or the database stays unreachable.")
    ] = False


class Storage(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the archive keeps."""

    save: Annotated[bool, _option("Store events; false prints them instead (foreground only).")] = True
    chat_ids: Annotated[tuple[str, ...], _option("Keep only these chats and their threads; empty: every chat.")] = ()
    on_delete: Annotated[
        Literal["keep", "erase"], _option("Keep or erase the text of a message that its author deleted.", reload=True)
    ] = "keep"
    retention: Annotated[
        str,
        _option(
            "Once a day, erase messages and events older than this; empty: never.", reload=True,
            form="days or weeks, such as 365d", pattern=r"^([1-9][0-9]{0,4}[dw])?\Z",
        ),
    ] = ""  # fmt: skip
    spool_after: Annotated[
        float,
        _option(
            "Seconds without the database after which the daemon spools events; 0: never.", reload=True, ge=0, le=86400
        ),
    ] = 60.0
    spool_max_bytes: Annotated[
        int, _option("Maximum size of the spool in bytes; then the daemon stops polling.", reload=True, ge=1, le=10**15)
    ] = 268435456  # fmt: skip


class Database(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """PostgreSQL with pgvector."""

    url: Annotated[str, _option("postgresql:// URL or conninfo; empty: the bundled PostgreSQL.", secret=True)] = ""
    url_file: Annotated[str, _option("File whose first line is the URL.")] = ""
    read_url: Annotated[
        str, _option("URL of a role that only reads, for all that asks the archive; empty: url.", secret=True)
    ] = ""
    distributed: Annotated[
        bool, _option("The archive lies on several machines (Citus); a new one is made so. See docs/scaling.md.")
    ] = False
    pool_size: Annotated[int, _option("Maximum connections of one process, besides the writer's.", ge=1, le=100)] = 4
    connect_timeout: Annotated[int, _option("Seconds for one connection attempt.", ge=1, le=120)] = 5
    write_timeout: Annotated[
        float, _option("Seconds after which a transaction is abandoned; a batch is then split.", ge=1, le=600)
    ] = 30.0
    patience: Annotated[
        float,
        _option(
            "Seconds to wait for a lock whose holder is silent; then its session is ended. The same on every host.",
            ge=1, le=600,
        ),
    ] = 10.0  # fmt: skip


class Embedding(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Models and vectors."""

    models: Annotated[
        tuple[str, ...],
        _option("Names of the models that search asks together; empty: the models that `model use` chose."),
    ] = ()
    models_dir: Annotated[
        str, _option("Directory of installed models; empty: models/ in the state directory, which instances share.")
    ] = ""
    workers: Annotated[int, _option("Embedding threads; 0: one per core, four at most.", ge=0, le=64)] = 0
    token_budget: Annotated[int, _option("Maximum tokens in one batch of the model.", ge=64, le=65536)] = 512
    claim: Annotated[int, _option("Maximum messages one worker takes from the queue at once.", ge=1, le=10000)] = 2048
    max_attempts: Annotated[int, _option("Failed attempts after which a text is parked.", ge=1, le=100)] = 5
    poll_interval: Annotated[
        float, _option("Seconds between checks of an idle queue; new messages wake it at once.", gt=0, le=600)
    ] = 15.0


class Search(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Search."""

    limit: Annotated[int, _option("Number of hits if no limit is given.", ge=1, le=1000)] = 10
    timeout: Annotated[float, _option("Seconds after which a search is cancelled.", gt=0, le=600)] = 30.0
    timezone: Annotated[
        str,
        _option("Time zone in which people and agents read and write times, if TZ is not set; empty: this machine's."),
    ] = ""


class Access(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What people see of the chats in which they are members, and the audit of who has asked what."""

    history: Annotated[
        Literal["joined", "whole"],
        _option("A member sees what was said while they were one (joined), or all of it (whole)."),
    ] = "joined"
    roster_max_age: Annotated[
        str,
        _option(
            "A chat whose roster is older than this is shown to nobody.",
            form="hours, days or weeks, such as 3d", pattern=r"^[1-9][0-9]{0,4}[hdw]\Z",
        ),
    ] = "3d"  # fmt: skip
    audit_dir: Annotated[
        str,
        _option("Directory of the audit of page and MCP server, a file a day (docs/web.md); empty: standard error."),
    ] = ""
    audit_retention: Annotated[
        str,
        _option(
            "Erase the audit's files that are older than this; empty: never.",
            form="days or weeks, such as 90d", pattern=r"^([1-9][0-9]{0,4}[dw])?\Z",
        ),
    ] = "90d"  # fmt: skip


class Mcp(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The MCP server."""

    tokens_file: Annotated[
        str, _option("File of the tokens of HTTP clients, and of what each may see (docs/mcp.md).")
    ] = ""
    hosts: Annotated[
        tuple[str, ...], _option("Host names that HTTP clients may use for the server, besides its own address.")
    ] = ()
    url: Annotated[
        str,
        _option(
            "Address of the server over HTTP for clients; with oidc.issuer they sign their person in there.",
            form="an http:// or https:// URL without a query", pattern=r"^(https?://[^\s/?#]+[^\s?#]*)?\Z",
        ),
    ] = ""  # fmt: skip
    audience: Annotated[str, _option("Audience that the issuer's access tokens must have; empty: mcp.url.")] = ""
    metrics: Annotated[
        str,
        _option(
            "Address of /metrics, /livez and /readyz of the server over HTTP, such as 127.0.0.1:9188; empty: none.",
            form="HOST:PORT", pattern=r"^(\S+:[0-9]{1,5})?\Z",
        ),
    ] = ""  # fmt: skip
    max_tokens: Annotated[
        int, _option("Approximate maximum tokens in one answer; a client may ask for fewer.", ge=64, le=200000)
    ] = 6000


class Web(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The web page."""

    url: Annotated[
        str,
        _option(
            "Address at which people reach the page, such as https://archive.corp.example.",
            form="an http:// or https:// URL without a query", pattern=r"^(https?://[^\s/?#]+[^\s?#]*)?\Z",
        ),
    ] = ""  # fmt: skip
    message_link: Annotated[
        str,
        _option(
            "Pattern of the messenger's own links, with {chat_id} and {msg_id}; empty: it has none.",
            form="a URL with {msg_id}", pattern=r"^([a-z][a-z0-9+.-]*://\S*\{msg_id\}\S*)?\Z",
        ),
    ] = ""  # fmt: skip
    trusted_proxies: Annotated[
        tuple[str, ...],
        _option("Addresses or networks of the reverse proxies whose user_header is believed."),
    ] = ()
    user_header: Annotated[
        str,
        _option(
            "Header in which these proxies name the person whom they have signed in, by the VK Teams id.",
            form="the name of a header", pattern=r"^[A-Za-z][A-Za-z0-9-]*\Z",
        ),
    ] = "X-Forwarded-User"  # fmt: skip
    administrators: Annotated[
        tuple[str, ...], _option("VK Teams ids of the people who also see the health of the archive.")
    ] = ()
    open_on_loopback: Annotated[
        bool, _option("Show every chat to every user of this machine, without signing in (trials, one's own computer).")
    ] = False


class Oidc(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Signing in by OpenID Connect, to the page and to the MCP server over HTTP."""

    issuer: Annotated[
        str,
        _option(
            "The issuer's URL, exactly as it names itself; empty: nobody signs in this way.",
            form="an http:// or https:// URL", pattern=r"^(https?://[^\s/?#]+\S*)?\Z",
        ),
    ] = ""  # fmt: skip
    client_id: Annotated[str, _option("The page's name at the issuer.")] = ""
    client_secret_file: Annotated[
        str, _option("File of the page's secret at the issuer; empty: a public client, by PKCE alone.")
    ] = ""
    claim: Annotated[str, _option("Claim of the ID token that is the VK Teams id.", min_length=1)] = "email"
    require_verified: Annotated[bool, _option("Admit an email only if the issuer has verified it.")] = True
    users_file: Annotated[
        str, _option("TOML file whose table [users] has the VK Teams ids of those whose claim is another.")
    ] = ""
    admins: Annotated[
        tuple[str, ...], _option("VK Teams ids of the signed-in people who also see the health of the archive.")
    ] = ()


class Log(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The log."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], _option("Lowest level that is logged.", reload=True)
    ] = "info"
    format: Annotated[Literal["text", "json"], _option("Text lines, or one JSON object per line.", reload=True)] = (
        "text"
    )
    target: Annotated[
        Literal["file", "syslog"], _option("Where a detached daemon logs; in the foreground it logs to stderr.")
    ] = "file"


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All options, checked.

    Attributes:
        source: the file that was read.
        instance: the name given with --instance.
        token_source: where the token was taken from, for messages.
    """

    api: Api = Api()
    daemon: Daemon = Daemon()
    storage: Storage = Storage()
    database: Database = Database()
    embedding: Embedding = Embedding()
    search: Search = Search()
    access: Access = Access()
    mcp: Mcp = Mcp()
    web: Web = Web()
    oidc: Oidc = Oidc()
    log: Log = Log()
    source: str = ""
    instance: str = ""
    token_source: str = "api.token"

    @property
    def runtime_dir(self) -> Path:
        """Directory of the PID file, the status file and the bundled database's socket."""
        base = Path("/run/vkteams") if self._system else _user_runtime()
        return Path(self.daemon.runtime_dir) if self.daemon.runtime_dir else base / self.instance

    @property
    def state_dir(self) -> Path:
        """Directory of the bundled database and of the models."""
        base = Path("/var/lib/vkteams") if self._system else _user_state()
        return Path(self.daemon.state_dir) if self.daemon.state_dir else base / self.instance

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
        logs = self._system and not self.daemon.state_dir
        return (Path("/var/log/vkteams") / self.instance if logs else self.state_dir) / f"{self._stem}.log"

    @property
    def models_dir(self) -> Path:
        """The directory that holds one directory per installed model; instances share it."""
        if self.embedding.models_dir:
            return Path(self.embedding.models_dir)
        own = self.state_dir / "models"
        if not self.instance or self.daemon.state_dir or own.is_dir():
            return own  # an instance that has models of its own keeps them
        return own.parent.parent / "models"

    @property
    def only_reads(self) -> bool:
        """Whether it is of people who search: it names the URL of a reading role alone, or is the system's file."""
        theirs = Path(self.source).parent == SYSTEM_DIRECTORY / READERS
        return not self.database.url and (theirs or bool(self.database.read_url))

    @property
    def _system(self) -> bool:
        """Whether this is the system's daemon: root runs it, or its configuration is a file in /etc/vkteams."""
        return os.getuid() == 0 or Path(self.source).parent in (SYSTEM_DIRECTORY, SYSTEM_DIRECTORY / READERS)

    @property
    def _stem(self) -> str:
        return "vkteamsd-embed" if self.daemon.role == "embed" else "vkteamsd"


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table: `[section] key`, with type, default, help and limits."""

    section: str
    key: str
    type: str
    default: Any
    help: str
    limits: str
    reload: bool
    secret: bool

    @property
    def name(self) -> str:
        """`section.key`."""
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"VKTEAMS_{self.section}_{self.key}".upper()

    @property
    def variables(self) -> tuple[str, ...]:
        """Every environment variable that sets it: its own, then its short name, if it has one."""
        return (self.variable, *(alias for alias, variable in ALIASES.items() if variable == self.variable))


ALIASES = {
    "VKTEAMS_BOT_API_TOKEN": "VKTEAMS_API_TOKEN",
    "VKTEAMS_BOT_API_URL": "VKTEAMS_API_URL",
    "VKTEAMS_BOT_CHAT_ID": "VKTEAMS_STORAGE_CHAT_IDS",
    "DATABASE_URL": "VKTEAMS_DATABASE_URL",
}
"""Short names of environment variables, each with the full name that it stands for."""

NOT_OPTIONS = {"VKTEAMS_BOT_CONFIG", "VKTEAMS_DEBUG"}
"""Variables of this program that set no option: the configuration file, and whether errors show their traceback."""

SECTIONS: dict[str, type[msgspec.Struct]] = {
    "api": Api, "daemon": Daemon, "storage": Storage, "database": Database,
    "embedding": Embedding, "search": Search, "access": Access, "mcp": Mcp, "web": Web, "oidc": Oidc, "log": Log,
}  # fmt: skip


@functools.cache
def options() -> tuple[Option, ...]:
    """Every option, in the order of the sections."""
    return tuple(_read_options())


def _read_options() -> Iterator[Option]:
    for section, struct in SECTIONS.items():
        hints = get_type_hints(struct, include_extras=True)
        defaults = struct()
        for key in struct.__struct_fields__:
            kind, meta = get_args(hints[key])
            yield Option(
                section, key, _type_name(kind), getattr(defaults, key), meta.description, _limits(meta),
                meta.extra["reload"], meta.extra["secret"],
            )  # fmt: skip


def _user_runtime() -> Path:
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "vkteams" if base else Path(f"/tmp/vkteams-{os.geteuid()}")


def _user_state() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "vkteams"


def _limits(meta: msgspec.Meta) -> str:
    bounds = [(meta.gt, "above"), (meta.ge, "at least"), (meta.le, "at most")]
    numbers = ", ".join(f"{words} {limit:g}" for limit, words in bounds if limit is not None)
    return numbers or (meta.extra or {})["form"]


def _type_name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " | ".join(get_args(kind))
    if get_origin(kind) in (Union, types.UnionType):
        return " | ".join(_type_name(part) for part in get_args(kind))
    return "list" if get_origin(kind) is tuple else str(kind.__name__)
