"""`vkteamsctl diagnostic`: whether everything is well, who the bot is, and what came last."""

from __future__ import annotations

import argparse
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from vkteams_daemon.config import Config
from vkteams_daemon.ctl import moments
from vkteams_daemon.ctl.output import Answer, Screen, cell
from vkteams_daemon.errors import ConfigError, VkTeamsError

if TYPE_CHECKING:
    from vkteams_daemon.botapi.client import BotClient

_UNHEALTHY = 69
_PATIENCE = 5.0  # seconds a health check waits for one answer of the API


def register(nouns: Any, common: argparse.ArgumentParser) -> None:
    """Add the noun `diagnostic` with its verbs health, self and events."""
    noun = nouns.add_parser("diagnostic", help="is everything well, and what came last", parents=[common])
    verbs = noun.add_subparsers(dest="verb", metavar="VERB", title="verbs", required=True)
    health = verbs.add_parser(
        "health",
        help="the API, the database, the vectors and the daemon: exit code 0, or 69 where one is not well",
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
    events.add_argument("--limit", metavar="N", type=moments.positive, default=20, help="most events (20)")
    events.add_argument("--chat-id", metavar="ID", help="only of this chat")
    events.add_argument("--type", metavar="TYPE", help="only of this type, such as editedMessage")
    events.set_defaults(func=_events)


def _health(args: argparse.Namespace, config: Config) -> Answer:
    problems: list[str] = []
    data: dict[str, Any] = {"api_connection": _api(config, problems)}
    data["database"], data["vector_store"] = _database(config, problems)
    data["daemon"] = _daemon(config, problems)
    data["problems"] = problems

    def render(screen: Screen) -> None:
        for name in ("api_connection", "database", "vector_store"):
            screen.pairs([(name.ljust(14), data[name])])
        daemon = data["daemon"]
        screen.pairs([("daemon".ljust(14), f"{daemon['status']}, last activity {cell(daemon['last_activity'])}")])
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
    from vkteams_daemon.store import maintenance
    from vkteams_daemon.store.database import Database

    database = Database(config, application="vkteamsctl")
    try:
        database.open(migrate=False)
        with database.connection() as connection:
            vectors = maintenance.vector_store(connection)
    except VkTeamsError as error:
        problems.append(f"database: {error}")
        return "failed", "failed"
    finally:
        database.close()
    if vectors.extension is None:
        problems.append("vector store: the extension vector is not installed in the database")
        return "ok", "failed"
    if vectors.model is None:
        return "ok", "off"
    return "ok", "ok" if vectors.indexed else "unindexed"


def _daemon(config: Config, problems: list[str]) -> dict[str, Any]:
    raise NotImplementedError


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
    from vkteams_daemon.store import maintenance
    from vkteams_daemon.store.database import Database

    database = Database(config, application="vkteamsctl")
    try:
        database.open(migrate=False)
        with database.connection() as connection:
            rows = maintenance.last_events(connection, limit=args.limit, chat_id=args.chat_id, event_type=args.type)
    finally:
        database.close()

    def render(screen: Screen) -> None:
        if not rows:
            screen.line("the archive has no such event")
            return
        screen.table(
            ("event", "received", "type", "chat", "user", "payload"),
            [(e.event_id, e.received_at, e.type, e.chat_id, e.user_id, _short(e.payload)) for e in rows],
        )

    return Answer({"rows": rows}, render, ids=[f"{e.bot_id} {e.event_id}" for e in rows])


def _short(payload: Any) -> str:
    text = payload.get("text") if isinstance(payload, dict) else None
    shown = text if isinstance(text, str) else json.dumps(payload, ensure_ascii=False)
    return shown if len(shown) <= 60 else shown[:59] + "…"


def _later(moments_: list[datetime | None]) -> datetime | None:
    return max((moment for moment in moments_ if moment), default=None)
