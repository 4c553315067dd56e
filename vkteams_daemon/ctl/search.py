"""`vkteamsctl search`: find messages by their words or by what they mean."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from vkteams_daemon.config import Config
from vkteams_daemon.ctl import moments
from vkteams_daemon.ctl.output import Answer, Screen, cell
from vkteams_daemon.errors import UsageError

if TYPE_CHECKING:
    from vkteams_daemon.search.archive import Found

_MOST = 1000


def register(nouns: Any, common: argparse.ArgumentParser) -> None:
    """Add the noun `search` with its verbs text and semantic."""
    noun = nouns.add_parser("search", help="find what was said", parents=[common])
    verbs = noun.add_subparsers(dest="verb", metavar="VERB", title="verbs", required=True)
    text = verbs.add_parser(
        "text",
        help='by words: all of them in any form, "a phrase", -without, this OR that',
        parents=[common],
        epilog="examples:\n  vkteamsctl search text 'сервер OR база -тест' --since 7d\n"
        "  vkteamsctl search text '\"connection refused\"' --chat-id 681869378@chat.agent --limit 20",
    )
    semantic = verbs.add_parser(
        "semantic",
        help="by meaning: messages that say the same in other words",
        parents=[common],
        epilog="example:\n  vkteamsctl search semantic 'why was the release late' --since 2026-11-01",
    )
    for verb in (text, semantic):
        _options(verb)
        verb.set_defaults(func=_search)


def _options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("query", metavar="QUERY", help="what to look for; quote it")
    verb.add_argument("--chat-id", metavar="ID", action="append", help="only this chat; may be given several times")
    verb.add_argument("--user-id", metavar="ID", help="only what this person wrote")
    verb.add_argument("--since", metavar="TIME", type=moments.since, help="from then on: 2h, 7d, 2026-11-24")
    verb.add_argument("--until", metavar="TIME", type=moments.until, help="up to then; a date means its end")
    verb.add_argument("--limit", metavar="N", type=moments.positive, help="most hits (search.limit)")


def _search(args: argparse.Namespace, config: Config) -> Answer:
    query = _query(args.query)
    if args.limit is not None and args.limit > _MOST:
        raise UsageError(f"--limit: {args.limit} is too many", hint=f"At most {_MOST} hits can be asked for.")
    from vkteams_daemon.search.archive import Archive

    with Archive(config) as archive:
        ask = archive.search_text if args.verb == "text" else archive.search_semantic
        found = ask(
            query,
            chat_ids=args.chat_id,
            user_id=args.user_id,
            since=args.since,
            until=args.until,
            limit=args.limit,
        )
    return Answer(found, lambda screen: _show(screen, found), ids=[f"{h.chat_id} {h.msg_id}" for h in found.hits])


def _query(text: str) -> str:
    if not text.strip():
        raise UsageError("the query is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError("the query is not UTF-8") from error
    return text


def _show(screen: Screen, found: Found) -> None:
    from vkteams_daemon.search.hit import MARKS

    for hit in found.hits:
        where = f"{hit.chat_title or hit.chat_id} · {hit.author or 'nobody'} · {cell(hit.sent_at)}"
        screen.line(f"{where}{' (edited)' if hit.edited else ''}", "bold")
        screen.quote(hit.snippet, MARKS if found.mode == "text" else None)
        screen.line(f"    chat {hit.chat_id} · message {hit.msg_id} · score {hit.score:.3f}", "dim")
    screen.line(_summary(found), "dim")


def _summary(found: Found) -> str:
    count = len(found.hits)
    parts = [f"{count} hit{'' if count == 1 else 's'}" if count else "nothing found"]
    coverage = found.coverage
    parts.append(
        f"archived since {cell(coverage.archived_since)}" if coverage.archived_since else "the archive is empty"
    )
    if found.mode == "semantic":
        parts.append(f"model {coverage.model or 'none yet: no message has a vector'}")
        if coverage.without_vector:
            parts.append(f"{coverage.without_vector} messages still without a vector")
    return " · ".join(parts)
