"""The page of the archive's activity: pictures of it, each with its table, and the addresses of both."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from vkteams_daemon import times
from vkteams_daemon.access import Access
from vkteams_daemon.errors import NotFound, UsageError
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.search.history.activity import Activity, Answers
from vkteams_daemon.web import pictures
from vkteams_daemon.web.charts import Charts, Picture
from vkteams_daemon.web.language import Language

SPANS = (30, 90, 365)
"""Days that the page offers."""
_MAX_AGE = 60.0  # seconds
_MAX_KEPT = 100


@dataclass(frozen=True, slots=True)
class ActivityForm:
    """The fields of an address: how many days, and which chat by its title or id; "" is every chat."""

    days: int = SPANS[0]
    chat: str = ""

    @classmethod
    def of(cls, parameters: dict[str, str]) -> ActivityForm:
        """The form of an address; what cannot be a value is left out."""
        chat = parameters.get("chat", "").replace("\0", "").strip()[:300].encode("utf-8", "replace").decode()
        days = next((days for days in SPANS if str(days) == parameters.get("days")), SPANS[0])
        return cls(days, chat)

    def address(self, path: str = "/activity", **changes: str | int) -> str:
        """The address of this form with some fields changed, or of one of its pictures."""
        fields = {"days": self.days, "chat": self.chat} | changes
        told = {name: value for name, value in fields.items() if value and (name, value) != ("days", SPANS[0])}
        return f"{path}?{urlencode(told)}" if told else path


@dataclass(frozen=True, slots=True)
class Table:
    """A table: the heads of its columns, and its rows; the first entry of each is its name."""

    heads: list[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture and its table.

    Attributes:
        name: of the picture, as in `pictures.PICTURES`.
        title: what it shows.
        summary: the same in a sentence, for those who do not see it.
        table: the numbers.
    """

    name: str
    title: str
    summary: str
    table: Table


@dataclass(frozen=True, slots=True)
class ActivityPage:
    """What the page shows; `refusal` is why nothing was counted."""

    form: ActivityForm
    activity: Activity | None = None
    figures: Sequence[Figure] = ()
    refusal: str | None = None


class ActivityPages:
    """Counts the activity and keeps it for a minute for each visitor, because a page and its pictures are asked apart.

    Safe for several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[Any, tuple[float, Activity]] = {}

    def page(self, archive: Archive, access: Access, form: ActivityForm, language: Language) -> ActivityPage:
        """The page of a form."""
        try:
            activity = self._read(archive, access, form)
        except NotFound:
            return ActivityPage(form, refusal=language.gettext("Nobody and no chat that you may see has this name."))
        except UsageError as error:
            several = language.gettext("Several have this name: %s") % str(error).partition(": ")[2]
            return ActivityPage(form, refusal=several)
        return ActivityPage(form, activity, _figures(activity, language))

    def picture(
        self, archive: Archive, access: Access, form: ActivityForm, name: str, charts: Charts, language: Language
    ) -> Picture:
        """A picture of that page.

        Raises:
            NotFound: there is no such picture, or no such chat that the visitor may see.
        """
        if name not in pictures.PICTURES:
            raise NotFound(f"there is no picture {name}")
        return pictures.PICTURES[name](self._read(archive, access, form), language, charts)

    def _read(self, archive: Archive, access: Access, form: ActivityForm) -> Activity:
        chats = archive.existing([archive.find_chat(form.chat).id], threads=True) if form.chat else None
        now = time.monotonic()
        today = datetime.now(times.zone()).date()
        key = (access, archive.seen, form.days, tuple(chats or ()), str(times.zone()), today)
        with self._lock:
            kept = self._kept.get(key)
        if kept and now - kept[0] < _MAX_AGE:
            return kept[1]
        activity = archive.activity(days=form.days, chat_ids=chats)
        with self._lock:
            if len(self._kept) >= _MAX_KEPT:
                del self._kept[min(self._kept, key=lambda each: self._kept[each][0])]
            self._kept[key] = (now, activity)
        return activity


def _figures(activity: Activity, language: Language) -> list[Figure]:
    if not activity.messages:
        return []
    figures = [_days(activity, language), _hours(activity, language)]
    if len(activity.chats) > 1:
        figures.append(_chats(activity, language))
    if activity.people:
        figures.append(_people(activity, language))
    return [*figures, _answers(activity, language)] if activity.answers.messages else figures


def _days(activity: Activity, language: Language) -> Figure:
    _ = language.gettext
    shown, weekly = pictures.bars(activity)
    most = max(shown, key=lambda bar: bar.messages)
    chats = [pictures.chat_name(chat.name, chat.thread, language) for chat in activity.chats]
    rows = [
        [language.short_date(bar.day), language.number(bar.messages), *map(language.number, bar.by_chat)]
        for bar in reversed(shown)
        if bar.messages
    ]
    many = {"number": language.number(most.messages), "day": language.short_date(most.day)}
    return Figure(
        "days", _("Messages a week") if weekly else _("Messages a day"),
        (_("Most were sent in the week from %(day)s: %(number)s.") if weekly else
         _("Most were sent on one day, %(day)s: %(number)s.")) % many,
        Table([_("Week from") if weekly else _("Day"), _("Messages"), *(chats if len(chats) > 1 else [])],
              rows if len(chats) > 1 else [row[:2] for row in rows]),
    )  # fmt: skip


def _hours(activity: Activity, language: Language) -> Figure:
    _ = language.gettext
    names = pictures.weekdays(language)
    sums = [sum(row[hour] for row in activity.hours) for hour in range(24)]
    busiest = max(range(24), key=lambda hour: sums[hour])
    return Figure(
        "hours", _("By hour and day of the week"),
        _("Most were sent from %(start)s to %(end)s.")
        % {"start": f"{busiest:02}:00", "end": f"{(busiest + 1) % 24:02}:00"},
        Table([_("Hour"), *names],
              [[f"{hour:02}:00", *(language.number(row[hour]) for row in activity.hours)]
               for hour in range(24) if sums[hour]]),
    )  # fmt: skip


def _chats(activity: Activity, language: Language) -> Figure:
    _ = language.gettext
    rows = []
    for chat in activity.chats:
        answers = activity.answers_by_chat.get(chat.chat_id, Answers())
        rows.append([
            pictures.chat_name(chat.name, chat.thread, language), language.number(chat.messages),
            language.duration(answers.median),
        ])  # fmt: skip
    return Figure(
        "chats", _("The busiest chats"), _("First comes %s.") % rows[0][0],
        Table([_("Chat"), _("Messages"), _("Half of the answers within")], rows),
    )  # fmt: skip


def _people(activity: Activity, language: Language) -> Figure:
    _ = language.gettext
    return Figure(
        "people", _("Who writes most"), _("First comes %s.") % activity.people[0].name,
        Table([_("Person"), _("Messages")],
              [[person.name, language.number(person.messages)] for person in activity.people]),
    )  # fmt: skip


def _answers(activity: Activity, language: Language) -> Figure:
    _ = language.gettext
    answers = activity.answers
    return Figure(
        "answers", _("How soon somebody else answers"),
        _("Of the messages that were answered, half had an answer within %(median)s, and nine of ten within %(p90)s.")
        % {"median": language.duration(answers.median), "p90": language.duration(answers.p90)},
        Table([_("Time until the first answer"), _("Messages")],
              [[name, language.number(number)]
               for name, number in zip(pictures.waits(language), answers.waits, strict=True)]),
    )  # fmt: skip
