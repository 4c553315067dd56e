"""Reads times in words, Russian and English: `вчера 18:00`, `в прошлую пятницу`, `24.11.2026`, `last week`, `осенью`.

The grammar is small and strict. It never guesses: what has two meanings, or names no time, is refused. The day comes
before the month. A name without a year means the last one that has begun: in November, `в мае` is this year's May, and
`в декабре` last year's December.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo


@dataclass(frozen=True, slots=True)
class Span:
    """A span of time.

    Attributes:
        start: inclusive, aware.
        end: exclusive, aware; a moment has the end of its start.
    """

    start: datetime
    end: datetime


_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "январь января январе янв january jan", "февраль февраля феврале фев february feb",
            "март марта марте мар march mar", "апрель апреля апреле апр april apr", "май мая мае may",
            "июнь июня июне июн june jun", "июль июля июле июл july jul", "август августа августе авг august aug",
            "сентябрь сентября сентябре сен сент september sep sept", "октябрь октября октябре окт october oct",
            "ноябрь ноября ноябре ноя нояб november nov", "декабрь декабря декабре дек december dec",
        ),
        1,
    )
    for name in names.split()
}  # fmt: skip
_WEEKDAYS = {
    name: number
    for number, names in enumerate((
        "понедельник monday mon", "вторник tuesday tue", "среда среду wednesday wed", "четверг thursday thu",
        "пятница пятницу friday fri", "суббота субботу saturday sat", "воскресенье sunday sun",
    ))
    for name in names.split()
}  # fmt: skip
# The first month of each season; winter ends in the next year.
_SEASONS = {
    name: month
    for month, names in (
        (3, "весна весной весну spring"), (6, "лето летом summer"), (9, "осень осенью autumn fall"),
        (12, "зима зимой зиму winter"),
    )
    for name in names.split()
}  # fmt: skip
_DAYS = {"сегодня": 0, "today": 0, "вчера": 1, "yesterday": 1, "позавчера": 2}
_PARTS_OF_DAY = {
    name: hours
    for hours, names in (
        ((0, 6), "ночью night"), ((6, 12), "утром утро morning"), ((12, 18), "днем afternoon"),
        ((18, 24), "вечером вечер evening"),
    )
    for name in names.split()
}  # fmt: skip
_UNITS = {
    name: unit
    for unit, names in (
        ("minute", "минуту минута минуты минут minute minutes"), ("hour", "час часа часов hour hours"),
        ("day", "день дня дней сутки суток day days"), ("week", "неделю неделя недели недель week weeks"),
        ("month", "месяц месяца месяцев month months"), ("year", "год года лет year years"),
    )
    for name in names.split()
}  # fmt: skip
_LENGTHS = {
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(weeks=1),
}
_YEAR = r"(?P<year>[0-9]{4})(?: года| году| год| г\.?)?"
_CLOCK = re.compile(
    r"(?:^|[ t])(?:в |at )?(?P<hour>[0-9]{1,2})(?::(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2}))?)? ?(?P<half>am|pm)?$"
)
_RANGE = re.compile(r"(?:с|со|from) (?P<first>.+) (?:по|до|to|till|until) (?P<last>.+)|(?P<begin>.+?)\.\.(?P<end>.+)")
_LAST_UNITS = re.compile(
    r"за (?:последн[а-я]+ )?(?:([0-9]{1,6}) )?([а-я]+)|past (?:([0-9]{1,6}) )?([a-z]+)|last ([0-9]{1,6}) ([a-z]+)"
)
_NAMED = re.compile(
    rf"(?P<name>[а-яa-z]+)(?: {_YEAR}| (?P<last>прошлого года|last year)| (?P<this>этого года|this year))?"
)
_SHORT = re.compile(r"([0-9]{1,6})\s*([smhdw])")
_SHORT_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def read(text: str, now: datetime, zone: tzinfo = UTC) -> Span | None:
    """The span that a text names; None if it names none, or more than one.

    Args:
        text: in Russian or English.
        now: the present moment, aware.
        zone: in which days begin.
    """
    words = re.sub(r"\s+", " ", text.strip().lower().replace("ё", "е"))
    try:
        return _Reader(now.astimezone(zone)).read(words)
    except (ValueError, OverflowError):
        return None


class _Reader:
    """Reads one text, seen from a moment in the reader's own zone."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._today = now.date()

    def read(self, words: str) -> Span | None:
        if match := _RANGE.fullmatch(words):
            first = self.read((match["first"] or match["begin"]).strip())
            last = self.read((match["last"] or match["end"]).strip())
            return Span(first.start, last.end) if first and last and first.start < last.end else None
        for attempt in (self._ago, self._last_units, self._calendar):
            if (span := attempt(words)) is not None:
                return span
        return self._day_with_time(words)

    def _ago(self, words: str) -> Span | None:
        """`2h`, `3 дня назад`, `a week ago`: a moment."""
        if match := _SHORT.fullmatch(words):
            return self._moment(self._earlier(timedelta(**{_SHORT_UNITS[match[2]]: int(match[1])})))
        match = re.fullmatch(r"(?:([0-9]{1,6}|a|an|one) )?(\w+) (?:назад|ago)", words)
        if match is None or match[2] not in _UNITS:
            return None
        return self._moment(self._back(_UNITS[match[2]], _number(match[1])))

    def _last_units(self, words: str) -> Span | None:
        """`за последние 3 дня`, `past week`, `last 2 hours`: a span up to now."""
        match = _LAST_UNITS.fullmatch(words)
        if match is None:
            return None
        count, unit = match[1] or match[3] or match[5], match[2] or match[4] or match[6]
        return Span(self._back(_UNITS[unit], _number(count)), self._now) if unit in _UNITS else None

    def _back(self, unit: str, count: int) -> datetime:
        if unit in _LENGTHS:
            return self._earlier(count * _LENGTHS[unit])
        months = self._now.year * 12 + self._now.month - 1 - count * (12 if unit == "year" else 1)
        year, month = divmod(months, 12)
        last_day = (_next_month(date(year, month + 1, 1)) - timedelta(days=1)).day
        return self._now.replace(year=year, month=month + 1, day=min(self._now.day, last_day))

    def _earlier(self, length: timedelta) -> datetime:
        """So long ago. An hour is an hour, also in the night in which the clocks are set."""
        return (self._now.astimezone(UTC) - length).astimezone(self._now.tzinfo)

    def _calendar(self, words: str) -> Span | None:
        """Weeks, months, seasons and years."""
        bare = re.sub(r"^(?:в|во|на|за|in|during|the) ", "", words)
        if match := re.fullmatch(r"(эт\w+|прошл\w+|this|last) (недел\w+|месяц\w*|год\w*|week|month|year)", bare):
            return self._this_or_last(match[2], last=match[1].startswith(("прошл", "last")))
        if match := re.fullmatch(_YEAR, bare):
            return self._dates(date(int(match["year"]), 1, 1), date(int(match["year"]) + 1, 1, 1))
        match = re.fullmatch(
            rf"(?P<name>[а-яa-z]+)(?: {_YEAR}| (?P<last>прошлого года|last year)| (?P<this>этого года|this year))?",
            bare,
        )
        if match is None:
            return None
        year = int(match["year"]) if match["year"] else self._today.year - 1 if match["last"] else None
        year = self._today.year if match["this"] else year
        if (month := _MONTHS.get(match["name"])) is not None:
            return self._months(month, 1, year)
        if (month := _SEASONS.get(match["name"])) is not None:
            return self._months(month, 3, year)
        return None

    def _this_or_last(self, unit: str, *, last: bool) -> Span:
        today = self._today
        if unit.startswith(("недел", "week")):
            start = today - timedelta(days=today.weekday() + (7 if last else 0))
            return self._dates(start, start + timedelta(days=7))
        if unit.startswith(("месяц", "month")):
            start = today.replace(day=1)
            start = (start - timedelta(days=1)).replace(day=1) if last else start
            return self._dates(start, _next_month(start))
        start = date(today.year - (1 if last else 0), 1, 1)
        return self._dates(start, date(start.year + 1, 1, 1))

    def _months(self, month: int, count: int, year: int | None) -> Span:
        if year is None:
            year = self._today.year if date(self._today.year, month, 1) <= self._today else self._today.year - 1
        start = end = date(year, month, 1)
        for _ in range(count):
            end = _next_month(end)
        return self._dates(start, end)

    def _day_with_time(self, words: str) -> Span | None:
        """A day, a day with a time or a part of the day, or a time of today."""
        if (day := self._day(words)) is not None:
            return self._dates(day, day + timedelta(days=1))
        rest, _, last = words.rpartition(" ")
        if (hours := _PARTS_OF_DAY.get(last)) is not None:
            rest = re.sub(r" (?:in the|at)$", "", rest)
            day = self._day(rest) if rest else self._today
            return None if day is None else Span(self._at(day, hours[0]), self._at(day, hours[1]))
        match = _CLOCK.search(words)
        if match is None or (match["minute"] is None and match["half"] is None):
            return None
        rest = words[: match.start()].strip()
        day = self._day(rest) if rest else self._today
        if day is None:
            return None
        hour = int(match["hour"])
        if match["half"]:
            if not 1 <= hour <= 12:
                return None
            hour = hour % 12 + (12 if match["half"] == "pm" else 0)
        clock = time(hour, int(match["minute"] or 0), int(match["second"] or 0), tzinfo=self._now.tzinfo)
        return self._moment(datetime.combine(day, clock))

    def _day(self, words: str) -> date | None:
        if words in _DAYS:
            return self._today - timedelta(days=_DAYS[words])
        if words == "the day before yesterday":
            return self._today - timedelta(days=2)
        bare = re.sub(r"^(?:в|во|on) ", "", words)
        name = re.sub(r"^(?:прошл\w+|last) ", "", bare)
        if (weekday := _WEEKDAYS.get(name)) is not None:
            return self._today - timedelta(days=(self._today.weekday() - weekday - 1) % 7 + 1)
        return self._written_date(re.sub(r"^on ", "", words))

    def _written_date(self, words: str) -> date | None:
        """`2026-11-24`, `24.11.2026`, `24.11`, `24/11/2026`, `24 ноября 2026`, `November 24`."""
        if match := re.fullmatch(r"([0-9]{4})-?([0-9][0-9])-?([0-9][0-9])", words):
            return date(int(match[1]), int(match[2]), int(match[3]))
        if match := re.fullmatch(r"([0-9]{1,2})([./])([0-9]{1,2})(?:\2([0-9]{4}|[0-9][0-9]))?", words):
            return self._of(int(match[1]), int(match[3]), match[4])
        if match := re.fullmatch(rf"([0-9]{{1,2}})(?:-?го|st|nd|rd|th)? (?:of )?([а-яa-z]+)\.?,?(?: {_YEAR})?", words):
            day, name = match[1], match[2]
        elif match := re.fullmatch(rf"([a-z]+)\.? ([0-9]{{1,2}})(?:st|nd|rd|th)?,?(?: {_YEAR})?", words):
            name, day = match[1], match[2]
        else:
            return None
        return self._of(int(day), _MONTHS[name], match["year"]) if name in _MONTHS else None

    def _of(self, day: int, month: int, year: str | None) -> date:
        if year:
            return date(int(year) + (2000 if len(year) == 2 else 0), month, day)
        this_year = date(self._today.year, month, day)
        return this_year if this_year <= self._today else date(self._today.year - 1, month, day)

    def _dates(self, start: date, end: date) -> Span:
        return Span(self._at(start, 0), self._at(end, 0))

    def _at(self, day: date, hour: int) -> datetime:
        day += timedelta(days=hour // 24)
        return datetime.combine(day, time(hour % 24, tzinfo=self._now.tzinfo))

    @staticmethod
    def _moment(moment: datetime) -> Span:
        return Span(moment, moment)


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 1


def _next_month(day: date) -> date:
    return date(day.year + day.month // 12, day.month % 12 + 1, 1)
