"""`vkteamsctl context`: conversations as they went, one message with its thread, and who and what there is."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from vkteams_daemon.config import Config
from vkteams_daemon.ctl import argument_types
from vkteams_daemon.ctl.commands.context.conversation_view import show
from vkteams_daemon.ctl.output import Answer, Screen, cell, plain
from vkteams_daemon.errors import UsageError

if TYPE_CHECKING:
    from vkteams_daemon.search.history.results import Context, Profile
    from vkteams_daemon.search.messages import ArchivedMessage, MessageWithThread

_TYPES = ("recent", "topic", "user-profile")
_LEAST, _MOST = 200, 200_000
_OPTIONS = {"msg_id": "--around", "query": "--query", "user_id": "--user-id", "timeframe": "--timeframe"}
_HELP = "See `vkteamsctl context get --help`."


def register(nouns: Any, common: argparse.ArgumentParser) -> None:
    """Add the noun `context` with its verbs get, message, chats and users."""
    noun = nouns.add_parser("context", help="conversations as they went, and who took part", parents=[common])
    verbs = noun.add_subparsers(dest="verb", metavar="VERB", title="verbs", required=True)
    get = verbs.add_parser(
        "get",
        help="what was said of late, on a topic, by a person or around a message, in so many tokens",
        parents=[common],
        epilog="examples:\n  vkteamsctl context get --chat-id 681869378@chat.agent --timeframe 8h\n"
        "  vkteamsctl context get --context-type topic --query 'сбой оплаты' --max-tokens 2000\n"
        "  vkteamsctl context get --context-type user-profile --user-id a.ivanova@corp.example --timeframe 30d\n"
        "  vkteamsctl context get --around 7576322310174586465",
    )
    get.add_argument("--chat-id", metavar="ID", action="append", help="only this chat and its threads; may be repeated")
    get.add_argument("--context-type", choices=_TYPES, metavar="TYPE", help="recent (default), topic or user-profile")
    get.add_argument("--timeframe", metavar="AGE", type=argument_types.age, help="how far back from now; recent: 2h")
    get.add_argument("--around", metavar="MSGID", help="this message's thread, then its neighbours in time")
    get.add_argument("--query", metavar="QUERY", help="what the topic is")
    get.add_argument("--user-id", metavar="ID", help="whose profile; of a topic, only what this person said of it")
    get.add_argument(
        "--max-tokens", metavar="N", type=argument_types.positive, help="most tokens of the answer, about (4000)"
    )
    get.set_defaults(func=_get)
    message = verbs.add_parser(
        "message",
        help="one message, what it answers, what answers it, and so on",
        parents=[common],
        epilog="example:\n  vkteamsctl context message 7576322310174586465 --output json",
    )
    message.add_argument("message", metavar="MSGID", help="its id")
    message.add_argument("--chat-id", metavar="ID", help="its chat, where several have such a message")
    message.set_defaults(func=_message)
    for name, line in (("chats", "the chats, the one that spoke last first"), ("users", "who spoke, the last first")):
        verb = verbs.add_parser(
            name, help=line, parents=[common], epilog=f"example:\n  vkteamsctl context {name} --since 7d"
        )
        verb.add_argument("--chat-id", metavar="ID", action="append", help="only this chat; may be repeated")
        verb.add_argument(
            "--since", metavar="TIME", type=argument_types.since, help="count only from then on: 2h, 2026-11-24"
        )
        verb.add_argument("--limit", metavar="N", type=argument_types.positive, help="most rows")
        verb.set_defaults(func=_chats if name == "chats" else _users)


def _get(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.search.archive import Archive
    from vkteams_daemon.search.history import token_budget
    from vkteams_daemon.search.history.context_kind import resolve_kind

    most = args.max_tokens or token_budget.MOST
    if not _LEAST <= most <= _MOST:
        raise UsageError(f"--max-tokens: {most} is out of range", hint=f"At least {_LEAST}, at most {_MOST}.")
    arguments = {"msg_id": args.around, "query": args.query, "user_id": args.user_id, "timeframe": args.timeframe}
    kind = resolve_kind(args.context_type, arguments, _OPTIONS, _HELP)
    with Archive(config) as archive:
        chats = archive.existing(args.chat_id, threads=True, user_id=args.user_id)
        message = (archive.chat_of(args.around, chat_ids=chats), args.around) if args.around else None
        found = archive.context(
            kind,
            chat_ids=chats,
            timeframe=args.timeframe,
            query=args.query,
            user_id=args.user_id,
            message=message,
            max_tokens=most,
            cost=token_budget.as_read if getattr(args, "output", "table") == "table" else _as_json,
        )
    said = [message for conversation in found.conversations for message in conversation.messages]
    return Answer(found, lambda screen: _show(screen, found), ids=[f"{s.chat_id} {s.msg_id}" for s in said])


def _as_json(said: ArchivedMessage) -> int:
    from vkteams_daemon.search.history.token_budget import tokens

    return tokens(json.dumps(plain(said), ensure_ascii=False))


def _message(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.search.archive import Archive

    with Archive(config) as archive:
        chat_id = args.chat_id or archive.chat_of(args.message)
        found = archive.message(chat_id, args.message)

    def render(screen: Screen) -> None:
        screen.line(f"{found.chat_title or chat_id} · {chat_id}", "bold")
        show(screen, _together(found), chat_id, {args.message})

    return Answer(found, render, ids=[f"{said.chat_id} {said.msg_id}" for said in _together(found)])


def _together(found: MessageWithThread) -> list[ArchivedMessage]:
    return sorted([found.message, *found.thread], key=lambda said: (said.sent_at, said.msg_id))


def _chats(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.search.archive import Archive

    with Archive(config) as archive:
        rows = archive.chats(chat_ids=archive.existing(args.chat_id), since=args.since, limit=args.limit)

    def render(screen: Screen) -> None:
        screen.table(
            ("chat", "type", "title", "messages", "authors", "last"),
            [(c.chat_id, "thread" if c.parent_msg_id else c.type, c.title, c.messages, c.users, c.last_message_at)
             for c in rows],
            free=("title",),
        )  # fmt: skip

    return Answer({"rows": rows}, render, ids=[chat.chat_id for chat in rows])


def _users(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.search.archive import Archive

    with Archive(config) as archive:
        rows = archive.users(chat_ids=archive.existing(args.chat_id), since=args.since, limit=args.limit)

    def render(screen: Screen) -> None:
        screen.table(
            ("user", "name", "bot", "messages", "chats", "last"),
            [(u.user_id, u.name, u.is_bot, u.messages, u.chats, u.last_message_at) for u in rows],
            free=("name",),
        )

    return Answer({"rows": rows}, render, ids=[user.user_id for user in rows])


def _show(screen: Screen, found: Context) -> None:
    if found.profile:
        _show_profile(screen, found.profile)
    if found.note and found.conversations:
        screen.line(found.note, "yellow")
    for conversation in found.conversations:
        screen.line(f"{conversation.chat_title or conversation.chat_id} · {conversation.chat_id}", "bold")
        if conversation.left_out:
            screen.line(f"  … {_counted(conversation.left_out)} left out", "yellow")
        show(screen, conversation.messages, conversation.chat_id, set(conversation.matches))
    shown = sum(len(conversation.messages) for conversation in found.conversations)
    elsewhere = found.left_out - sum(conversation.left_out for conversation in found.conversations)
    parts = [_counted(shown) if found.conversations else found.note or _counted(shown), f"about {found.tokens} tokens"]
    if found.cut:
        parts.append("cut to fit; --max-tokens gives more room")
    if elsewhere:
        parts.append(f"{_counted(elsewhere)} of other chats and threads left out")
    screen.line(" · ".join(parts), "dim")


def _show_profile(screen: Screen, profile: Profile) -> None:
    where = [f"{place.chat_title or place.chat_id} ({place.messages})" for place in profile.places]
    if profile.chats > len(where):
        where.append(f"and {profile.chats - len(where)} more")
    screen.pairs((
        ("person", f"{profile.name or profile.user_id} · {profile.user_id}"),
        ("messages", f"{profile.messages}, {cell(profile.first_at)} to {cell(profile.last_at)}"),
        ("chats", ", ".join(where)),
    ))  # fmt: skip


def _counted(messages: int) -> str:
    return f"{messages} message{'' if messages == 1 else 's'}"
