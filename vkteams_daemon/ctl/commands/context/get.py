"""`vkteamsctl context get`: conversations that fit into a token budget."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from vkteams_daemon import times
from vkteams_daemon.config import Config
from vkteams_daemon.ctl import argument_types, filters
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.commands.context.conversation_view import show_conversation
from vkteams_daemon.ctl.connections import open_archive
from vkteams_daemon.ctl.output import Answer, Screen, cell, plain
from vkteams_daemon.errors import UsageError

if TYPE_CHECKING:
    from vkteams_daemon.search.history.results import Context, Profile
    from vkteams_daemon.search.messages import ArchivedMessage

_TYPES = ("recent", "topic", "user-profile")
_MIN_TOKENS, _MAX_TOKENS = 200, 200_000
_OPTIONS = {"msg_id": "--around", "query": "--query", "user_id": "--user-id", "timeframe": "--timeframe"}
_HINT = "See `vkteamsctl context get --help`."


def register(noun: Noun) -> None:
    """Add the verb get."""
    get = noun.verb(
        "get",
        "recent conversations, a topic, what a person said, or the surroundings of a message",
        _get,
        "vkteamsctl context get --chat-id 681869378@chat.agent --timeframe 8h",
        "vkteamsctl context get --context-type topic --query 'сбой оплаты' --max-tokens 2000",
        "vkteamsctl context get --context-type user-profile --user-id a.ivanova@corp.example --timeframe 30d",
        "vkteamsctl context get --context-type user-profile --user 'Анна Иванова'",
        "vkteamsctl context get --around 7576322310174586465",
    )
    filters.add_chat_ids_with_threads(get)
    get.add_argument("--context-type", choices=_TYPES, metavar="TYPE", help="recent (default), topic or user-profile")
    get.add_argument("--timeframe", metavar="AGE", type=times.parse_age, help="how far back from now; 2h for recent")
    filters.add_span(get)
    get.add_argument("--around", metavar="MSGID", help="the thread of this message, then its neighbours in time")
    get.add_argument("--query", metavar="QUERY", help="the topic")
    get.add_argument("--user-id", metavar="ID", help="the person; with a topic, only what this person said about it")
    filters.add_names(get)
    add_max_tokens(get)


def add_max_tokens(verb: argparse.ArgumentParser) -> None:
    """Add --max-tokens."""
    verb.add_argument(
        "--max-tokens", metavar="N", type=argument_types.positive, help="about the most tokens of the answer (4000)"
    )


def token_limit(args: argparse.Namespace) -> int:
    """The tokens that the answer may have.

    Raises:
        UsageError: --max-tokens is out of range.
    """
    from vkteams_daemon.search.history import token_budget

    limit: int = args.max_tokens or token_budget.DEFAULT_TOKENS
    if not _MIN_TOKENS <= limit <= _MAX_TOKENS:
        raise UsageError(
            f"--max-tokens: {limit} is out of range", hint=f"At least {_MIN_TOKENS}, at most {_MAX_TOKENS}."
        )
    return limit


def token_cost(args: argparse.Namespace) -> Callable[[ArchivedMessage], int]:
    """How many tokens a message takes in the output mode."""
    from vkteams_daemon.search.history import token_budget

    return token_budget.line_cost if getattr(args, "output", "table") == "table" else _json_cost


def _get(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.search.history.context_kind import resolve_kind

    max_tokens = token_limit(args)
    times.check_span(args.since, args.until)
    user = args.user_id if args.user is None else args.user
    arguments = {"msg_id": args.around, "query": args.query, "user_id": user, "timeframe": args.timeframe}
    kind = resolve_kind(args.context_type, arguments, _OPTIONS, _HINT)
    with open_archive(config) as archive:
        named = filters.take_names(args, archive)
        chats = archive.existing(args.chat_id, threads=True)
        centre = (archive.chat_of(args.around, chat_ids=chats), args.around) if args.around else None
        context = archive.context(
            kind,
            chat_ids=chats,
            since=args.since,
            until=args.until,
            timeframe=args.timeframe,
            query=args.query,
            user_id=args.user_id,
            message=centre,
            max_tokens=max_tokens,
            cost=token_cost(args),
        )
    return answer(replace(context, named=named))


def answer(context: Context, *, ids: bool = True) -> Answer:
    """The conversations as an answer; people see the ids of chats and matches with `ids`."""
    messages = [message for conversation in context.conversations for message in conversation.messages]
    return Answer(
        context, lambda screen: _show(screen, context, ids=ids), ids=[f"{m.chat_id} {m.msg_id}" for m in messages]
    )


def _json_cost(message: ArchivedMessage) -> int:
    """The tokens of a message as JSON."""
    from vkteams_daemon.search.history.token_budget import tokens

    return tokens(json.dumps(plain(message), ensure_ascii=False))


def _show(screen: Screen, context: Context, *, ids: bool) -> None:
    from vkteams_daemon.search.messages import titled

    if context.profile:
        _show_profile(screen, context.profile)
    for sentence in context.named:
        screen.prose(sentence, "dim")
    if context.note and context.conversations:
        screen.prose(context.note, "yellow")
    for conversation in context.conversations:
        title = titled(conversation.chat_title or conversation.chat_id, conversation.thread)
        screen.prose(f"{title} · {conversation.chat_id}" if ids else title, "bold", further="  ")
        if conversation.left_out:
            screen.line(f"  … {_counted(conversation.left_out)} left out", "yellow")
        show_conversation(
            screen, conversation.messages, conversation.chat_id, set(conversation.matches), ids=ids,
            thread=conversation.thread is not None,
        )  # fmt: skip
    count = sum(len(conversation.messages) for conversation in context.conversations)
    elsewhere = context.left_out - sum(conversation.left_out for conversation in context.conversations)
    parts = [_counted(count) if context.conversations else context.note or _counted(count)]
    parts.append(f"about {context.tokens} tokens")
    if context.cut:
        parts.append("shortened to fit; raise --max-tokens to see more")
    if elsewhere:
        parts.append(f"{_counted(elsewhere)} of other chats and threads left out")
    screen.prose(" · ".join(parts), "dim")


def _show_profile(screen: Screen, profile: Profile) -> None:
    chats = [f"{place.chat_title or place.chat_id} ({place.messages})" for place in profile.places]
    if profile.chats > len(chats):
        chats.append(f"and {profile.chats - len(chats)} more")
    screen.pairs((
        ("person", f"{profile.name or profile.user_id} · {profile.user_id}"),
        ("messages", f"{profile.messages}, {cell(profile.first_at)} to {cell(profile.last_at)}"),
        ("chats", ", ".join(chats)),
    ))  # fmt: skip


def _counted(messages: int) -> str:
    return f"{messages} message{'' if messages == 1 else 's'}"
