"""`vkteamsctl database export`: every message as JSON Lines or CSV, to a file or to standard output.

JSON Lines hold everything. CSV is for spreadsheets: one line of names, plain columns, and no cell that a spreadsheet
would take for a formula: what begins like one has an apostrophe before it.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from vkteams_daemon.config import Config
from vkteams_daemon.ctl import argument_types, progress
from vkteams_daemon.ctl.output import Answer, json_line, plain
from vkteams_daemon.errors import CannotWrite, UsageError
from vkteams_daemon.system import files, streams
from vkteams_daemon.system.text import terminal_safe
from vkteams_daemon.times import check_span

if TYPE_CHECKING:
    from vkteams_daemon.search.history.export import Export, Exported

_COLUMNS = (
    "chat_id", "chat_title", "msg_id", "user_id", "author", "sent_at", "edited_at", "deleted_at", "reply_to_msg_id",
    "parts", "text",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_OFTEN = 500  # messages between two moves of the bar


def options(verb: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    verb.add_argument("--format", choices=("jsonl", "csv"), default="jsonl", metavar="FORMAT", help="jsonl or csv")
    verb.add_argument("--file", metavar="PATH", help="write it there; otherwise to standard output")
    verb.add_argument("--overwrite", action="store_true", help="the file may be there already")
    verb.add_argument(
        "--chat-id", metavar="ID", action="append", help="only this chat and its threads; may be repeated"
    )
    verb.add_argument("--user-id", metavar="ID", help="only what this person wrote")
    verb.add_argument("--since", metavar="TIME", type=argument_types.since, help="from then on: 2h, 7d, 2026-11-24")
    verb.add_argument("--until", metavar="TIME", type=argument_types.until, help="up to then; a date means its end")
    verb.add_argument("--deleted", action="store_true", help="deleted messages too, as far as their text was kept")


def answer(args: argparse.Namespace, config: Config) -> Answer:
    """Write the messages; the answer says how many there were."""
    from vkteams_daemon.search.archive import Archive

    if not args.file and getattr(args, "output", "table") in ("json", "jsonl"):
        raise UsageError("standard output cannot hold both the messages and the answer", hint="Name a --file.")
    check_span(args.since, args.until)
    write = _csv if args.format == "csv" else _json_lines
    with Archive(config) as archive:
        chats = archive.existing(args.chat_id, threads=True, user_id=args.user_id)
        with (
            archive.export(
                chat_ids=chats, user_id=args.user_id, since=args.since, until=args.until, deleted=args.deleted
            ) as export,
            _destination(args.file, overwrite=args.overwrite) as stream,
        ):
            count = write(stream, _watched(export))
    said = f"{count} messages{f' in {args.file}' if args.file else ''}"
    return Answer({"messages": count, "file": args.file}, lambda screen: screen.line(said) if args.file else None)


def _watched(export: Export) -> Iterator[Exported]:
    """The messages, with a bar."""
    with progress.Bar("export", "messages") as bar:
        total = export.count()
        for n, message in enumerate(export, 1):
            if n % _OFTEN == 0:
                bar(n, total)
            yield message


def _json_lines(stream: TextIO, messages: Iterator[Exported]) -> int:
    count = 0
    for message in messages:
        stream.write(json_line(message, stream))
        count += 1
    return count


def _csv(stream: TextIO, messages: Iterator[Exported]) -> int:
    rows = csv.writer(stream, lineterminator="\n")
    rows.writerow(_COLUMNS)
    count = 0
    for message in messages:
        rows.writerow([cell(getattr(message, name)) for name in _COLUMNS])
        count += 1
    return count


def cell(value: Any) -> str:
    """A value as a cell that is text and nothing else; of parts their kinds."""
    if value is None:
        return ""
    if isinstance(value, list):
        value = ", ".join(str(part.get("type")) for part in value if isinstance(part, dict))
    text = terminal_safe(str(plain(value)))
    return f"'{text}" if text.startswith(_FORMULA) else text


@contextlib.contextmanager
def _destination(file: str | None, *, overwrite: bool) -> Iterator[TextIO]:
    """Standard output, or a file that is there only when it is whole."""
    if not file:
        try:
            yield sys.stdout
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise streams.stdout_lost(error) from error
        return
    path = Path(file)
    if path.exists() and not path.is_file():
        raise UsageError(f"{file} is no ordinary file", hint="Redirect standard output to it instead.")
    if path.exists() and not overwrite:
        raise UsageError(f"{file} is there already", hint="Name another, or add --overwrite.")
    try:
        with files.replace_when_whole(path, 0o640, writer=f"{os.getpid()}.part") as binary:
            out = io.TextIOWrapper(binary, encoding="utf-8", newline="")
            yield out
            out.flush()
    except OSError as error:
        raise CannotWrite(f"{file} cannot be written: {error.strerror}") from error
