from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

from vkteams_daemon.ctl.output import (
    Answer,
    Screen,
    cell,
    envelope,
    figure,
    one_line,
    plain,
    rfc3339,
    show,
    show_error,
    size,
)  # fmt: skip
from vkteams_daemon.system.text import terminal_safe

HOSTILE = "a\x1b[31mb\x07\x9bc\u202ed\u2028e\ufefff\ud800g\x7fh\u2066i\r\n\tj"
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@dataclass
class Row:
    name: str
    at: datetime


def _shown(answer: Answer, mode: str, stream: io.StringIO | None = None) -> str:
    stream = stream or io.StringIO()
    show(answer, mode, "noun verb", stream)
    return stream.getvalue()


def test_answeralways_has_the_same_keys_in_the_same_order() -> None:
    done = json.loads(_shown(Answer({"a": 1}), "json"))
    assert list(done) == ["success", "data", "error", "timestamp", "command"]
    assert (done["success"], done["data"], done["error"], done["command"]) == (True, {"a": 1}, None, "noun verb")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", done["timestamp"])
    assert list(envelope("x", None, "no")) == list(done)


def test_success_follows_the_exit_code() -> None:
    answer = json.loads(_shown(Answer({"a": 1}, exit_code=3, error="it is stopped"), "json"))
    assert (answer["success"], answer["error"], answer["data"]) == (False, "it is stopped", {"a": 1})
    assert json.loads(_shown(Answer(None, exit_code=4), "json"))["error"] == "exit code 4"
    stream = io.StringIO()
    show_error("it is broken. Mend it.", "json", "noun", stream)
    answer = json.loads(stream.getvalue())
    assert (answer["success"], answer["error"], answer["data"], answer["command"]) == (
        False, "it is broken. Mend it.", None, "noun",
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["table", "jsonl", "quiet"])
def test_other_modes_print_no_error_on_standard_output(mode: str) -> None:
    stream = io.StringIO()
    show_error("it is broken", mode, "noun", stream)
    assert stream.getvalue() == ""


def test_json_lines_mode_prints_the_rows() -> None:
    rows = [{"n": 1}, {"n": 2}]
    for data in ({"hits": rows, "mode": "text"}, {"rows": rows}, rows):
        assert _shown(Answer(data), "jsonl") == '{"n": 1}\n{"n": 2}\n'
    assert _shown(Answer({"rows": []}), "jsonl") == ""
    assert _shown(Answer({"a": 1}), "jsonl") == '{"a": 1}\n'


def test_quiet_mode_prints_the_ids() -> None:
    assert _shown(Answer({"a": 1}, ids=["x 1", "y\x1b 2"]), "quiet") == "x 1\ny 2\n"
    assert _shown(Answer({"a": 1}), "quiet") == ""


def test_json_escapes_control_characters_and_loses_nothing() -> None:
    for mode in ("json", "jsonl"):
        output = _shown(Answer({"text": HOSTILE}), mode)
        assert not STEERING.search(output)
        parsed = json.loads(output)
        assert (parsed["data"] if mode == "json" else parsed)["text"] == HOSTILE


def test_json_is_ascii_if_the_stream_is_not_utf_8() -> None:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="koi8-r", write_through=True) as stream:
        show(Answer({"text": "привет 😀"}), "json", "x", stream)
        assert json.loads(raw.getvalue())["data"]["text"] == "привет 😀"
        assert raw.getvalue().isascii()


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_texts_of_chats_never_control_the_terminal(stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def render(screen: Screen) -> None:
        screen.line(HOSTILE, "bold")
        screen.quote(HOSTILE, ("**", "**"))
        screen.pairs([(HOSTILE, HOSTILE), ("list", [HOSTILE, HOSTILE])])
        screen.table((HOSTILE, "n"), [(HOSTILE, 5), ([HOSTILE], 5)])

    for answer in (
        Answer({}, render),
        Answer({HOSTILE: HOSTILE, "b": {"c": HOSTILE}}),
        Answer(HOSTILE),
        Answer([HOSTILE]),
    ):
        output = re.sub(r"\x1b\[[0-9;]*m", "", _shown(answer, "table", stream()))
        assert not STEERING.search(output), repr(output)
        assert "31mb" in output


def test_colours_only_on_a_terminal_that_allows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def output(stream: io.StringIO) -> str:
        screen = Screen(stream)
        screen.line("good", "green")
        screen.quote("a **b** c", ("**", "**"))
        screen.pairs([("n", "v")])
        screen.table(("h",), [("x",)])
        return stream.getvalue()

    assert "\x1b[32mgood\x1b[0m" in output(Terminal())
    assert "a \x1b[33mb\x1b[0m c" in output(Terminal())
    assert "\x1b" not in output(io.StringIO())
    assert "a **b** c" in output(io.StringIO())
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert "\x1b" not in output(Terminal())
    monkeypatch.setenv("NO_COLOR", "")  # no-color.org: an empty one does not count
    assert "\x1b" in output(Terminal())


def test_tables_are_aligned_with_numbers_on_the_right() -> None:
    stream = io.StringIO()
    Screen(stream).table(("name", "n"), [("ab", 5), ("длинное", 1234), (None, None)])
    assert stream.getvalue() == "name        n\nab          5\nдлинное  1234\n-           -\n"
    stream = io.StringIO()
    Screen(stream).table(("only",), [])
    assert stream.getvalue() == "only\n"


def test_table_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    Screen(stream).table(("name", "text"), [("x", "[bold]слово[/bold] " * 20)], free=("text",))
    lines = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()
    assert max(map(len, lines)) <= 40
    assert "[bold]" in stream.getvalue()


@pytest.mark.parametrize("width", ["20", "60", "80", "200"])
@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_ids_and_times_are_never_wrapped(monkeypatch: pytest.MonkeyPatch, width: str, term: str) -> None:
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setenv("TERM", term)
    chat, model, at = "7576322310174586465@chat.agent", "paraphrase-multilingual-MiniLM-L12-v2", "2026-11-24T08:24:00Z"
    stream = Terminal()
    Screen(stream).table(
        ("chat", "title", "the model", "last event id", "changed"),
        [(chat, "Эксплуатация серверов и баз данных", model, 1234567890, at)],
        free=("title",),
    )
    lines = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()
    assert [chat, model, "1234567890", at] in [[word for word in line.split() if word.isascii()] for line in lines]
    if width != "200":
        assert len([line for line in lines if re.search("[А-я]", line)]) > 1, "free text gives way"
        assert max(map(len, lines)) <= 30 + 16 + 37 + 10 + 20 + 14, "no longer than it must be"


def test_headings_are_wrapped_before_the_line_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    Screen(stream).table(
        ("bot", "nick", "generation", "last event id", "highest stored", "changed"),
        [("1000000001", "opsbot", 1, 17, 17, "2026-11-24T08:24:00Z")],
    )
    assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines())) <= 80


def test_pairs_are_aligned() -> None:
    stream = io.StringIO()
    Screen(stream).pairs([("a", 1), ("longer", None), ("b", "")])
    assert stream.getvalue() == "a       1\nlonger  -\nb       -\n"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"), ("", "-"), ("\x1b", "-"), (True, "yes"), (False, "no"), (0, "0"), (1.23456789, "1.235"), ([], "-"),
        (["a", None], "a, -"), ("a\n\tb", "a b"), (Path("/x"), "/x"),
        (datetime(2026, 11, 24, 11, 24, 0, 125000, tzinfo=timezone(timedelta(hours=3))), "2026-11-24 08:24:00"),
    ],
)  # fmt: skip
def test_cells(value: Any, shown: str) -> None:
    assert cell(value) == shown


def test_plain_values() -> None:
    class Struct(msgspec.Struct):
        a: int
        b: tuple[str, ...]

    moment = datetime(2026, 11, 24, 8, 24, 0, 125000, tzinfo=UTC)
    assert plain({1: Row("x", moment), "s": Struct(1, ("y",)), "d": timedelta(seconds=1.5), "p": Path("/x")}) == {
        "1": {"name": "x", "at": "2026-11-24T08:24:00.125Z"}, "s": {"a": 1, "b": ["y"]}, "d": 1.5, "p": "/x",
    }  # fmt: skip
    assert plain(date(2026, 11, 24)) == "2026-11-24"
    assert plain([None, True, 1, 1.5, "x", {"a"}]) == [None, True, 1, 1.5, "x", ["a"]]


def test_times_are_rfc_3339_in_utc() -> None:
    assert rfc3339(datetime(2026, 11, 24, 8, 24, tzinfo=UTC)) == "2026-11-24T08:24:00Z"
    assert rfc3339(datetime(2026, 11, 24, 8, 24, 0, 100, tzinfo=UTC)) == "2026-11-24T08:24:00.0001Z"
    assert rfc3339(datetime(2026, 11, 24, 8, tzinfo=timezone(timedelta(hours=-2)))) == "2026-11-24T10:00:00Z"


def test_text_is_cleaned_for_a_terminal_and_for_a_line() -> None:
    assert terminal_safe(HOSTILE) == "a[31mbcdefghi\n\tj"
    assert one_line(" a\r\n\tb ") == "a b"
    assert terminal_safe("эмодзи 👩‍💻 ok") == "эмодзи 👩‍💻 ok", "the joiner within an emoji steers nothing"


@pytest.mark.parametrize(
    ("octets", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 * 2**20, "5.0 MiB"), (2**30, "1.0 GiB"), (2**42, "4.0 TiB")],
)  # fmt: skip
def test_sizes(octets: int, shown: str) -> None:
    assert size(octets) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1040.2, "1040"),
        (12345.6, "12350"),
        (1e12, "1000000000000"),
        (0.00001234, "0.00001234"),
        (2.5, "2.5"),
        (0.0, "0"),
    ],
)
def test_no_figure_has_an_exponent(value: float, shown: str) -> None:
    assert figure(value) == cell(value) == shown
