"""Times in words, seen from Wednesday, 25 November 2026, 12:30."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vkteams_daemon.time_expressions import read

NOW = datetime(2026, 11, 25, 12, 30, tzinfo=UTC)
DAY = timedelta(days=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("сегодня", "2026-11-25"), ("Вчера", "2026-11-24"), ("позавчера", "2026-11-23"), ("today", "2026-11-25"),
        (" yesterday ", "2026-11-24"), ("the day before yesterday", "2026-11-23"),
        ("в пятницу", "2026-11-20"), ("пятница", "2026-11-20"), ("friday", "2026-11-20"), ("on Friday", "2026-11-20"),
        ("last friday", "2026-11-20"), ("в прошлую пятницу", "2026-11-20"), ("во вторник", "2026-11-24"),
        ("в среду", "2026-11-18"), ("в прошлое воскресенье", "2026-11-22"),
        ("24.11.2026", "2026-11-24"), ("24.11.26", "2026-11-24"), ("24.11", "2026-11-24"), ("26.11", "2025-11-26"),
        ("1/2/2026", "2026-02-01"), ("2026-11-24", "2026-11-24"), ("20261124", "2026-11-24"),
        ("24 ноября", "2026-11-24"), ("24 ноября 2025", "2025-11-24"), ("24 ноября 2025 года", "2025-11-24"),
        ("3-го марта", "2026-03-03"), ("24 Nov", "2026-11-24"), ("November 24, 2025", "2025-11-24"),
        ("nov 26th", "2025-11-26"), ("24th of november", "2026-11-24"), ("31 декабря", "2025-12-31"),
    ],
)  # fmt: skip
def test_days(text: str, day: str) -> None:
    span = read(text, NOW)
    assert span is not None
    assert (span.start, span.end) == (at(day), at(day) + DAY)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("вчера вечером", "2026-11-24T18:00", "2026-11-25"),
        ("yesterday morning", "2026-11-24T06:00", "2026-11-24T12:00"),
        ("в пятницу днём", "2026-11-20T12:00", "2026-11-20T18:00"), ("утром", "2026-11-25T06:00", "2026-11-25T12:00"),
        ("на этой неделе", "2026-11-23", "2026-11-30"), ("last week", "2026-11-16", "2026-11-23"),
        ("на прошлой неделе", "2026-11-16", "2026-11-23"), ("this month", "2026-11-01", "2026-12-01"),
        ("в прошлом месяце", "2026-10-01", "2026-11-01"), ("last year", "2025-01-01", "2026-01-01"),
        ("в этом году", "2026-01-01", "2027-01-01"), ("в мае", "2026-05-01", "2026-06-01"),
        ("in may", "2026-05-01", "2026-06-01"), ("декабрь", "2025-12-01", "2026-01-01"),
        ("май 2024", "2024-05-01", "2024-06-01"), ("в мае прошлого года", "2025-05-01", "2025-06-01"),
        ("осенью", "2026-09-01", "2026-12-01"), ("зимой", "2025-12-01", "2026-03-01"),
        ("last 3 days", "2026-11-22T12:30", "2026-11-25T12:30"), ("past week", "2026-11-18T12:30", "2026-11-25T12:30"),
        ("за последние 2 часа", "2026-11-25T10:30", "2026-11-25T12:30"),
        ("за неделю", "2026-11-18T12:30", "2026-11-25T12:30"), ("летом 2025", "2025-06-01", "2025-09-01"),
        ("2025", "2025-01-01", "2026-01-01"), ("в 2025 году", "2025-01-01", "2026-01-01"),
        ("с 1 мая по 5 мая", "2026-05-01", "2026-05-06"), ("from monday to tuesday", "2026-11-23", "2026-11-25"),
        ("2026-11-01..2026-11-03", "2026-11-01", "2026-11-04"),
    ],
)  # fmt: skip
def test_spans(text: str, start: str, end: str) -> None:
    span = read(text, NOW)
    assert span is not None
    assert (span.start, span.end) == (at(start), at(end))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2h", "2026-11-25T10:30"), ("3 дня назад", "2026-11-22T12:30"), ("неделю назад", "2026-11-18T12:30"),
        ("a month ago", "2026-10-25T12:30"), ("2 года назад", "2024-11-25T12:30"), ("час назад", "2026-11-25T11:30"),
        ("вчера 18:00", "2026-11-24T18:00"), ("вчера в 18:00", "2026-11-24T18:00"), ("18:00", "2026-11-25T18:00"),
        ("yesterday at 6 pm", "2026-11-24T18:00"), ("friday 12am", "2026-11-20T00:00"),
        ("24.11.2026 08:05:30", "2026-11-24T08:05:30"), ("2026-11-24t08:30", "2026-11-24T08:30"),
        ("24 ноября 8:30", "2026-11-24T08:30"),
    ],
)  # fmt: skip
def test_moments(text: str, moment: str) -> None:
    span = read(text, NOW)
    assert span is not None
    assert span.start == span.end == at(moment)


@pytest.mark.parametrize(
    "text",
    [
        "", "tomorrow", "завтра", "5", "11/24/2026", "32.11.2026", "29.02.2026", "25:00", "вчера 25:00", "13 pm",
        "в прошлую", "за апельсины", "last", "с мая по апрель", "вчера или сегодня", "недавно", "-5d", "1.5h", "may be",
        "99999999999d", "0000", "with a friend", "٥d",
    ],
)  # fmt: skip
def test_what_names_no_time_is_refused(text: str) -> None:
    assert read(text, NOW) is None


def test_days_begin_in_the_readers_zone_also_when_clocks_are_set() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    span = read("25.10.2026", NOW, berlin)
    assert span is not None
    assert span.end.astimezone(UTC) - span.start.astimezone(UTC) == timedelta(hours=25)
    night = datetime(2026, 10, 25, 3, 30, tzinfo=berlin)
    ago = read("2h", night, berlin)
    assert ago is not None
    assert night.astimezone(UTC) - ago.start.astimezone(UTC) == timedelta(hours=2)


@given(st.text(max_size=30))
def test_no_text_is_an_internal_error(text: str) -> None:
    span = read(text, NOW)
    assert span is None or span.start <= span.end
