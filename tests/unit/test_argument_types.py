"""The words of vkteamsctl's command line as values, and the error that names the option."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vkteams_daemon import times
from vkteams_daemon.config import load
from vkteams_daemon.ctl import argument_types, command_line
from vkteams_daemon.ctl.command_line import Parser
from vkteams_daemon.daemon import arguments
from vkteams_daemon.errors import ConfigError, UsageError
from vkteams_daemon.options import Option, options


def test_types_read_their_values() -> None:
    assert argument_types.positive("1") == 1
    assert argument_types.positive("999999999") == 999_999_999
    assert (argument_types.event_id("0"), argument_types.port("65535")) == (0, 65535)
    assert argument_types.address("127.0.0.1:8080") == ("127.0.0.1", 8080)
    assert argument_types.address("[::1]:0") == ("::1", 0)
    assert (argument_types.interval("0.1"), argument_types.rate("100000")) == (0.1, 100_000.0)
    assert (argument_types.timeout("0"), argument_types.timeout("2.5"), argument_types.rate(".5")) == (0.0, 2.5, 0.5)


@pytest.mark.parametrize(
    ("read", "words", "sentence"),
    [
        (
            argument_types.positive,
            ("0", "-1", "", "1.5", "x", "1e3", "٥", "9999999999", " 1"),
            "is not a whole number from 1 on",
        ),
        (argument_types.event_id, ("-1", "", "x", "٥"), "is not an event id"),
        (argument_types.port, ("-1", "65536", "x"), "is not a port"),
        (argument_types.address, ("8080", ":8080", "host:", "host:65536", "host:٥"), "is not HOST:PORT"),
        (argument_types.interval, ("0", "3601", "x"), "is not a number of seconds from 0.1 to 3600"),
        (argument_types.rate, ("0", "100001", "x", "1e-300"), "is not a number of events a second"),
        (argument_types.timeout, ("-1", "86401", "x", "", " 1"), "is not a number of seconds from 0 to 86400"),
    ],
)
def test_types_refuse_other_words(read: Callable[[str], object], words: tuple[str, ...], sentence: str) -> None:
    for word in words:
        with pytest.raises(UsageError, match=sentence):
            read(word)


HOSTILE = (
    "nan", "NaN", "-nan", "inf", "-inf", "infinity", "1e400", "-1e400", "1e-400", "1e5", "-1", "-0.5", "+5", "0x10",
    "1_000", "1,5", "٥", "²", "9" * 30, "9" * 5000, "0." + "1" * 5000, "", " ", "1 ", "\n1", "5d\n",
)  # fmt: skip
OPTIONS = {"config init retention"}  # an option's text, which its pattern checks
NUMBERS = {"N", "SECONDS", "EVENTID", "AGE", "TIME", "PORT"}


def _typed() -> Iterator[tuple[str, argparse.Action]]:
    """Every argument of both programs that is not read as a plain word."""
    parsers = [(f"vkteamsd {a.dest}", a) for a in arguments.parser()._actions]
    for name in command_line.NOUNS:
        nouns = next(a for a in command_line.build(name)._actions if isinstance(a, argparse._SubParsersAction))
        verbs = next(a for a in nouns.choices[name]._actions if isinstance(a, argparse._SubParsersAction))
        for verb, parser in verbs.choices.items():
            parsers += [(f"{name} {verb} {a.dest}", a) for a in parser._actions]
    for what, action in parsers:
        if action.type is None:
            named = action.metavar in NUMBERS and what not in OPTIONS
            assert not named, f"{what}: give it a type of ctl/argument_types.py"
        elif action.type is not str:
            yield what, action


@pytest.mark.parametrize(("what", "action"), [pytest.param(*each, id=each[0]) for each in _typed()])
def test_no_argument_takes_a_number_that_is_none(what: str, action: argparse.Action) -> None:
    assert action.type not in (int, float), "int and float take nan, infinity, underscores and spaces"
    assert callable(action.type)
    for word in HOSTILE:
        try:
            value = action.type(word)
        except UsageError as error:
            assert len(str(error)) < 200, "a long word is not repeated whole"
            continue
        if isinstance(value, int | float):
            assert math.isfinite(value) and 0 <= value < 1 << 63, (word, value)


@pytest.mark.parametrize("option", [o for o in options() if o.type in ("int", "float")], ids=lambda option: option.name)
def test_no_option_takes_a_number_that_is_none(option: Option, tmp_path: Path) -> None:
    assert "at most" in option.limits
    file = tmp_path / "vkteamsd.toml"
    for word in ("nan", "-nan", "inf", "-inf", "1e400", "-1", "9" * 30, "x"):
        file.write_text(f"[{option.section}]\n{option.key} = {word}\n")
        for source in ({}, {option.variable: word}):
            with pytest.raises(ConfigError):
                load("/dev/null" if source else file, environ=source)


@pytest.mark.parametrize("read", [times.parse_since, times.parse_until, times.parse_age, argument_types.positive])
def test_parser_names_the_option(read: Callable[[str], object]) -> None:
    parser = Parser(prog="x")
    parser.add_argument("--option", type=read)
    with pytest.raises(UsageError, match="--option: 'soon' is not ") as error:
        parser.parse_args(["--option", "soon"])
    assert error.value.hint == "See `x --help`."
