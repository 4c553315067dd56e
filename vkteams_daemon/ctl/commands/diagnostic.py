"""`vkteamsctl diagnostic`: whether everything is well, who the bot is, and what came last."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vkteams_daemon.config import Config
from vkteams_daemon.ctl import argument_types
from vkteams_daemon.ctl.opening import opened
from vkteams_daemon.ctl.output import Answer, Screen, cell, size
from vkteams_daemon.errors import ConfigError, VkTeamsError

if TYPE_CHECKING:
    from vkteams_daemon.botapi.client import BotClient

_UNHEALTHY = 69
_PATIENCE = 5.0  # seconds a health check waits for one answer of the API
_LEAST_FREE = 256 * 2**20  # bytes; PostgreSQL, the log and the status file must be able to grow for a while
_WELL = ("running", "standby", "starting")


def register(nouns: Any, common: argparse.ArgumentParser) -> None:
    """Add the noun `diagnostic` with its verbs health, self and events."""
    noun = nouns.add_parser("diagnostic", help="is everything well, and what came last", parents=[common])
    verbs = noun.add_subparsers(dest="verb", metavar="VERB", title="verbs", required=True)
    health = verbs.add_parser(
        "health",
        help="the API, database, vectors, daemon, model and disk: exit code 0, or 69 where one is not well",
        parents=[common],
        epilog="example:\n  vkteamsctl diagnostic health --output json",
    )
    health.set_defaults(func=_health)
    own = verbs.add_parser(
        "self",
        help="who the token belongs to, as the Bot API says",
        parents=[common],
        epilog="example:\n  vkteamsctl diagnostic self",
    )
    own.set_defaults(func=_self)
    events = verbs.add_parser(
        "events",
        help="the newest events of the archive, as they came; never asks the Bot API",
        parents=[common],
        epilog="example:\n  vkteamsctl diagnostic events --limit 5 --type newMessage --output jsonl",
    )
    events.add_argument("--limit", metavar="N", type=argument_types.positive, default=20, help="most events (20)")
    events.add_argument("--chat-id", metavar="ID", help="only of this chat")
    events.add_argument("--type", metavar="TYPE", help="only of this type, such as editedMessage")
    events.set_defaults(func=_events)


def _health(args: argparse.Namespace, config: Config) -> Answer:
    problems: list[str] = []
    data: dict[str, Any] = {"api_connection": _api(config, problems)}
    data["database"], data["vector_store"] = _database(config, problems)
    data["daemon"] = daemon = _daemon(config, problems)
    data["model"] = _model(config, problems)
    data["disk"] = disk = _disk(config, problems)
    data["problems"] = problems

    def render(screen: Screen) -> None:
        pairs = [(name, data[name]) for name in ("api_connection", "database", "vector_store", "model")]
        pairs.append(("daemon", f"{daemon['status']}, last activity {cell(daemon['last_activity'])}"))
        pairs += [("disk", f"{size(place['free'])} free of {size(place['total'])}, {place['path']}") for place in disk]
        screen.pairs(pairs)
        for problem in problems:
            screen.line(problem, "red")

    return Answer(data, render, _UNHEALTHY if problems else 0, "; ".join(problems) or None)


def _api(config: Config, problems: list[str]) -> str:
    if config.daemon.role == "embed" and not config.api.token:
        return "off"
    try:
        client = _client(config, patience=_PATIENCE)
        try:
            client.self_get()
        finally:
            client.close()
    except VkTeamsError as error:
        problems.append(f"api: {error}")
        return "failed"
    return "ok"


def _database(config: Config, problems: list[str]) -> tuple[str, str]:
    """The states of the database and of the vectors in it: ok, failed; of the vectors also off and unindexed."""
    from vkteams_daemon.store.models import vector_store

    try:
        with opened(config) as database, database.connection() as connection:
            vectors = vector_store(connection)
    except VkTeamsError as error:
        problems.append(f"database: {error}")
        return "failed", "failed"
    if vectors.extension is None:
        problems.append("vector store: the extension vector is not installed in the database")
        return "ok", "failed"
    if vectors.model is None:
        return "ok", "off"
    return "ok", "ok" if vectors.indexed else "unindexed"


def _daemon(config: Config, problems: list[str]) -> dict[str, Any]:
    from vkteams_daemon.daemon.health import probe

    condition = probe(config)
    if condition.state not in _WELL:
        problems.append(f"daemon: {condition.state}{f': {condition.error}' if condition.error else ''}")
    return condition.summary()


def _model(config: Config, problems: list[str]) -> str:
    """`ok`, `off` where none is wanted, or `failed`."""
    from vkteams_daemon.embedding import catalogue, manifest

    try:
        name = catalogue.chosen(config)
        if name is None:
            return "off"
        manifest.check_sizes(manifest.read(catalogue.find(config.models_dir, name)))
    except VkTeamsError as error:
        problems.append(f"model: {error}")
        return "failed"
    return "ok"


def _disk(config: Config, problems: list[str]) -> list[dict[str, Any]]:
    """The file systems that the daemon writes to."""
    places: dict[int, dict[str, Any]] = {}
    for directory in (config.state_dir, config.log_file.parent, config.runtime_dir):
        path = next((path for path in (directory, *directory.parents) if path.exists()), Path("/"))
        total, _, free = shutil.disk_usage(path)
        if path.stat().st_dev in places:
            continue
        places[path.stat().st_dev] = {"path": str(directory), "free": free, "total": total}
        if free < min(_LEAST_FREE, total // 10):
            problems.append(f"disk: {size(free)} are left for {directory}")
    return list(places.values())


def _self(args: argparse.Namespace, config: Config) -> Answer:
    client = _client(config)
    try:
        info = client.self_get()
    finally:
        client.close()
    data = {"user_id": info.user_id, "nick": info.nick, "first_name": info.first_name, "url": client.url}
    return Answer(data, ids=[info.user_id])


def _client(config: Config, patience: float | None = None) -> BotClient:
    if not config.api.token:
        raise ConfigError("api.token: it is not set", hint="Set it, token_file or VKTEAMS_BOT_API_TOKEN.")
    from vkteams_daemon.botapi.client import BotClient

    api = config.api
    return BotClient(
        api.url,
        api.token,
        connect_timeout=min(api.connect_timeout, patience or api.connect_timeout),
        read_margin=min(api.read_margin, patience or api.read_margin),
        ca_file=api.ca_file,
        proxy=api.proxy,
    )


def _events(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.store.admin import stored_events

    with opened(config) as database, database.connection() as connection:
        rows = stored_events.last_events(connection, limit=args.limit, chat_id=args.chat_id, event_type=args.type)

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
    shown = text if isinstance(text, str) else json.dumps(payload, ensure_ascii=False)
    return shown if len(shown) <= 60 else shown[:59] + "…"
