"""`vkteamsctl search`: messages by their words, by their meaning, or by both."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from vkteams_daemon import times
from vkteams_daemon.config import Config
from vkteams_daemon.ctl import argument_types, filters
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.commands.context.conversation_view import quote_lines
from vkteams_daemon.ctl.connections import open_archive
from vkteams_daemon.ctl.output import Answer, Screen, cell, one_line
from vkteams_daemon.daemon.status import read_gap
from vkteams_daemon.errors import UsageError

if TYPE_CHECKING:
    from vkteams_daemon.search.messages import ArchivedMessage
    from vkteams_daemon.search.results import Hit, SearchResult

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
        _add_options(verb)
        verb.set_defaults(recency=None, deleted=False)
    text.add_argument(
        "--deleted", action="store_true", help="only deleted messages, where their text is kept (storage.on_delete)"
    )
    hybrid.add_argument(
        "--recency", metavar="AGE", type=times.parse_age, help="a message of this age counts half: 12h, 30d"
    )


def _add_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("query", metavar="QUERY", help="words or a question; quote it")
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
    verb.add_argument("--explain", action="store_true", help="show the place and score of each hit in each retriever")
    verb.add_argument("--cursor", metavar="CURSOR", help="the next page: the cursor that the last page ended with")


def _search(args: argparse.Namespace, config: Config) -> Answer:
    query = _query(args.query)
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
            mode=args.verb,
            chat_ids=archive.existing(args.chat_id),
            user_id=args.user_id,
            since=args.since,
            until=args.until,
            limit=args.limit,
            context=args.context,
            recency=args.recency,
            cursor=args.cursor,
            newest_first=args.sort == "new",
            has=args.has,
            mentions=mentions.id if mentions else None,
            edited=args.edited,
            deleted=args.deleted,
        )
    result = replace(result, named=named)
    if gap := read_gap(config.status_file):
        result = replace(result, coverage=replace(result.coverage, gaps=(*result.coverage.gaps, gap)))
    return Answer(
        result, lambda screen: _show(screen, result, args.explain), ids=[f"{h.chat_id} {h.msg_id}" for h in result.hits]
    )


def _query(text: str) -> str:
    if not text.strip():
        raise UsageError("the query is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError("the query is not UTF-8") from error
    return text


def _show(screen: Screen, result: SearchResult, explain: bool) -> None:
    for sentence in result.named:
        screen.line(one_line(sentence), "dim")
    if result.showing is not None:
        screen.line(f"showing results for: {one_line(result.showing)}", "yellow")
    if result.relaxed and result.hits:
        screen.line("no message has all of these words; these have some of them", "yellow")
    if result.note:
        screen.line(result.note, "yellow")
    for hit in result.hits:
        _show_hit(screen, hit, explain)
    screen.line(_summary(result), "dim")
    if result.cursor:
        screen.line(f"more: --cursor {result.cursor}", "dim")


def _show_hit(screen: Screen, hit: Hit, explain: bool) -> None:
    from vkteams_daemon.search.results import MARKS

    where = f"{hit.chat_title or hit.chat_id} · {hit.author or 'nobody'} · {cell(hit.sent_at)}"
    forwards = " (forwards)" if hit.own_text == "" else ""
    screen.line(f"{where}{' (edited)' if hit.edited else ''}{forwards}", "bold")
    before = [message for message in hit.context if message.sent_at < hit.sent_at]
    for message in before:
        _show_neighbour(screen, message)
    screen.quote(hit.snippet, MARKS)
    for line in quote_lines(hit.quotes):
        screen.line(f"    {line}", "dim")
    for message in hit.context[len(before) :]:
        _show_neighbour(screen, message)
    reply = f" · answers {hit.reply_to_msg_id}" if hit.reply_to_msg_id else ""
    screen.line(f"    chat {hit.chat_id} · message {hit.msg_id}{reply}{_score(hit.score, ' · ')}", "dim")
    if hit.url:
        screen.line(f"    {one_line(hit.url)}", "dim")
    for retriever in hit.legs if explain else ():
        share = "" if retriever.share is None else f", {retriever.share:.0%} of the query"
        screen.line(f"    {retriever.name}: place {retriever.rank}{_score(retriever.score, ', ')}{share}", "dim")


def _show_neighbour(screen: Screen, message: ArchivedMessage) -> None:
    screen.line(f"    {message.author or 'nobody'}: {one_line(message.text)}", "dim")


def _score(score: float, before: str) -> str:
    # PostgreSQL ranks a hit in the parts of an identifier 0, because they have no position in the text.
    return f"{before}score {score:.3f}" if score else ""


def _summary(result: SearchResult) -> str:
    count = len(result.hits)
    parts = [f"{count} hit{'' if count == 1 else 's'}" if count else "nothing found"]
    coverage = result.coverage
    parts.append(
        f"archived since {cell(coverage.archived_since)}" if coverage.archived_since else "the archive is empty"
    )
    if coverage.gaps:
        parts.append("; ".join(coverage.gaps))
    # If there is no model at all, the note says so already.
    if result.mode != "text" and not (result.note and not coverage.models):
        parts.append(f"model {' + '.join(coverage.models) or 'none yet: no message has a vector'}")
        if coverage.without_vector:
            parts.append(f"{coverage.without_vector} messages have no vector yet")
    return " · ".join(parts)
