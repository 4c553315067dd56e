"""The hits of a search for people: numbered, with names in the place of ids; weak ones below a sure one fold away."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from vkteams_daemon import times
from vkteams_daemon.ctl import hit_numbers, short_cursors
from vkteams_daemon.ctl.commands.context.conversation_view import SHOWN_ELSEWHERE, quote_lines
from vkteams_daemon.ctl.output import Screen, cell, one_line

if TYPE_CHECKING:
    from vkteams_daemon.config import Config
    from vkteams_daemon.search.messages import ArchivedMessage
    from vkteams_daemon.search.results import Hit, SearchResult

_SURE = 0.7  # the probability of a hit beside which others may be weak
_WEAK = 0.25  # the share of the best hit's probability below which a hit folds away
_INDENT = "    "


def add_options(verb: argparse.ArgumentParser) -> None:
    """Add the options of the view."""
    verb.add_argument("--all", action="store_true", help="show weak hits below a sure one as well")
    verb.add_argument("--ids", action="store_true", help="show the ids of chats and messages")
    verb.add_argument("--explain", action="store_true", help="show the place and score of each hit in each retriever")


def show(screen: Screen, result: SearchResult, args: argparse.Namespace, config: Config) -> None:
    """Write the hits, and keep their numbers for `vkteamsctl open`."""
    for sentence in result.named:
        screen.prose(sentence, "dim")
    if result.showing is not None:
        screen.prose(f"showing results for: {result.showing}", "yellow")
    if result.relaxed and result.hits:
        screen.prose("no message has all of these words; these have some of them", "yellow")
    if result.note:
        screen.prose(result.note, "yellow")
    shown = result.hits if args.all else _without_weak(result)
    hit_numbers.keep(config, [hit.key for hit in shown])
    for number, hit in enumerate(shown, 1):
        _show_hit(screen, number, hit, args)
    if weaker := len(result.hits) - len(shown):
        screen.line(f"{weaker} weaker one{'' if weaker == 1 else 's'}: --all", "dim")
    screen.prose(_summary(result), "dim")
    if result.cursor:
        screen.line(f"more: --cursor {short_cursors.shorten(result.cursor)}", "dim")


def _without_weak(result: SearchResult) -> list[Hit]:
    """The hits without those below a sure one that are weak. Only the scores of a hybrid search are probabilities."""
    if result.mode != "hybrid":
        return result.hits
    best, shown = 0.0, []
    for hit in result.hits:
        if best < _SURE or hit.score >= best * _WEAK:
            shown.append(hit)
        best = max(best, hit.score)
    return shown


def _show_hit(screen: Screen, number: int, hit: Hit, args: argparse.Namespace) -> None:
    from vkteams_daemon.search.messages import titled
    from vkteams_daemon.search.results import MARKS

    where = titled(hit.chat_title or ("a private chat" if not args.ids else hit.chat_id), hit.thread)
    marks = f"{' (edited)' if hit.edited else ''}{' (forwards)' if hit.own_text == '' else ''}"
    when = f"{times.local(hit.sent_at):%a %Y-%m-%d %H:%M}"
    screen.prose(
        f"{where} · {hit.author or 'nobody'} · {when}{marks}", "bold", indent=f"{number:>2}  ", further=_INDENT
    )
    before = [message for message in hit.context if message.sent_at < hit.sent_at]
    for message in before:
        _show_neighbour(screen, message)
    screen.quote(hit.snippet, MARKS, _INDENT)
    for line in quote_lines(hit.quotes):
        screen.prose(line, "dim", indent=_INDENT, further=f"{_INDENT}| ")
    if hit.files:
        screen.prose(f"files: {', '.join(hit.files)}", "dim", indent=_INDENT, further=f"{_INDENT}  ")
    unnamed = [part for part in hit.parts if part not in SHOWN_ELSEWHERE and not (part == "file" and hit.files)]
    if unnamed:
        screen.prose(f"[{', '.join(unnamed)}]", "dim", indent=_INDENT)
    for message in hit.context[len(before) :]:
        _show_neighbour(screen, message)
    if args.ids:
        reply = f" · answers {hit.reply_to_msg_id}" if hit.reply_to_msg_id else ""
        screen.line(f"{_INDENT}chat {hit.chat_id} · message {hit.msg_id}{reply}", "dim")
    if hit.url:
        screen.line(f"{_INDENT}{one_line(hit.url)}", "dim")
    if args.explain:
        screen.line(f"{_INDENT}score {hit.score:.3f}", "dim")
    for retriever in hit.legs if args.explain else ():
        share = "" if retriever.share is None else f", {retriever.share:.0%} of the query"
        screen.line(f"{_INDENT}{retriever.name}: place {retriever.rank}{_score(retriever.score)}{share}", "dim")


def _show_neighbour(screen: Screen, message: ArchivedMessage) -> None:
    screen.prose(f"{message.author or 'nobody'}: {message.text}", "dim", indent=_INDENT, further=f"{_INDENT}  ")


def _score(score: float) -> str:
    # PostgreSQL ranks a hit in the parts of an identifier 0, because they have no position in the text.
    return f", score {score:.3f}" if score else ""


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
