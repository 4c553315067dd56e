"""Times in words, seen from Wednesday, 25 November 2026, 12:30."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vkteams_daemon.time_expressions import Ambiguous, read

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
        ("в пт", "2026-11-20"), ("24-го", "2026-11-24"), ("26 числа", "2026-10-26"), ("31-го", "2026-10-31"),
        ("the 24th", "2026-11-24"), ("3-го марта", "2026-03-03"), ("24 Nov", "2026-11-24"),
        ("November 24, 2025", "2025-11-24"),
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
        ("2026-05", "2026-05-01", "2026-06-01"), ("05.2026", "2026-05-01", "2026-06-01"),
        ("последний час", "2026-11-25T11:30", "2026-11-25T12:30"),
        ("за две недели", "2026-11-11T12:30", "2026-11-25T12:30"),
        ("с понедельника", "2026-11-23", "2026-11-25T12:30"), ("since monday", "2026-11-23", "2026-11-25T12:30"),
        ("с 1 по 5 мая", "2026-05-01", "2026-05-06"), ("1-5 мая", "2026-05-01", "2026-05-06"),
        ("на выходных", "2026-11-21", "2026-11-23"), ("last weekend", "2026-11-21", "2026-11-23"),
        ("last night", "2026-11-24T18:00", "2026-11-25T06:00"), ("ночью", "2026-11-25", "2026-11-25T06:00"),
        ("прошлой зимой", "2025-12-01", "2026-03-01"), ("last december", "2025-12-01", "2026-01-01"),
        ("прошлой осенью", "2025-09-01", "2025-12-01"), ("этой осенью", "2026-09-01", "2026-12-01"),
        ("вечером в пятницу", "2026-11-20T18:00", "2026-11-21"),
        ("this morning", "2026-11-25T06:00", "2026-11-25T12:00"),
        ("last 24h", "2026-11-24T12:30", "2026-11-25T12:30"),
        ("за последние 2h", "2026-11-25T10:30", "2026-11-25T12:30"),
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
        ("24 ноября 8:30", "2026-11-24T08:30"), ("2 часа", "2026-11-25T10:30"),
        ("две недели назад", "2026-11-11T12:30"),
        ("вчера в 6 вечера", "2026-11-24T18:00"), ("вчера в 12 ночи", "2026-11-24"),
        ("в 3 часа дня", "2026-11-25T15:00"),
        ("вчера в 18", "2026-11-24T18:00"), ("yesterday noon", "2026-11-24T12:00"), ("сейчас", "2026-11-25T12:30"),
        ("в 18:00 вчера", "2026-11-24T18:00"), ("24.11.2026, 18:00", "2026-11-24T18:00"),
        ("2026-11-24T08:30:15.5+03:00", "2026-11-24T05:30:15.500"), ("20261124T0830", "2026-11-24T08:30"),
    ],
)  # fmt: skip
def test_moments(text: str, moment: str) -> None:
    span = read(text, NOW)
    assert span is not None
    assert span.start == span.end == at(moment)


@pytest.mark.parametrize(
    "text",
    [
        "", "tomorrow", "завтра", "5", "32-го", "0th", "18:00 5", "32.11.2026", "29.02.2026", "25:00", "вчера 25:00",
        "13 pm",
        "в прошлую", "за апельсины", "last", "с мая по апрель", "вчера или сегодня", "недавно", "-5d", "1.5h", "may be",
        "99999999999d", "0000", "with a friend", "٥d",
    ],
)  # fmt: skip
def test_what_names_no_time_is_refused(text: str) -> None:
    assert read(text, NOW) is None


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("last tuesday", "2026-11-24 or 2026-11-17"), ("в прошлый вторник", "2026-11-24 or 2026-11-17"),
        ("в эту пятницу", "write 2026-11-20"), ("прошлым летом", "летом 2026 or летом 2025"),
        ("last may", "may 2026 or may 2025"), ("зимой 2025", "2024-12..2025-02 or 2025-12..2026-02"),
        ("вчера в 6", "вчера 06:00 or вчера 18:00"), ("в 12", "00:00 or 12:00"), ("11/24/2026", "24.11.2026"),
        ("11/24", "24.11"), ("вчера ночью", "2026-11-24 18:00..2026-11-25 06:00"),
        ("friday night", "2026-11-20 18:00.."),
    ],
)  # fmt: skip
def test_what_has_two_meanings_is_refused_with_what_to_write(text: str, instead: str) -> None:
    with pytest.raises(Ambiguous, match=re.escape(instead)):
        read(text, NOW)
    for alternative in re.sub("^.*[wW]rite (one of these dates)?", "", instead).split(" or "):
        assert read(alternative.removesuffix(".."), NOW), "what the refusal tells to write is understood"


@pytest.mark.parametrize(
    ("zone", "text", "problem"),
    [
        ("Europe/Berlin", "25.10.2026 02:30", "2026-10-25T02:30+02:00 or 2026-10-25T02:30+01:00"),
        ("Europe/Berlin", "2026-03-29T02:30", "there is no 02:30 on 2026-03-29"),
        ("Europe/Moscow", "26.10.2014 01:30", "2014-10-26T01:30+04:00 or 2014-10-26T01:30+03:00"),
        ("Europe/Moscow", "27.03.2011 02:15", "there is no 02:15 on 2011-03-27"),
    ],
)
def test_a_time_that_clocks_show_twice_or_never_is_refused(zone: str, text: str, problem: str) -> None:
    with pytest.raises(Ambiguous, match=re.escape(problem)):
        read(text, NOW, ZoneInfo(zone))


@pytest.mark.parametrize(
    ("zone", "text", "start", "end"),
    [
        ("Europe/Moscow", "26.10.2014", "2014-10-25T20:00", "2014-10-26T21:00"),
        ("Europe/Moscow", "июль 2010", "2010-06-30T20:00", "2010-07-31T20:00"),
        ("Europe/Moscow", "январь 2013", "2012-12-31T20:00", "2013-01-31T20:00"),
        ("Europe/Moscow", "вчера", "2026-11-23T21:00", "2026-11-24T21:00"),
        ("Europe/Berlin", "29.03.2026", "2026-03-28T23:00", "2026-03-29T22:00"),
        ("Europe/Berlin", "2026-10-25 00:00..2026-10-25 12:00", "2026-10-24T22:00", "2026-10-25T11:00"),
        # Midnight does not exist: the clocks go from 24:00 to 01:00.
        ("America/Sao_Paulo", "04.11.2018", "2018-11-04T03:00", "2018-11-05T02:00"),
    ],
)
def test_days_are_those_of_the_zone_at_that_time(zone: str, text: str, start: str, end: str) -> None:
    span = read(text, NOW, ZoneInfo(zone))
    assert span is not None
    assert (span.start, span.end) == (at(start), at(end))


def test_days_begin_in_the_readers_zone_also_when_clocks_are_set() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    span = read("25.10.2026", NOW, berlin)
    assert span is not None
    assert span.end.astimezone(UTC) - span.start.astimezone(UTC) == timedelta(hours=25)
    night = datetime(2026, 10, 25, 3, 30, tzinfo=berlin)
    ago = read("2h", night, berlin)
    assert ago is not None
    assert night.astimezone(UTC) - ago.start.astimezone(UTC) == timedelta(hours=2)


_PIECES = st.sampled_from([
    "в", "last", "прошлой", "вчера", "friday", "night", "ночью", "5", "12", "мая", "may", "осенью", "зимой", "..", "с",
    "по", "2026", "24.11", "18:00", "ago", "назад", "3", "weeks", "за",
])  # fmt: skip


@given(st.text(max_size=30) | st.lists(_PIECES, max_size=5).map(" ".join))
def test_no_text_is_an_internal_error(text: str) -> None:
    try:
        span = read(text, NOW, ZoneInfo("Europe/Berlin"))
    except Ambiguous:
        return
    assert span is None or span.start <= span.end
