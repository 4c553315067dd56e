"""The answer of a command and its output: a table for people, JSON for programs.

`json` is one object. It always has these keys and no others: `success` (true exactly when the exit code is 0), `data`,
`error` (null, or the sentence and its hint), `timestamp` and `command` (noun and verb). `jsonl` is one line for each
row of an answer with `hits` or `rows`; any other answer is one line. `quiet` is the ids of an answer that has ids, one
a line, and otherwise nothing: the exit code says the rest.

The texts of chats are not trusted: no control character in them reaches a terminal.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, TextIO

from vkteams_daemon import times
from vkteams_daemon.ctl import pager
from vkteams_daemon.system.text import terminal_safe, terminal_safe_json

MODES = ("table", "json", "jsonl", "quiet")
_WIDTH = 80  # letters of a line if nothing else says how wide it is
_MARKS = ("\ue000", "\ue001")  # before and after a marked word while a text is wrapped: private, and one letter wide
_MIN_FREE_WIDTH = 16  # letters; a column of free text gets no narrower than this

_SPACES = re.compile(r"[\t\r\n]+")
_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a verb.

    Attributes:
        data: plain values, dataclasses and aware datetimes in dicts and lists; becomes `data` in JSON.
        render: writes the table for people; None shows the data itself.
        exit_code: of the command.
        error: the sentence for `error` and standard error, if the exit code is not 0 and no exception was raised.
        ids: for `--output quiet`, one a line.
        streamed: whether standard output has something already that nothing else may join.
    """

    data: Any
    render: Callable[[Screen], None] | None = None
    exit_code: int = 0
    error: str | None = None
    ids: Sequence[str] = ()
    streamed: bool = False


class Screen:
    """Lines and tables on standard output; colours only on a terminal, and not if NO_COLOR is set.

    Args:
        stream: to write on.
        terminal: whether what is written gets to a terminal; None asks the stream.

    Attributes:
        terminal: the same.
        width: letters of a line; 80 if it is no terminal.
    """

    def __init__(self, stream: TextIO, terminal: bool | None = None) -> None:
        self._stream = stream
        self.terminal = stream.isatty() if terminal is None else terminal
        self.width = shutil.get_terminal_size((_WIDTH, 24)).columns if self.terminal else _WIDTH
        self.colours = self.terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def line(self, text: str = "", style: str = "") -> None:
        """One line, or one for each line of the text; `style` is bold, dim, red, green or yellow."""
        self._write(self.styled(terminal_safe(text), style))

    def prose(self, text: str, style: str = "", *, indent: str = "", further: str | None = None) -> None:
        """A text, wrapped at words to the width.

        Args:
            text: line breaks in it are spaces.
            style: as of `line`.
            indent: before the first line.
            further: before the others; as `indent` if it is not given.
        """
        for line in self._wrapped(one_line(text), indent, indent if further is None else further):
            self._write(self.styled(line, style))

    def quote(self, text: str, marks: tuple[str, str] | None = None, indent: str = "    ") -> None:
        """The text of a message, indented and wrapped at words; the text between the two marks is highlighted."""
        text = one_line(text)
        if not marks or not self.colours:
            self.prose(text, indent=indent)
            return
        pattern = f"{re.escape(marks[0])}(.*?){re.escape(marks[1])}"
        inside = False
        for line in self._wrapped(re.sub(pattern, f"{_MARKS[0]}\\1{_MARKS[1]}", text), indent, indent):
            styled = ""
            for part in re.split(f"([{''.join(_MARKS)}])", line.removeprefix(indent)):
                inside = part == _MARKS[0] if part in _MARKS else inside
                styled += "" if part in _MARKS else self.styled(part, "yellow" if inside else "")
            self._write(indent + styled)

    def _wrapped(self, text: str, indent: str, further: str) -> list[str]:
        """The lines of a text. A word that is longer than a line (a path, a URL) stays whole."""
        return textwrap.wrap(
            text, max(self.width, len(further) + _MIN_FREE_WIDTH), initial_indent=indent, subsequent_indent=further,
            break_long_words=False, break_on_hyphens=False,
        ) or [indent.rstrip()]  # fmt: skip

    def pairs(self, pairs: Iterable[tuple[str, Any]]) -> None:
        """Names and values, one pair a line, the values aligned."""
        rows = [(one_line(name), cell(value)) for name, value in pairs]
        width = max((len(name) for name, _ in rows), default=0)
        for name, value in rows:
            self._write(f"{self.styled(name.ljust(width), 'bold')}  {value}".rstrip())

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[Any]], free: Collection[str] = ()) -> None:
        """A table, fitted to the width of a terminal; plain aligned columns if the output is no terminal.

        Args:
            headings: of the columns.
            rows: with a value for each column.
            free: headings of the columns of free text, which are wrapped on a narrow terminal. The values of the other
                columns are for copying: they stay whole, even if the line becomes longer than the terminal is wide.
        """
        wrapped = [heading in free for heading in headings]
        headings = [one_line(heading) for heading in headings]
        cells = [[cell(value) for value in row] for row in rows]
        numeric = [all(re.fullmatch(r"[\d.,+-]*", row[n]) for row in cells) for n in range(len(headings))]
        if self.terminal:
            self._draw(headings, cells, numeric, wrapped)
            return
        for row in (headings, *cells):
            self._write(_aligned(row, [headings, *cells], numeric))

    def styled(self, text: str, style: str) -> str:
        """The text in this style, or unchanged if there are no colours."""
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if style and self.colours and text else text

    def _draw(
        self,
        headings: Sequence[str],
        cells: Sequence[Sequence[str]],
        numeric: Sequence[bool],
        wrapped: Sequence[bool],
    ) -> None:
        from rich import box
        from rich.cells import cell_len
        from rich.console import Console, ConsoleDimensions
        from rich.table import Table
        from rich.text import Text

        def min_widths(headings: Sequence[str]) -> list[int]:
            widths = []
            for n, heading in enumerate(headings):
                needed = max(cell_len(text) for text in (*heading.split("\n"), *(row[n] for row in cells)))
                widths.append(min(needed, _MIN_FREE_WIDTH) if wrapped[n] else needed)
            return widths

        console = Console(
            file=self._stream, no_color=not self.colours, highlight=False, force_terminal=True, width=self.width
        )
        borders = 3 * len(headings) - 1  # the edges, and the gaps between the columns
        if sum(min_widths(headings)) + borders > console.width:
            headings = [heading.replace(" ", "\n") for heading in headings]
        widths = min_widths(headings)
        console.size = ConsoleDimensions(max(console.width, sum(widths) + borders), console.height)
        table = Table(box=box.SIMPLE_HEAD, header_style="bold" if self.colours else "", pad_edge=False)
        for n, heading in enumerate(headings):
            table.add_column(
                Text(heading), justify="right" if numeric[n] else "left", overflow="fold", no_wrap=not wrapped[n],
                min_width=widths[n],
            )  # fmt: skip
        for row in cells:
            table.add_row(*(Text(value) for value in row))
        console.print(table)

    def _write(self, text: str) -> None:
        self._stream.write(text + "\n")


def show(answer: Answer, mode: str, command: str, stream: TextIO | None = None, *, understood: str = "") -> None:
    """Write the answer on standard output in this mode.

    Args:
        answer: of the command.
        mode: one of `MODES`.
        command: noun and verb.
        stream: in place of standard output.
        understood: what the times on the command line were taken for; people see it above the answer.
    """
    stream = stream or sys.stdout
    if mode == "json":
        error = (answer.error or f"exit code {answer.exit_code}") if answer.exit_code else None
        stream.write(terminal_safe_json(envelope(command, answer.data, error), stream, indent=2) + "\n")
    elif mode == "jsonl":
        for row in _rows(answer.data):
            stream.write(json_line(row, stream))
    elif mode == "quiet":
        for name in answer.ids:
            stream.write(terminal_safe(name) + "\n")
    elif answer.render:
        _render(answer, understood, stream)
    else:
        _show_data(Screen(stream), plain(answer.data))
    stream.flush()


def _render(answer: Answer, understood: str, stream: TextIO) -> None:
    """Write the table for people; through a pager if it is longer than the terminal."""
    assert answer.render
    terminal = stream.isatty()
    text = io.StringIO()
    screen = Screen(text, terminal)
    if understood and not answer.streamed:
        screen.line(understood, "dim")
    answer.render(screen)
    if not (terminal and sys.stdin.isatty() and pager.page(text.getvalue())):
        stream.write(text.getvalue())


def show_error(sentence: str, mode: str, command: str, stream: TextIO | None = None) -> None:
    """Write the JSON envelope of a failed command; in the other modes the error is on standard error alone."""
    if mode == "json":
        stream = stream or sys.stdout
        stream.write(terminal_safe_json(envelope(command, None, sentence), stream, indent=2) + "\n")
        stream.flush()


def envelope(command: str, data: Any, error: str | None) -> dict[str, Any]:
    """The one form of every JSON answer."""
    return {
        "success": error is None,
        "data": plain(data),
        "error": error,
        "timestamp": rfc3339(datetime.now(UTC)),
        "command": command,
    }


def plain(value: Any) -> Any:
    """The value in the types of JSON; dataclasses, msgspec structs, datetimes, paths and tuples are converted."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(entry) for entry in value]
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    fields = getattr(value, "__struct_fields__", None)
    if fields is not None:
        return {name: plain(getattr(value, name)) for name in fields}
    return value.isoformat() if isinstance(value, date) else str(value)


def rfc3339(moment: datetime) -> str:
    """An aware datetime in UTC as RFC 3339 writes it: `2026-11-24T08:24:00.125Z`, or without a fraction."""
    text = moment.astimezone(UTC).replace(tzinfo=None).isoformat()
    return (text.rstrip("0").rstrip(".") if "." in text else text) + "Z"


def json_line(value: Any, stream: TextIO) -> str:
    """The value as one line of JSON for that stream."""
    return terminal_safe_json(plain(value), stream) + "\n"


def one_line(text: str) -> str:
    """The text, safe for a terminal, with one space for each run of tabs and newlines."""
    return terminal_safe(_SPACES.sub(" ", text)).strip()


def cell(value: Any) -> str:
    """A value in a table: `-` for none, yes and no, times in the reader's zone to the second."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return f"{times.local(value):%Y-%m-%d %H:%M:%S}"
    if isinstance(value, float):
        return figure(value)
    if isinstance(value, list | tuple):
        return ", ".join(cell(entry) for entry in value) or "-"
    return one_line(str(value)) or "-"


def figure(value: float, digits: int = 4) -> str:
    """A number with so many significant digits, as people write it: `1040`, never `1.04e+03`."""
    return format(Decimal(f"{value:.{digits}g}"), "f")


def size(octets: int) -> str:
    """Bytes in binary units: `12.3 MiB`."""
    amount = float(octets)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def _rows(data: Any) -> list[Any]:
    simple = plain(data)
    if isinstance(simple, dict):
        for name in ("hits", "rows"):
            if isinstance(simple.get(name), list):
                return list(simple[name])
    return simple if isinstance(simple, list) else [simple]


def _show_data(screen: Screen, data: Any) -> None:
    if isinstance(data, dict):
        for name, value in data.items():
            data[name] = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
        screen.pairs(data.items())
    elif data is not None:
        screen.line(data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, indent=2))


def _aligned(row: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> str:
    widths = [max(len(other[n]) for other in rows) for n in range(len(row))]
    cells = (text.rjust(w) if right else text.ljust(w) for text, w, right in zip(row, widths, numeric, strict=True))
    return "  ".join(cells).rstrip()
