"""The paging cursor of a search."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vkteams_daemon.errors import UsageError
from vkteams_daemon.mcp.tools import pagination
from vkteams_daemon.search.cursor import Cursor, encode, fingerprint, parse
from vkteams_daemon.search.results import Ranked

ASKED = datetime(2026, 11, 25, 12, 0, 0, 123456, tzinfo=UTC)
RANKED = [Ranked("c", str(n), 1.0) for n in range(6)]


def test_parse_reads_what_text_wrote() -> None:
    cursor = Cursor("q", ASKED, 3, ("чат@chat.agent", "7576322310144000017"))
    assert parse(cursor.text, "q") == cursor


def test_page_begins_after_the_last_message() -> None:
    assert [r.msg_id for r in Cursor("q", ASKED, 3, ("c", "2")).rest(RANKED)] == ["3", "4", "5"]


def test_deleted_message_does_not_move_the_page() -> None:
    remaining = [ranked for ranked in RANKED if ranked.msg_id != "0"]
    assert [r.msg_id for r in Cursor("q", ASKED, 3, ("c", "2")).rest(remaining)] == ["3", "4", "5"]


def test_page_is_counted_if_the_last_message_is_gone() -> None:
    remaining = [ranked for ranked in RANKED if ranked.msg_id != "2"]
    assert [r.msg_id for r in Cursor("q", ASKED, 2, ("c", "2")).rest(remaining)] == ["3", "4", "5"]


@pytest.mark.parametrize(
    "text", ["", "x", "!!!", base64.urlsafe_b64encode(b"[1]").decode(), base64.urlsafe_b64encode(b"{}").decode(),
             base64.urlsafe_b64encode(b'["q","2026-11-25",1,"c","m"]').decode(), "я",
             encode(["q", "2026-11-25T00:00Z", float("inf"), "c", "m"]),
             encode(["q", "0001-01-01T00:00+14:00", 1, "c", "m"]),
             base64.urlsafe_b64encode(b"[" * 100_000).decode(),
             encode(["q", "9999-12-31T23:59:59-12:00", 1, "c", "m"]),
             encode(["q", "9999-06-01T00:00Z", 1, "c", "m"]), encode(["q", "0001-06-01T00:00Z", 1, "c", "m"]),
             encode(["q", "2026-11-25T00:00Z", 10**30, "c", "m"]),
             encode(["q", "2026-11-25T00:00Z", True, "c", "m"]), encode(["q", "2026-11-25T00:00Z", "1", "c", "m"]),
             encode(["q", "2026-11-25T00:00Z", 1, "c", "m\0"]), encode("qam01"), "\ud800",
             base64.urlsafe_b64encode(b'["q","2026-11-25T00:00Z",1,"c","\\ud800"]').decode()],
)  # fmt: skip
def test_unreadable_cursor_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        parse(text, "q")


def test_cursor_of_another_question_is_refused() -> None:
    text = Cursor(fingerprint("one"), ASKED, 1, ("c", "m")).text
    with pytest.raises(UsageError, match="another question"):
        parse(text, fingerprint("two"))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters())
    | st.sampled_from(["q", "2026-11-25T00:00Z", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", 10**400]),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)  # fmt: skip


@given(st.lists(_JSON, min_size=3, max_size=5) | _JSON)
def test_a_crafted_cursor_is_read_or_refused(value: object) -> None:
    text = base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
    readers: list[Callable[[str], object]] = [
        lambda text: parse(text, "q"), pagination.parse_message_cursor, pagination.parse_offset_cursor,
    ]  # fmt: skip
    for read in readers:
        with contextlib.suppress(UsageError):
            read(text)


@given(st.text(st.characters(), max_size=50))
def test_any_text_in_the_place_of_a_cursor_is_refused(text: str) -> None:
    for read in (pagination.parse_message_cursor, pagination.parse_offset_cursor):
        with contextlib.suppress(UsageError):
            read(text)
