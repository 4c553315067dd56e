"""`vkteamsctl database export`: every message as JSON Lines, CSV or CSV for Excel, to a file or to standard output.

JSON Lines have every column, and for one person everything else about the person as well. CSV is for spreadsheets: one
line of names, plain columns, and no cell that a spreadsheet takes for a formula. A text that begins like a formula gets
an apostrophe in front. excel-csv is for Excel: it needs a byte order mark to read UTF-8, and rounds a number of more
than 15 digits: such an id gets an apostrophe too.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from vkteams_daemon.config import Config
from vkteams_daemon.ctl import filters, progress
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.connections import open_archive
from vkteams_daemon.ctl.output import Answer, json_line, plain
from vkteams_daemon.errors import CannotWrite, UsageError
from vkteams_daemon.system import files, streams
from vkteams_daemon.system.text import terminal_safe
from vkteams_daemon.times import check_span, shown_span

if TYPE_CHECKING:
    from vkteams_daemon.search.history.export import Export, Exported
    from vkteams_daemon.search.history.person_records import PersonRecords

_COLUMNS = (
    "chat_id", "chat_title", "msg_id", "user_id", "author", "sent_at", "edited_at", "deleted_at", "reply_to_msg_id",
    "parts", "text",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_LONG_NUMBER = re.compile(r"\s*(?:[0-9]{12,}|0[0-9]+)(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?\s*")
_BAR_STEP = 500  # messages between two updates of the bar


def register(noun: Noun) -> None:
    """Add the verb export."""
    export = noun.verb(
        "export",
        "every message as JSON Lines or CSV",
        _export,
        "vkteamsctl database export --format csv --file ops.csv --chat-id 681869378@chat.agent --since 30d",
    )
    export.add_argument(
        "--format",
        choices=tuple(_WRITERS),
        default="jsonl",
        metavar="FORMAT",
        help="jsonl, csv, or excel-csv (opens in Excel with every letter and every digit)",
    )
    export.add_argument("--file", metavar="PATH", help="file to write; without it, standard output")
    export.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    filters.add_chat_ids_with_threads(export)
    filters.add_author_and_time(export)
    export.add_argument("--deleted", action="store_true", help="deleted messages too, if their text was kept")


def _export(args: argparse.Namespace, config: Config) -> Answer:
    if not args.file and getattr(args, "output", "table") in ("json", "jsonl"):
        raise UsageError("standard output cannot hold both the messages and the answer", hint="Name a --file.")
    check_span(args.since, args.until)
    write = _WRITERS[args.format]
    if not args.file and sys.stderr.isatty() and (understood := shown_span(args.since, args.until)):
        streams.write_stderr(f"{understood}\n")
    with open_archive(config) as archive:
        chats = archive.existing(args.chat_id, threads=True)
        user_id = None if args.user_id is None else archive.known_user_id(args.user_id)
        about_person = args.format == "jsonl" and user_id is not None
        export = archive.export(
            chat_ids=chats, user_id=user_id, since=args.since, until=args.until, deleted=args.deleted or about_person
        )
        with _destination(args.file, overwrite=args.overwrite) as stream:
            if user_id is not None and about_person:
                records = archive.person_records(user_id, chat_ids=chats, since=args.since, until=args.until)
                count = _write_person(stream, _with_bar(export), records)
            else:
                count = write(stream, _with_bar(export))
    line = f"{count} messages{f' in {args.file}' if args.file else ''}"
    return Answer(
        {"messages": count, "file": args.file}, lambda screen: screen.line(line) if args.file else None,
        streamed=not args.file,
    )  # fmt: skip


def _with_bar(export: Export) -> Iterator[Exported]:
    """The messages, while a bar shows how many have come."""
    with progress.Bar("export", "messages") as bar:
        total = export.count()
        for n, message in enumerate(export, 1):
            if n % _BAR_STEP == 0:
                bar(n, total)
            yield message


def _write_json_lines(stream: TextIO, messages: Iterator[Exported]) -> int:
    count = 0
    for message in messages:
        stream.write(json_line(message, stream))
        count += 1
    return count


def _write_person(stream: TextIO, messages: Iterator[Exported], records: PersonRecords) -> int:
    """Everything about a person; each line says first what it is."""
    count = 0
    for message in messages:
        stream.write(json_line({"kind": "message", **plain(message)}, stream))
        count += 1
    for each in records:
        stream.write(json_line({"kind": each.kind, **plain(each.record)}, stream))
    return count


def _write_csv(stream: TextIO, messages: Iterator[Exported]) -> int:
    return _write_rows(csv.writer(stream, lineterminator="\n"), messages, csv_cell)


def _write_excel_csv(stream: TextIO, messages: Iterator[Exported]) -> int:
    stream.write("\ufeff")
    return _write_rows(csv.writer(stream, lineterminator="\r\n"), messages, excel_cell)


def _write_rows(rows: Any, messages: Iterator[Exported], cell: Callable[[Any], str]) -> int:
    rows.writerow(_COLUMNS)
    count = 0
    for message in messages:
        rows.writerow([cell(getattr(message, name)) for name in _COLUMNS])
        count += 1
    return count


_WRITERS: dict[str, Callable[[TextIO, Iterator[Exported]], int]] = {
    "jsonl": _write_json_lines, "csv": _write_csv, "excel-csv": _write_excel_csv,
}  # fmt: skip


def csv_cell(value: Any) -> str:
    """A value as text that no spreadsheet takes for a formula; a list of parts becomes the list of their kinds."""
    if value is None:
        return ""
    if isinstance(value, list):
        value = ", ".join(str(part.get("type")) for part in value if isinstance(part, dict))
    text = terminal_safe(str(plain(value)))
    return f"'{text}" if text.startswith(_FORMULA) else text


def excel_cell(value: Any) -> str:
    """As `csv_cell`; digits that Excel would shorten (12 or more, or zeros in front) get an apostrophe as well."""
    text = csv_cell(value)
    return f"'{text}" if _LONG_NUMBER.fullmatch(text) else text


@contextlib.contextmanager
def _destination(file: str | None, *, overwrite: bool) -> Iterator[TextIO]:
    """Standard output, or a file that appears only when it is complete."""
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
        raise UsageError(f"{file} is not an ordinary file", hint="Redirect standard output to it instead.")
    if path.exists() and not overwrite:
        raise UsageError(f"{file} exists already", hint="Name another file, or add --overwrite.")
    try:
        with files.replace_when_whole(path, 0o640, writer=f"{os.getpid()}.part") as binary:
            out = io.TextIOWrapper(binary, encoding="utf-8", newline="")
            yield out
            out.flush()
    except OSError as error:
        raise CannotWrite(f"{file} cannot be written: {error.strerror}") from error
