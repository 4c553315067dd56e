"""Reads times in words, Russian and English: `вчера 18:00`, `в прошлую пятницу`, `24.11.2026`, `last week`, `осенью`.

The grammar is small and strict. It never guesses: what has two meanings, or names no time, is refused. The day comes
before the month. A name without a year means the last one that has begun: in November, `в мае` is this year's May, and
`в декабре` last year's December. A weekday is the last one before today.

No library reads what this grammar does not know. dateparser, which tries, takes a second to import, knows neither
`осенью` nor `в марте`, and answers `вчера в 6` and `5` with times that nobody named; this module says what to write.
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


class Ambiguous(ValueError):
    """A text names several times, or one that the clocks leave out; the sentence says what to write."""


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
        "понедельник понедельника пн monday mon", "вторник вторника вт tuesday tue tues",
        "среда среду среды ср wednesday wed",
        "четверг четверга чт thursday thu thur thurs",
        "пятница пятницу пятницы пт friday fri", "суббота субботу субботы сб saturday sat",
        "воскресенье воскресенья вс sunday sun",
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
        ((0, 6), "ночью"), ((6, 12), "утром утро morning"), ((12, 18), "днем afternoon"),
        ((18, 24), "вечером вечер evening"),
    )
    for name in names.split()
}  # fmt: skip
_UNITS = {
    name: unit
    for unit, names in (
        ("second", "секунду секунда секунды секунд сек second seconds sec secs"),
        ("minute", "минуту минута минуты минут мин minute minutes min mins"),
        ("hour", "час часа часов ч hour hours hr hrs"),
        ("day", "день дня дней сутки суток day days"), ("week", "неделю неделя недели недель week weeks"),
        ("month", "месяц месяца месяцев month months"), ("year", "год года лет year years"),
    )
    for name in names.split()
}  # fmt: skip
_COUNTS = {
    name: number
    for number, names in enumerate((
        "a an one один одна одну", "two два две", "three три", "four четыре", "five пять", "six шесть", "seven семь",
        "eight восемь", "nine девять", "ten десять",
    ), 1)
    for name in names.split()
}  # fmt: skip
_LENGTHS = {
    "second": timedelta(seconds=1),
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(weeks=1),
}
_WEEKEND = frozenset(("выходные", "выходных", "weekend", "the weekend"))
_ANY_NAME = frozenset().union(_MONTHS, _WEEKDAYS, _SEASONS, _DAYS, _PARTS_OF_DAY, _UNITS, _WEEKEND)
_ANY_BEGINNING = ("недел", "месяц", "год", "week", "month", "year")
_YEAR = r"(?P<year>[0-9]{4})(?: года| году| год| г\.?)?"
_CLOCK = re.compile(
    r"(?:^|[ t])(?P<at>в |at )?(?P<hour>[0-9]{1,2})(?::(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2}))?)?"
    r"(?: (?P<hours>час(?:а|ов)?|h))?(?: ?(?P<half>am|pm)| (?P<part>утра|дня|вечера|ночи))?$"
)
_RANGE = re.compile(
    r"(?:с|со|from) (?P<first>.+) (?:по|до|to|till|until) (?P<last>.+)|between (?P<one>.+) and (?P<other>.+)"
    r"|(?P<begin>.+?)\.\.(?P<end>.+)"
)
_TIME_FIRST = re.compile(
    r"(?:в |at )?(?P<time>[0-9]{1,2}:[0-9]{2}(?: [ap]m)?|утром|днем|вечером)(?: on|,)? (?P<day>.+?[^0-9].*)"
)
_DAYS_OF_MONTH = re.compile(r"(?:с |from )?([0-9]{1,2})(?: по | to | ?[-–] ?)([0-9]{1,2}) ([а-яa-z]+(?: [0-9]{4})?)")
_FROM = re.compile(r"(?:начиная с|с|со|since|from) (.+)")
_LAST_UNITS = re.compile(
    r"(?:за )?последн[а-я]+ (?:([а-я0-9]+) )?([а-я]+)|за (?:([а-я0-9]+) )?([а-я]+)|past (?:([a-z0-9]+) )?([a-z]+)"
    r"|last ([a-z0-9]+) ([a-z]+)|(last) (hour)"
)
_NAMED = re.compile(
    rf"(?:(?P<which>прошл[а-я]+|last) |(?P<now>эт[а-я]+|this) )?(?P<name>[а-яa-z]+)"
    rf"(?: {_YEAR}| (?P<last>прошлого года|last year)| (?P<this>этого года|this year))?"
)
_SHORT = re.compile(r"([0-9]{1,6})\s*([smhdw])(?: ago)?")
_LAST_SHORT = re.compile(r"(?:last|past|за|за последн[а-я]+) ([0-9]{1,6})\s*([smhdw])")
_SHORT_UNITS = {"s": "second", "m": "minute", "h": "hour", "d": "day", "w": "week"}


def may_name_time(word: str) -> bool:
    """Whether a word, folded and in lower case, can be the name in a time; every time has such a word or a digit."""
    return word in _ANY_NAME or word.startswith(_ANY_BEGINNING)


def read(text: str, now: datetime, zone: tzinfo = UTC) -> Span | None:
    """The span that a text names, in UTC; None if it names none.

    Args:
        text: in Russian or English.
        now: the present moment, aware.
        zone: in which days begin.

    Raises:
        Ambiguous: it names several, or a time that does not exist.
    """
    words = re.sub(r",? +|\s+", " ", text.strip().lower().replace("ё", "е"))
    try:
        return _Reader(now.astimezone(zone)).read(words)
    except Ambiguous:
        raise
    except (ValueError, OverflowError):
        return None


class _Reader:
    """Reads one text, seen from a moment in the reader's own zone."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._today = now.date()

    def read(self, words: str) -> Span | None:
        if match := _DAYS_OF_MONTH.fullmatch(words):
            first, last = self.read(f"{match[1]} {match[3]}"), self.read(f"{match[2]} {match[3]}")
            return Span(first.start, last.end) if first and last and first.start < last.end else None
        if match := _RANGE.fullmatch(words):
            first, last = (self.read(part.strip()) for part in match.groups() if part)
            return Span(first.start, last.end) if first and last and first.start < last.end else None
        if (match := _FROM.fullmatch(words)) and (first := self.read(match[1])):
            now = self._now.astimezone(UTC)
            return Span(first.start, now) if first.start <= now else None
        if match := _TIME_FIRST.fullmatch(words):
            words = f"{match['day']} {match['time']}"
        for attempt in (self._ago, self._last_units, self._calendar):
            if (span := attempt(words)) is not None:
                return span
        return self._day_with_time(words) or self._iso(words)

    def _iso(self, words: str) -> Span | None:
        """`2026-11-24T08:30+03:00`: a moment; without an offset the reader's wall shows it."""
        if not re.match(r"[0-9]{4}", words):
            return None
        moment = datetime.fromisoformat(words.upper())
        return self._moment(moment) if moment.tzinfo else self._wall(moment.date(), moment.time())

    def _ago(self, words: str) -> Span | None:
        """`2h`, `3 дня назад`, `a week ago`: a moment."""
        if words in ("now", "сейчас"):
            return self._moment(self._now)
        if match := _LAST_SHORT.fullmatch(words):
            return Span(
                self._back(_SHORT_UNITS[match[2]], int(match[1])).astimezone(UTC), self._now.astimezone(UTC)
            )  # fmt: skip
        if match := _SHORT.fullmatch(words):
            return self._moment(self._back(_SHORT_UNITS[match[2]], int(match[1])))
        if words == "полчаса назад":
            return self._moment(self._back("minute", 30))
        match = re.fullmatch(r"(?:([0-9]{1,6}|[а-яa-z]+) )?([а-яa-z]+) (?:назад|ago)|([0-9]{1,6}) ([а-яa-z]+)", words)
        if match is None:
            return None
        if (unit := _UNITS.get(match[2] or match[4])) is None:
            return None
        if len(match[3] or "") == 4 and unit == "year":
            return None  # `2026 год` is a year
        count = _number(match[1] or match[3])
        return None if count is None else self._moment(self._back(unit, count))

    def _last_units(self, words: str) -> Span | None:
        """`за последние 3 дня`, `past week`, `last 2 hours`: a span up to now."""
        match = _LAST_UNITS.fullmatch(words)
        if match is None:
            return None
        if match[9]:
            count, unit = None, match[10]
        else:
            count = next((match[n] for n in (1, 3, 5, 7) if match[n]), None)
            unit = next(match[n] for n in (2, 4, 6, 8) if match[n])
        number = _number(count)
        if unit not in _UNITS or number is None:
            return None
        return Span(self._back(_UNITS[unit], number).astimezone(UTC), self._now.astimezone(UTC))

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
        """Weeks, weekends, months, seasons and years."""
        bare = re.sub(r"^(?:в|во|на|за|in|during|on|at|the) ", "", words)
        if match := re.fullmatch(r"(эт\w+|прошл\w+|this|last) (недел\w+|месяц\w*|год\w*|week|month|year)", bare):
            return self._this_or_last(match[2], last=match[1].startswith(("прошл", "last")))
        if (match := re.fullmatch(r"(?:(эти|прошлые|прошлых|this|last) )?(.+)", bare)) and match[2] in _WEEKEND:
            return self._weekend(last=(match[1] or "").startswith(("прошл", "last")))
        if bare == "last night":
            return Span(self._at(self._today - timedelta(days=1), 18), self._at(self._today, 6))
        if bare == "tonight":
            return Span(self._at(self._today, 18), self._at(self._today, 24))
        if match := re.fullmatch(_YEAR, bare):
            return self._dates(date(int(match["year"]), 1, 1), date(int(match["year"]) + 1, 1, 1))
        if match := re.fullmatch(r"(?P<y>[0-9]{4})-(?P<m>[0-9]{2})|(?P<month>[0-9]{1,2})\.(?P<year>[0-9]{4})", bare):
            return self._months(int(match["m"] or match["month"]), 1, int(match["y"] or match["year"]))
        match = _NAMED.fullmatch(bare)
        if match is None:
            return None
        if (month := _MONTHS.get(match["name"])) is not None:
            length = 1
        elif (month := _SEASONS.get(match["name"])) is not None:
            length = 3
        else:
            return None
        return self._named(match, month, length)

    def _named(self, match: re.Match[str], month: int, length: int) -> Span:
        """A month or a season, as its words say: of a year, of this or the last year, or the last one."""
        if match["which"] and not (match["year"] or match["last"] or match["this"]):
            ended = self._today.year - (0 if self._months(month, length, self._today.year).end <= self._now else 1)
            if ended != self._today.year - 1 and month != 12:
                years = " or ".join(f"{match['name']} {year}" for year in (ended, self._today.year - 1))
                raise Ambiguous(f"it may be this year's or last year's: write {years}")
            return self._months(month, length, self._today.year - 1)
        if month + length > 13 and (match["now"] or match["year"] or match["last"] or match["this"]):
            named = self._year(match) or 0
            raise Ambiguous(
                f"a winter lies in two years: write {named - 1}-12..{named}-02 or {named}-12..{named + 1}-02"
            )
        return self._months(month, length, self._year(match))

    def _year(self, match: re.Match[str]) -> int | None:
        if match["year"]:
            return int(match["year"])
        return self._today.year - 1 if match["last"] else self._today.year if match["this"] or match["now"] else None

    def _weekend(self, *, last: bool) -> Span | None:
        """The last weekend that has begun; with `last` the one before this week."""
        saturday = self._today - timedelta(days=self._today.weekday() + 2)
        if not last and self._today.weekday() >= 5:
            saturday += timedelta(days=7)
        return self._dates(saturday, saturday + timedelta(days=2))

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
        if (span := self._part_of_day(words)) is not None:
            return span
        noon = re.sub(r"(^| )(?:(?:в |at )?(?:полдень|noon))$", r"\g<1>12:00", words)
        match = _CLOCK.search(noon)
        if match is None:
            return None
        rest = noon[: match.start()].strip()
        day = self._day(rest) if rest else self._today
        if day is None:
            return None
        hour = int(match["hour"])
        if match["half"] or match["part"]:
            if not 1 <= hour <= 12:
                return None
            hour = hour % 12 + (12 if match["half"] == "pm" or _is_afternoon(match["part"], hour) else 0)
        elif match["minute"] is None:
            if not (match["at"] or match["hours"]) or hour > 23:
                return None
            if hour <= 12:
                when = f"{rest} " if rest else ""
                raise Ambiguous(f"it may be in the morning or in the evening: write {when}{hour % 12:02}:00 or"
                                f" {when}{hour % 12 + 12:02}:00")  # fmt: skip
        return self._wall(day, time(hour, int(match["minute"] or 0), int(match["second"] or 0)))

    def _part_of_day(self, words: str) -> Span | None:
        rest, _, last = words.rpartition(" ")
        if last == "night" or (last == "ночью" and rest not in ("", "сегодня")):
            day = self._day(rest)
            if day is None:
                return None
            next_day = day + timedelta(days=1)
            raise Ambiguous(
                f"it may be the night before or after that day: write {day} 00:00..{day} 06:00 or"
                f" {day} 18:00..{next_day} 06:00"
            )
        if (hours := _PARTS_OF_DAY.get(last)) is None:
            return None
        rest = re.sub(r" ?\b(?:in the|at|this)$", "", rest)
        day = self._day(rest) if rest else self._today
        return None if day is None else Span(self._at(day, hours[0]), self._at(day, hours[1]))

    def _wall(self, day: date, clock: time) -> Span:
        """The moment at which a clock on the reader's wall shows this."""
        local = datetime.combine(day, clock, tzinfo=self._now.tzinfo)
        first, second = (local.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
        shown = f"{clock:%H:%M} on {day}"
        if first < second:
            times = " or ".join(local.replace(fold=fold).isoformat(timespec="minutes") for fold in (0, 1))
            raise Ambiguous(f"there are two {shown}, because the clocks are set back then: write {times}")
        if first > second:
            raise Ambiguous(f"there is no {shown}: the clocks are set forward then. Write a time before or after")
        return Span(first, first)

    def _day(self, words: str) -> date | None:
        if words in _DAYS:
            return self._today - timedelta(days=_DAYS[words])
        if words in ("the day before yesterday", "day before yesterday"):
            return self._today - timedelta(days=2)
        bare = re.sub(r"^(?:в|во|on) ", "", words)
        which, _, name = bare.rpartition(" ")
        if (weekday := _WEEKDAYS.get(name)) is not None:
            return self._weekday(weekday, which)
        return self._written_date(re.sub(r"^on ", "", words))

    def _weekday(self, weekday: int, which: str) -> date | None:
        before_today = self._today - timedelta(days=(self._today.weekday() - weekday - 1) % 7 + 1)
        if not which:
            return before_today
        monday = self._today - timedelta(days=self._today.weekday())
        if re.fullmatch(r"эт\w+|this", which):
            day = monday + timedelta(days=weekday)
            if day > self._today:
                raise Ambiguous(f"it is {day} in this week, which is still to come: write {before_today}")
            return day
        if not re.fullmatch(r"прошл\w+|last", which):
            return None
        of_last_week = monday + timedelta(days=weekday - 7)
        if of_last_week != before_today and weekday != self._today.weekday():
            raise Ambiguous(f"it may be {before_today} or {of_last_week}: write one of these dates")
        return of_last_week

    def _written_date(self, words: str) -> date | None:
        """`2026-11-24`, `24.11.2026`, `24.11`, `24/11/2026`, `24 ноября 2026`, `November 24`."""
        if match := re.fullmatch(r"([0-9]{4})-?([0-9][0-9])-?([0-9][0-9])", words):
            return date(int(match[1]), int(match[2]), int(match[3]))
        if match := re.fullmatch(r"(?:the )?([0-9]{1,2})(?:-?(?:го|е)(?: числа)?| числа|st|nd|rd|th)", words):
            return self._day_of_month(int(match[1]))
        if match := re.fullmatch(r"([0-9]{1,2})([./])([0-9]{1,2})(?:\2([0-9]{4}|[0-9][0-9]))?", words):
            day, month = int(match[1]), int(match[3])
            if month > 12 >= day:
                year = f".{match[4]}" if match[4] else ""
                raise Ambiguous(f"there is no month {month}: the day comes before the month. Write {month}.{day}{year}")
            return self._of(day, month, match[4])
        if match := re.fullmatch(rf"([0-9]{{1,2}})(?:-?го|st|nd|rd|th)? (?:of )?([а-яa-z]+)\.?,?(?: {_YEAR})?", words):
            day_text, name = match[1], match[2]
        elif match := re.fullmatch(rf"([a-z]+)\.? ([0-9]{{1,2}})(?:st|nd|rd|th)?,?(?: {_YEAR})?", words):
            name, day_text = match[1], match[2]
        else:
            return None
        return self._of(int(day_text), _MONTHS[name], match["year"]) if name in _MONTHS else None

    def _day_of_month(self, day: int) -> date:
        """The last day of this number, today included."""
        month = self._today.replace(day=1)
        while True:
            if (month.month == self._today.month and day > self._today.day) or day > (_next_month(month) - month).days:
                month = (month - timedelta(days=1)).replace(day=1)
                if month.year < self._today.year - 1:
                    raise ValueError(day)
                continue
            return month.replace(day=day)

    def _of(self, day: int, month: int, year: str | None) -> date:
        if year:
            return date(int(year) + (2000 if len(year) == 2 else 0), month, day)
        this_year = date(self._today.year, month, day)
        return this_year if this_year <= self._today else date(self._today.year - 1, month, day)

    def _dates(self, start: date, end: date) -> Span:
        return Span(self._at(start, 0), self._at(end, 0))

    def _at(self, day: date, hour: int) -> datetime:
        """The moment at which this hour of the day begins; if the clocks skip it, the moment at which they do."""
        day += timedelta(days=hour // 24)
        return datetime.combine(day, time(hour % 24, tzinfo=self._now.tzinfo)).astimezone(UTC)

    @staticmethod
    def _moment(moment: datetime) -> Span:
        moment = moment.astimezone(UTC)
        return Span(moment, moment)


def _is_afternoon(part: str | None, hour: int) -> bool:
    """Whether the hour of `6 вечера`, `12 дня` or `2 ночи` is after noon; 12 itself counts as the hour 0."""
    return part == "дня" or (part == "вечера" and hour != 12)


def _number(text: str | None) -> int | None:
    """The count that a text says, 1 without a text; None if it says none."""
    if text is None:
        return 1
    return int(text) if text.isdecimal() and text.isascii() else _COUNTS.get(text)


def _next_month(day: date) -> date:
    return date(day.year + day.month // 12, day.month % 12 + 1, 1)
