"""`--no-save`: what is printed is JSON, one event a line, on whatever it is printed."""

from __future__ import annotations

import io
import json

import pytest

from tests.harness.samples import ARRIVAL, GROUP, body, message
from vkteams_daemon.botapi.events import read
from vkteams_daemon.daemon.polling.event_printer import EventPrinter

HOSTILE = "привет \x9b31m \u202e \x7f \u2028 конец"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_hostile_text_is_printed_as_harmless_json(encoding: str) -> None:
    octets = io.BytesIO()
    out = io.TextIOWrapper(octets, encoding=encoding)
    events = read(body(message(1, HOSTILE, chat=GROUP), message(2, "ok", chat=GROUP)), ARRIVAL)
    stored = EventPrinter(out=out).store(events)
    assert stored.moved
    lines = octets.getvalue().decode(encoding).splitlines()
    assert [json.loads(line)["payload"]["text"] for line in lines] == [HOSTILE, "ok"]
    assert lines[0].isprintable()
    assert ("привет" in lines[0]) is (encoding == "utf-8")
