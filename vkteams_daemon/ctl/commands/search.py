"""`vkteamsctl search`: find messages by their words, by what they mean, or by both."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from vkteams_daemon.config import Config
from vkteams_daemon.ctl import argument_types
from vkteams_daemon.ctl.output import Answer, Screen, cell, one_line
from vkteams_daemon.errors import UsageError
from vkteams_daemon.times import check_span

if TYPE_CHECKING:
    from vkteams_daemon.search.results import Hit, SearchResult

_MOST = 1000
_MOST_CONTEXT = 50


def register(nouns: Any, common: argparse.ArgumentParser) -> None:
    """Add the noun `search` with its verbs hybrid, semantic and text."""
    noun = nouns.add_parser("search", help="find what was said", parents=[common])
    verbs = noun.add_subparsers(dest="verb", metavar="VERB", title="verbs", required=True)
    hybrid = verbs.add_parser(
        "hybrid",
        help="by words and by meaning, with the conversations of the best hits: what to try first",
        parents=[common],
        epilog="examples:\n  vkteamsctl search hybrid 'why was the release late'\n"
        "  vkteamsctl search hybrid 'сбой оплаты' --since 7d --context 3 --explain",
    )
    semantic = verbs.add_parser(
        "semantic",
        help="by meaning: messages that say the same in other words",
        parents=[common],
        epilog="example:\n  vkteamsctl search semantic 'why was the release late' --since 2026-11-01",
    )
    text = verbs.add_parser(
        "text",
        help='by words: all of them in any form, "a phrase", -without, this OR that',
        parents=[common],
        epilog="examples:\n  vkteamsctl search text 'сервер OR база -тест' --since 7d\n"
        "  vkteamsctl search text '\"connection refused\"' --chat-id 681869378@chat.agent --limit 20",
    )
    for verb in (hybrid, semantic, text):
        _options(verb)
        verb.set_defaults(func=_search, recency=None)
    hybrid.add_argument(
        "--recency", metavar="AGE", type=argument_types.age, help="a message of this age counts half: 12h, 30d"
    )


def _options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("query", metavar="QUERY", help="what to look for; quote it")
    verb.add_argument("--chat-id", metavar="ID", action="append", help="only this chat; may be given several times")
    verb.add_argument("--user-id", metavar="ID", help="only what this person wrote")
    verb.add_argument("--since", metavar="TIME", type=argument_types.since, help="from then on: 2h, 7d, 2026-11-24")
    verb.add_argument("--until", metavar="TIME", type=argument_types.until, help="up to then; a date means its end")
    verb.add_argument("--limit", metavar="N", type=argument_types.positive, help="most hits (search.limit)")
    verb.add_argument(
        "--context", metavar="N", type=argument_types.positive, default=0, help="messages around each hit"
    )
    verb.add_argument("--explain", action="store_true", help="show what each way of searching said of a hit")
    verb.add_argument("--cursor", metavar="CURSOR", help="the next page: what the last one ended with")


def _search(args: argparse.Namespace, config: Config) -> Answer:
    query = _query(args.query)
    for option, value, most in (("limit", args.limit or 0, _MOST), ("context", args.context, _MOST_CONTEXT)):
        if value > most:
            raise UsageError(f"--{option}: {value} is too many", hint=f"At most {most} can be asked for.")
    check_span(args.since, args.until)
    from vkteams_daemon.search.archive import Archive

    with Archive(config) as archive:
        found = archive.search(
            query,
            mode=args.verb,
            chat_ids=archive.existing(args.chat_id, user_id=args.user_id),
            user_id=args.user_id,
            since=args.since,
            until=args.until,
            limit=args.limit,
            context=args.context,
            recency=args.recency,
            cursor=args.cursor,
        )
    return Answer(
        found, lambda screen: _show(screen, found, args.explain), ids=[f"{h.chat_id} {h.msg_id}" for h in found.hits]
    )


def _query(text: str) -> str:
    if not text.strip():
        raise UsageError("the query is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError("the query is not UTF-8") from error
    return text


def _show(screen: Screen, found: SearchResult, explain: bool) -> None:
    if found.showing is not None:
        screen.line(f"showing results for: {one_line(found.showing)}", "yellow")
    if found.relaxed and found.hits:
        screen.line("no message holds all of these words; these hold some", "yellow")
    if found.note:
        screen.line(found.note, "yellow")
    for hit in found.hits:
        _show_hit(screen, hit, explain)
    screen.line(_summary(found), "dim")
    if found.cursor:
        screen.line(f"more: --cursor {found.cursor}", "dim")


def _show_hit(screen: Screen, hit: Hit, explain: bool) -> None:
    from vkteams_daemon.search.results import MARKS

    where = f"{hit.chat_title or hit.chat_id} · {hit.author or 'nobody'} · {cell(hit.sent_at)}"
    screen.line(f"{where}{' (edited)' if hit.edited else ''}", "bold")
    before = [said for said in hit.context if said.sent_at < hit.sent_at]
    for said in before:
        screen.line(f"    {said.author or 'nobody'}: {one_line(said.text)}", "dim")
    screen.quote(hit.snippet, MARKS)
    for said in hit.context[len(before) :]:
        screen.line(f"    {said.author or 'nobody'}: {one_line(said.text)}", "dim")
    reply = f" · answers {hit.reply_to_msg_id}" if hit.reply_to_msg_id else ""
    screen.line(f"    chat {hit.chat_id} · message {hit.msg_id}{reply}{_score(hit.score, ' · ')}", "dim")
    for leg in hit.legs if explain else ():
        share = "" if leg.share is None else f", {leg.share:.0%} of the query"
        screen.line(f"    {leg.name}: place {leg.rank}{_score(leg.score, ', ')}{share}", "dim")


def _score(score: float, before: str) -> str:
    # The parts of an identifier stand at no place in their text, and the server's rank of such a hit is 0.
    return f"{before}score {score:.3f}" if score else ""


def _summary(found: SearchResult) -> str:
    count = len(found.hits)
    parts = [f"{count} hit{'' if count == 1 else 's'}" if count else "nothing found"]
    coverage = found.coverage
    parts.append(
        f"archived since {cell(coverage.archived_since)}" if coverage.archived_since else "the archive is empty"
    )
    if coverage.gaps:
        parts.append("; ".join(coverage.gaps))
    # Where there is no model at all, the note has said so.
    if found.mode != "text" and not (found.note and coverage.model is None):
        parts.append(f"model {coverage.model or 'none yet: no message has a vector'}")
        if coverage.without_vector:
            parts.append(f"{coverage.without_vector} messages still without a vector")
    return " · ".join(parts)
