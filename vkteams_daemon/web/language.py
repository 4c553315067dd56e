"""What the page says, in the reader's language and zone."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, tzinfo
from gettext import NullTranslations
from importlib import resources

from babel import dates, numbers
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.support import Translations

from vkteams_daemon import times
from vkteams_daemon.errors import UsageError
from vkteams_daemon.web.session import LANGUAGES


@dataclass(frozen=True, slots=True)
class Language:
    """A reader's language and zone.

    Attributes:
        code: ru or en.
        zone: in which days begin.
    """

    code: str
    zone: tzinfo

    @property
    def gettext(self) -> Callable[[str], str]:
        """Translates a text."""
        return translations(self.code).gettext

    def ngettext(self, one: str, many: str, number: int) -> str:
        """Translates a text with a number in it, named `number`."""
        return translations(self.code).ngettext(one, many, number) % {"number": self.number(number)}

    def day(self, moment: datetime) -> date:
        """The reader's day of a moment."""
        return moment.astimezone(self.zone).date()

    def clock(self, moment: datetime) -> str:
        """`14:05`."""
        return f"{moment.astimezone(self.zone):%H:%M}"

    def short_date(self, day: date) -> str:
        """`24 November` or, of another year, `24 November 2025`; today and yesterday by name."""
        today = self.day(datetime.now(UTC))
        if day == today:
            return self.gettext("today")
        if (today - day).days == 1:
            return self.gettext("yesterday")
        pattern = "d MMMM" if day.year == today.year else "d MMMM y"
        return dates.format_date(day, pattern, locale=self.code)

    def full_date(self, day: date) -> str:
        """`Tuesday, 24 November 2026`."""
        return dates.format_date(day, "EEEE, d MMMM y", locale=self.code)

    def moment(self, moment: datetime) -> str:
        """`24 November, 14:05`."""
        return f"{self.short_date(self.day(moment))}, {self.clock(moment)}"

    def exact(self, moment: datetime) -> str:
        """`Tuesday, 24 November 2026, 14:05:09 MSK`."""
        local = moment.astimezone(self.zone)
        return f"{self.full_date(local.date())}, {local:%H:%M:%S} {local.tzname() or ''}".rstrip()

    def axis_date(self, day: date) -> str:
        """`24 Nov`, for an axis."""
        return dates.format_date(day, "d MMM", locale=self.code)

    def duration(self, seconds: float | None) -> str:
        """`0.4 s`, `3 min`, `2 h`, `5 d`; a dash if it is unknown."""
        _ = self.gettext
        if seconds is None:
            return "–"
        if seconds < 10:
            return _("%s s") % numbers.format_decimal(round(seconds, 1), locale=self.code)
        if seconds < 90:
            return _("%s s") % self.number(round(seconds))
        if seconds < 5400:
            return _("%s min") % self.number(round(seconds / 60))
        if seconds < 129_600:
            return _("%s h") % self.number(round(seconds / 3600))
        return _("%s d") % self.number(round(seconds / 86400))

    def number(self, number: int) -> str:
        """`12,345`."""
        return numbers.format_decimal(number, locale=self.code)


@functools.cache
def translations(code: str) -> NullTranslations:
    """The translations into a language; English needs none."""
    if code == "en":
        return NullTranslations()
    text = resources.files("vkteams_daemon.web").joinpath("locale", f"{code}.po").read_bytes()
    compiled = io.BytesIO()
    write_mo(compiled, read_po(io.BytesIO(text), locale=code))
    compiled.seek(0)
    return Translations(compiled)


def preferred(accept: str) -> str:
    """The language that a browser likes best of those that the page has; English if it likes neither."""
    wanted = []
    for part in accept[:500].split(","):
        name, _, quality = part.partition(";q=")
        try:
            wanted.append((-float(quality or 1), name.strip().lower().partition("-")[0]))
        except ValueError:
            continue
    return next((name for _, name in sorted(wanted, key=lambda each: each[0]) if name in LANGUAGES), "en")


def choose_zone(name: str, configured: str) -> tzinfo:
    """The zone of this name; if there is no such zone, the one that is configured for this machine."""
    if name and len(name) < 64:
        try:
            return times.named_zone(name)
        except UsageError:
            pass
    return times.choose_zone(configured)
