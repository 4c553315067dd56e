"""`vkteamsctl database erase`: what a person has said, and single messages, with everything that repeats them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from vkteams_daemon.config import Config
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.commands.database import spool_wait
from vkteams_daemon.ctl.connections import open_connection
from vkteams_daemon.ctl.output import Answer, Screen
from vkteams_daemon.ctl.progress import Bar
from vkteams_daemon.errors import UsageError
from vkteams_daemon.system.user import login_name

if TYPE_CHECKING:
    from vkteams_daemon.botapi.events import Event
    from vkteams_daemon.store.admin.person_erasure import PersonErasureResult
    from vkteams_daemon.store.erasure_rules import ErasedPerson

_UNREACHED = (
    "backups, and exports that were made before",
    "the server's own files, until `vkteamsctl database maintenance` has run and the write-ahead log is recycled",
    "the audit of page and MCP server, which names who has asked for what, until access.audit_retention ends",
    "what others say of the person in words of their own",
    "the ids, which stay as keys: on many installations the id of a person is an e-mail address",
)


def register(noun: Noun) -> None:
    """Add the verb erase."""
    erase = noun.verb(
        "erase",
        "erase what a person has said, or single messages, for good, with everything that repeats them",
        _erase,
        "vkteamsctl database erase --user-id a.ivanova@corp.example --dry-run",
    )
    erase.add_argument(
        "--user-id", metavar="ID", action="append", help="this person, an e-mail address in any case; may be repeated"
    )
    erase.add_argument("--message", metavar="CHAT/ID", nargs="+", action="extend", help="these messages")
    erase.add_argument("--ignore", action="store_true", help="keep nothing of what the person says from now on, either")
    erase.add_argument("--no-ignore", action="store_true", help="keep again what the person says from now on")
    erase.add_argument("--dry-run", action="store_true", help="only count what would be erased")
    erase.add_argument("--yes", action="store_true", help="confirm: what is erased cannot be restored")


def _erase(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.search.scope import spelled_chats
    from vkteams_daemon.store import erasure_rules
    from vkteams_daemon.store.admin import person_erasure

    people: list[str] = args.user_id or []
    messages = [_key(text) for text in args.message or ()]
    if (args.ignore or args.no_ignore) and not people:
        raise UsageError("--ignore and --no-ignore need a --user-id")
    if args.no_ignore and (args.ignore or messages or args.dry_run):
        raise UsageError("--no-ignore erases nothing: it takes --user-id alone")
    if not people and not messages:
        with open_connection(config, reads=True) as connection:
            rows = erasure_rules.list_people(connection)
        return Answer({"rows": rows}, lambda screen: _list(screen, rows), ids=[row.user_id for row in rows])
    with open_connection(config) as connection:
        people = erasure_rules.spelled_people(connection, people)
        chats = spelled_chats(connection, [chat_id for chat_id, _ in messages])
        messages = [(chat_id, msg_id) for chat_id, (_, msg_id) in zip(chats, messages, strict=True)]
        if args.no_ignore:
            for user_id in people:
                erasure_rules.stop_ignoring(connection, user_id)
            sentence = f"what {', '.join(people)} says from now on is kept again"
            return Answer({"user_ids": people, "ignored": False}, lambda screen: screen.line(sentence))
        concerns = _concerns(people, messages)
        if args.yes and not args.dry_run:
            spool = spool_wait.wait(config, concerns, "about them")
        else:
            spool = spool_wait.count(config, concerns)
        with Bar("erase", "rows") as bar:
            done = person_erasure.erase(
                connection, people, messages, by=login_name(), ignore=args.ignore,
                dry_run=args.dry_run or not args.yes, progress=bar,
            )  # fmt: skip
    counts = _counts(done)
    if spool.concerned:
        counts += f"; {spool.concerned} events in the daemon's spool are about them, and go in first"
    if not args.dry_run and not args.yes:
        raise UsageError(f"not done: {counts} would be erased for good", hint="Add --yes to do it.")
    unreached = [*_UNREACHED, *_aside(config)]
    data = {
        "user_ids": people, "messages": [f"{chat}/{msg}" for chat, msg in messages], "ignored": args.ignore,
        "dry_run": args.dry_run, "done": done, "spool": spool, "unreached": unreached,
    }  # fmt: skip

    def render(screen: Screen) -> None:
        screen.line(f"{counts} {'would be' if args.dry_run else 'are'} erased")
        if done.held:
            screen.line(
                f"holds {'keep' if args.dry_run else 'have kept'} {done.held} messages: run it again after a lift"
            )
        if done.locked:
            screen.line(
                f"{done.locked} rows were left out, because other sessions have locked them: run it again later"
            )
        screen.line("not reached:")
        for line in unreached:
            screen.line(f"  {line}")

    return Answer(data, render)


def _counts(done: PersonErasureResult) -> str:
    return (
        f"{done.messages} messages with {done.versions} earlier texts, {done.vectors} vectors and {done.queued} queue"
        f" rows, what {done.events} events say, replies, forwards and mentions in {done.repeated} messages of others,"
        f" {done.names} rows with names and {done.memberships} memberships"
    )


def _key(text: str) -> tuple[str, str]:
    chat_id, _, msg_id = text.rpartition("/")
    if not chat_id or not msg_id:
        raise UsageError(
            f"{text} is no message", hint="Write CHAT/ID, such as 681869378@chat.agent/7576322310144000017."
        )
    return chat_id, msg_id


def _concerns(people: list[str], messages: list[tuple[str, str]]) -> Callable[[Event], bool]:
    """Whether an event in the spool says something that this erasure must take."""
    from vkteams_daemon.botapi.content_erasure import names_anybody

    words = [*people, *(msg_id for _, msg_id in messages)]
    return lambda event: names_anybody(event.json or (event.raw or b"").decode("utf-8", "replace"), words)


def _aside(config: Config) -> list[str]:
    from vkteams_daemon.daemon.polling.spool import list_aside

    return [f"{path}, a damaged spool that was put aside" for path in list_aside(config.state_dir)]


def _list(screen: Screen, rows: list[ErasedPerson]) -> None:
    if not rows:
        screen.line("nobody was erased")
        return
    screen.table(
        ("person", "erased", "by", "from now on"),
        [(row.user_id, row.erased_at, row.erased_by, "ignored" if row.ignored else "kept") for row in rows],
    )
