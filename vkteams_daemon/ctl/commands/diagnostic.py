"""`vkteamsctl diagnostic`: the health of every part, the bot of the token, and the newest events."""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vkteams_daemon.config import Config
from vkteams_daemon.ctl import argument_types
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.connections import open_archive, open_connection, refuse_reader
from vkteams_daemon.ctl.output import Answer, Screen, cell, size
from vkteams_daemon.daemon.health import DaemonHealth, read_health
from vkteams_daemon.daemon.status import Spool
from vkteams_daemon.errors import ConfigError, VkTeamsError

if TYPE_CHECKING:
    from vkteams_daemon.botapi.client import BotInfo

_UNHEALTHY = 69
_API_TIMEOUT = 5.0  # seconds a health check waits for one answer of the API
_MIN_FREE = 256 * 2**20  # bytes; PostgreSQL, the log and the status file must be able to grow for a while
_MAX_NOBODYS = 10  # chats in the table; JSON has all of them
_HEALTHY_STATES = ("running", "standby", "starting")


def register(noun: Noun) -> None:
    """Add the verbs health, access, self and events."""
    noun.verb(
        "health",
        "check API, database, vectors, daemon, model and disk: exit code 0, or 69 if one is not well",
        _health,
        "vkteamsctl diagnostic health --output json",
    )
    access = noun.verb(
        "access",
        "the chats that a person may see, on the page or by a token; and those that nobody sees",
        _access,
        "vkteamsctl diagnostic access a.ivanova@corp.example",
    )
    access.add_argument("user", metavar="USER", help="the person's VK Teams id")
    noun.verb("self", "the bot of the token, as the Bot API describes it", _self, "vkteamsctl diagnostic self")
    events = noun.verb(
        "events",
        "the newest events of the archive, as received; the Bot API is not asked",
        _events,
        "vkteamsctl diagnostic events --limit 5 --type newMessage --output jsonl",
    )
    events.add_argument("--limit", metavar="N", type=argument_types.positive, default=20, help="most events (20)")
    events.add_argument("--chat-id", metavar="ID", help="only events of this chat")
    events.add_argument("--type", metavar="TYPE", help="only events of this type, for example editedMessage")


def _health(args: argparse.Namespace, config: Config) -> Answer:
    problems: list[str] = []
    health = read_health(config)
    data: dict[str, Any] = {"api_connection": _api(config, health, problems)}
    data["database"], data["vector_store"], data["gaps"] = _database(config, problems)
    data["daemon"] = daemon = _daemon(health, problems)
    data["retention"] = _retention(health, problems)
    data["spool"] = _spool(config, health, problems)
    data["model"] = _model(config, health, problems)
    data["disk"] = disk = _disk(config, problems)
    data["nobodys_chats"] = nobodys = _nobodys_chats(config, data["database"], problems)
    data["problems"] = problems

    def render(screen: Screen) -> None:
        pairs = [(name, data[name]) for name in ("api_connection", "database", "vector_store", "model")]
        pairs.append(("daemon", f"{daemon['status']}, last activity {cell(daemon['last_activity'])}"))
        pairs.append(("gaps", data["gaps"]))
        pairs.append(("spool", f"{data['spool']['events']} events"))
        pairs += [("disk", f"{size(place['free'])} free of {size(place['total'])}, {place['path']}") for place in disk]
        pairs.append(("nobody's chats", cell(None if nobodys is None else len(nobodys))))
        pairs += [("", f"{chat['chat_id']}: {chat['reason']}") for chat in (nobodys or [])[:_MAX_NOBODYS]]
        screen.pairs(pairs)
        for problem in problems:
            screen.line(problem, "red")

    return Answer(data, render, _UNHEALTHY if problems else 0, "; ".join(problems) or None)


def _api(config: Config, health: DaemonHealth, problems: list[str]) -> str:
    """`ok`, `failed`, or `off`. People who search have no token: for them it is what the daemon says of the API."""
    if config.only_reads:
        return "ok" if health.alive and health.status and health.status.api.state == "ok" else "failed"
    if config.daemon.role == "embed" and not config.api.token:
        return "off"
    try:
        _bot(config, limit=_API_TIMEOUT)
    except VkTeamsError as error:
        problems.append(f"api: {error}")
        return "failed"
    return "ok"


def _database(config: Config, problems: list[str]) -> tuple[str, str, int | None]:
    """The states of the database (ok, failed) and of its vectors (ok, off, unindexed, failed); the number of gaps."""
    from vkteams_daemon.store import server_check
    from vkteams_daemon.store.embedding_models import vector_store
    from vkteams_daemon.store.gaps import id_span, list_gaps

    try:
        with open_connection(config, reads=True) as connection:
            vectors = vector_store(connection)
            weaknesses = server_check.problems(connection)
            gaps = list_gaps(connection)
    except VkTeamsError as error:
        problems.append(f"database: {error}")
        return "failed", "failed", None
    problems += [f"database: {weakness}" for weakness in weaknesses]
    problems += [
        f"gap {gap.gap_id}: events of bot {gap.bot_id}{id_span(gap)} {'may be' if gap.to_event_id is None else 'are'}"
        f" missing: {gap.reason}; see `vkteamsctl database gaps`"
        for gap in gaps
    ]
    database = "failed" if weaknesses else "ok"
    if vectors.extension is None:
        problems.append("vector store: the extension vector is not installed in the database")
        return database, "failed", len(gaps)
    if not vectors.models:
        return database, "off", len(gaps)
    return database, "ok" if vectors.indexed else "unindexed", len(gaps)


def _nobodys_chats(config: Config, database: str, problems: list[str]) -> list[dict[str, str]] | None:
    """The chats that no person sees through a roster, and why; None if the database does not answer."""
    try:
        with open_archive(config) as archive:
            return [{"chat_id": chat.chat_id, "reason": chat.reason} for chat in archive.nobodys_chats()]
    except VkTeamsError as error:
        if database == "ok":  # else the check of the database has said why; on a cluster it has asked one machine
            problems.append(f"database: {error}")
        return None


def _daemon(health: DaemonHealth, problems: list[str]) -> dict[str, Any]:
    if health.state not in _HEALTHY_STATES:
        problems.append(f"daemon: {health.state}{f': {health.error}' if health.error else ''}")
    if health.alive and health.status:
        problems += [f"daemon: {warning}" for warning in health.status.warnings]
        failures = (health.status.database.last_error, health.status.api.last_error)
        problems += [f"daemon: {failure}" for failure in failures if failure]
    return health.summary()


def _spool(config: Config, health: DaemonHealth, problems: list[str]) -> dict[str, Any]:
    """What waits in the spool, as the daemon says, and the spools that were put aside."""
    spool = health.status.spool if health.status else Spool()
    if spool.backlog:
        problems.append(f"spool: {spool.backlog}")
    if spool.last_error:
        problems.append(f"spool: {spool.last_error}")
    aside = sorted(str(path) for path in config.state_dir.glob("*.spool.aside-*"))
    problems += [f"spool: {path} was put aside; its events may be stored nowhere else" for path in aside]
    return {"events": spool.events, "bytes": spool.bytes, "since": spool.since, "aside": aside}


def _retention(health: DaemonHealth, problems: list[str]) -> str:
    """`ok`, `off` if nothing is erased by age, `refused` or `failing`."""
    retention = health.status.retention if health.status else None
    if retention is None or retention.state is None:
        return "off"
    if retention.last_error:
        problems.append(f"retention: {retention.last_error}")
    return retention.state


def _model(config: Config, health: DaemonHealth, problems: list[str]) -> str:
    """`ok`, `off` if no model is chosen, or `failed`. For people who search: what the daemon says of its models."""
    if config.only_reads:
        state = health.status.embedding.state if health.alive and health.status else None
        if state == "failing":
            problems.append("model: the daemon's embedding workers fail")
        return state if state in ("ok", "off") else "failed"
    from vkteams_daemon.embedding import catalogue, model_info

    try:
        names = catalogue.chosen_names(config)
        for name in names:
            model_info.check_sizes(model_info.read(catalogue.find_directory(config.models_dir, name)))
    except VkTeamsError as error:
        problems.append(f"model: {error}")
        return "failed"
    return "ok" if names else "off"


def _disk(config: Config, problems: list[str]) -> list[dict[str, Any]]:
    """The file systems that the daemon writes to."""
    places: dict[int, dict[str, Any]] = {}
    for directory in (config.state_dir, config.log_file.parent, config.runtime_dir):
        path = next((path for path in (directory, *directory.parents) if path.exists()), Path("/"))
        total, _, free = shutil.disk_usage(path)
        if path.stat().st_dev in places:
            continue
        places[path.stat().st_dev] = {"path": str(directory), "free": free, "total": total}
        if free < min(_MIN_FREE, total // 10):
            problems.append(f"disk: only {size(free)} are free for {directory}")
    return list(places.values())


def _access(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.access import Access

    with open_archive(config) as archive:
        seen = archive.seen_by(Access(args.user, user=args.user))
        chats = seen.chats()
        rows: list[dict[str, Any]] = [
            {"chat_id": chat.chat_id, "title": chat.title, "messages": chat.messages, "periods": [
                {"since": period.start, "until": period.end} for period in seen.periods_of(chat.chat_id)
            ]}
            for chat in chats
        ]  # fmt: skip
        nobodys = archive.nobodys_chats()

    def render(screen: Screen) -> None:
        if not rows:
            screen.line(f"{args.user} sees no message of any chat", "yellow")
        else:
            screen.table(
                ("chat", "title", "messages", "sees"),
                [(row["chat_id"], row["title"], row["messages"], _times(row["periods"])) for row in rows],
                free=("title", "sees"),
            )
        for chat in nobodys:
            screen.line(f"nobody sees {chat.chat_id}: {chat.reason}", "dim")

    data = {"user_id": args.user, "rows": rows,
            "nobodys_chats": [{"chat_id": chat.chat_id, "reason": chat.reason} for chat in nobodys]}  # fmt: skip
    return Answer(data, render, ids=[chat.chat_id for chat in chats])


def _times(periods: list[dict[str, Any]]) -> str:
    """The periods in words."""
    spans = []
    for period in periods:
        since = f"since {cell(period['since'])}" if period["since"] else "from the beginning"
        spans.append(f"{since} until {cell(period['until'])}" if period["until"] else since)
    return "; ".join(spans) or "everything"


def _self(args: argparse.Namespace, config: Config) -> Answer:
    bot, url = _bot(config)
    data = {"user_id": bot.user_id, "nick": bot.nick, "first_name": bot.first_name, "url": url}
    return Answer(data, ids=[bot.user_id])


def _bot(config: Config, limit: float = math.inf) -> tuple[BotInfo, str]:
    """The bot of the token, and the URL that was asked; `limit` is the most seconds to wait for the API."""
    refuse_reader(config)
    if not config.api.token:
        raise ConfigError("api.token: it is not set", hint="Set it, token_file or VKTEAMS_BOT_API_TOKEN.")
    from vkteams_daemon.botapi.client import make_client

    client = make_client(config, limit)
    try:
        return client.self_get(), client.url
    finally:
        client.close()


def _events(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.search.scope import spelled_chats
    from vkteams_daemon.store.admin import stored_events

    with open_connection(config, reads=True) as connection:
        (chat_id,) = spelled_chats(connection, [args.chat_id]) if args.chat_id else (None,)
        rows = stored_events.last_events(connection, limit=args.limit, chat_id=chat_id, event_type=args.type)

    def render(screen: Screen) -> None:
        if not rows:
            screen.line("the archive has no such event")
            return
        screen.table(
            ("event", "received", "type", "chat", "user", "payload"),
            [(e.event_id, e.received_at, e.type, e.chat_id, e.user_id, _short(e.payload)) for e in rows],
            free=("payload",),
        )

    return Answer({"rows": rows}, render, ids=[f"{e.bot_id} {e.event_id}" for e in rows])


def _short(payload: Any) -> str:
    text = payload.get("text") if isinstance(payload, dict) else None
    line = text if isinstance(text, str) else json.dumps(payload, ensure_ascii=False)
    return line if len(line) <= 60 else line[:59] + "…"
