"""The words of vkteamsctl's command line as values, and the error that names the option."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vkteams_daemon import times
from vkteams_daemon.ctl import argument_types
from vkteams_daemon.ctl.command_line import Parser
from vkteams_daemon.errors import UsageError


def test_types_read_their_values() -> None:
    assert argument_types.positive("1") == 1
    assert argument_types.positive("999999999") == 999_999_999
    assert (argument_types.event_id("0"), argument_types.port("65535")) == (0, 65535)
    assert argument_types.address("127.0.0.1:8080") == ("127.0.0.1", 8080)
    assert argument_types.address("[::1]:0") == ("::1", 0)
    assert (argument_types.interval("0.1"), argument_types.rate("100000")) == (0.1, 100_000.0)


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
        (argument_types.interval, ("0", "3601", "x", "nan"), "is not a number of seconds from 0.1 to 3600"),
        (argument_types.rate, ("0", "100001", "x", "nan", "inf"), "is not a number of events a second"),
    ],
)
def test_types_refuse_other_words(read: Callable[[str], object], words: tuple[str, ...], sentence: str) -> None:
    for word in words:
        with pytest.raises(UsageError, match=sentence):
            read(word)


@pytest.mark.parametrize("read", [times.parse_since, times.parse_until, times.parse_age, argument_types.positive])
def test_parser_names_the_option(read: Callable[[str], object]) -> None:
    parser = Parser(prog="x")
    parser.add_argument("--option", type=read)
    with pytest.raises(UsageError, match="--option: 'soon' is not ") as error:
        parser.parse_args(["--option", "soon"])
    assert error.value.hint == "See `x --help`."
