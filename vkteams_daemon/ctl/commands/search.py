"""`vkteamsctl search`: messages by their words, by their meaning, or by both."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from vkteams_daemon import times
from vkteams_daemon.config import Config
from vkteams_daemon.ctl import argument_types, filters, hits_view, short_cursors
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.connections import open_archive
from vkteams_daemon.ctl.output import Answer
from vkteams_daemon.daemon.status import read_backlog
from vkteams_daemon.errors import UsageError

if TYPE_CHECKING:
    from vkteams_daemon.search.results import Mode

_MAX_HITS = 1000
_KINDS = ("file", "image", "video", "voice", "link", "mention")
_MAX_CONTEXT = 50


def register(noun: Noun) -> None:
    """Add the verbs hybrid, semantic and text."""
    hybrid = noun.verb(
        "hybrid",
        "by words and by meaning, with the conversations of the best hits; try this first",
        _search,
        "vkteamsctl search hybrid 'why was the release late'",
        "vkteamsctl search hybrid 'сбой оплаты' --since 7d --context 3 --explain",
    )
    semantic = noun.verb(
        "semantic",
        "by meaning: messages that say the same in other words",
        _search,
        "vkteamsctl search semantic 'why was the release late' --since 2026-11-01",
    )
    text = noun.verb(
        "text",
        'by words, in any of their forms: all of them, "a phrase", -without, this OR that',
        _search,
        "vkteamsctl search text 'сервер OR база -тест' --since 7d",
        "vkteamsctl search text '\"connection refused\"' --chat-id 681869378@chat.agent --limit 20",
    )
    for verb in (hybrid, semantic, text):
        verb.add_argument("query", metavar="QUERY", help="words or a question; quote it")
        add_options(verb)
        verb.set_defaults(recency=None, deleted=False)
    text.add_argument(
        "--deleted", action="store_true", help="only deleted messages, if their text is kept (storage.on_delete)"
    )
    hybrid.add_argument(
        "--recency", metavar="AGE", type=times.parse_age, help="a message of this age counts half: 12h, 30d"
    )


def add_options(verb: argparse.ArgumentParser) -> None:
    """Add the filters and the view of a search."""
    filters.add_chat_ids(verb)
    filters.add_author_and_time(verb)
    filters.add_names(verb)
    verb.add_argument("--limit", metavar="N", type=argument_types.positive, help="most hits (search.limit)")
    verb.add_argument(
        "--context", metavar="N", type=argument_types.positive, default=0, help="messages before and after each hit"
    )
    verb.add_argument(
        "--has", choices=_KINDS, metavar="KIND", action="append", default=[],
        help="only messages with a file, image, video, voice, link or mention; may be repeated",
    )  # fmt: skip
    verb.add_argument("--mentions", metavar="NAME", help="only messages that mention this person: a name or an id")
    verb.add_argument("--edited", action="store_true", help="only messages that were edited")
    verb.add_argument(
        "--sort", choices=("best", "new"), default="best", metavar="ORDER", help="best (default) or new first"
    )
    hits_view.add_options(verb)
    verb.add_argument("--cursor", metavar="CURSOR", help="the next page: the cursor that the last page ended with")


def _search(args: argparse.Namespace, config: Config) -> Answer:
    return search(args, config, _query(args.query), args.verb)


def search(args: argparse.Namespace, config: Config, query: str, mode: Mode) -> Answer:
    """Search with the options of `add_options`; a blank query finds the newest messages that pass the filters.

    Raises:
        UsageError: the query is blank and there is no filter.
    """
    if not query.strip() and not _filters(args):
        raise UsageError("the query is empty", hint="Write what to find, or a filter: --has file, --user NAME.")
    for option, value, maximum in (("limit", args.limit or 0, _MAX_HITS), ("context", args.context, _MAX_CONTEXT)):
        if value > maximum:
            raise UsageError(f"--{option}: {value} is too many", hint=f"The maximum is {maximum}.")
    times.check_span(args.since, args.until)
    with open_archive(config) as archive:
        named = filters.take_names(args, archive)
        mentions = archive.find_user(args.mentions) if args.mentions is not None else None
        if mentions:
            named = (*named, f"mentions {mentions.sentence.removeprefix('user ')}")
        result = archive.search(
            query,
            mode=mode,
            chat_ids=archive.existing(args.chat_id),
            user_id=args.user_id,
            since=args.since,
            until=args.until,
            limit=args.limit,
            context=args.context,
            recency=args.recency,
            cursor=short_cursors.expand(args.cursor),
            newest_first=args.sort == "new",
            has=args.has,
            mentions=mentions.id if mentions else None,
            edited=args.edited,
            deleted=args.deleted,
        )
    result = replace(result, named=named)
    if backlog := read_backlog(config.status_file):
        result = replace(result, coverage=replace(result.coverage, gaps=(*result.coverage.gaps, backlog)))
    return Answer(
        result,
        lambda screen: hits_view.show(screen, result, args, config),
        ids=[f"{hit.chat_id} {hit.msg_id}" for hit in result.hits],
    )


def _filters(args: argparse.Namespace) -> bool:
    chosen = (args.chat_id, args.user_id, args.user, args.chat, args.since, args.until, args.has, args.mentions)
    return any(chosen) or args.edited or args.deleted


def _query(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError("the query is not UTF-8") from error
    return text
