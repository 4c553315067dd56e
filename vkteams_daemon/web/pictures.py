"""Draws the pictures of the activity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date

from babel import dates

from vkteams_daemon.search.history.activity import Activity
from vkteams_daemon.system.text import visible
from vkteams_daemon.web.charts import Charts, Picture
from vkteams_daemon.web.language import Language

_SERIES = 5  # chats that have a colour of their own


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of the picture of days: a day, or a week that begins on this day; the messages in it, and of each chat."""

    day: date
    messages: int
    by_chat: list[int] = field(default_factory=list)


def bars(activity: Activity) -> tuple[list[Bar], bool]:
    """The days; of more than a quarter the weeks, and whether it is weeks."""
    weekly = len(activity.dates) > 92
    found: list[Bar] = []
    for place, day in enumerate(activity.dates):
        each = [chat.days[place] for chat in activity.chats]
        if found and weekly and day.weekday():
            last = found[-1]
            sums = [a + b for a, b in zip(last.by_chat, each, strict=True)]
            found[-1] = Bar(last.day, last.messages + activity.days[place], sums)
        else:
            found.append(Bar(day, activity.days[place], each))
    return found, weekly


def draw_days(activity: Activity, language: Language, chart: Charts) -> Picture:
    """The messages of each day or week, stacked by chat."""
    shown, _ = bars(activity)
    rest = [bar.messages - sum(bar.by_chat[:_SERIES]) for bar in shown]
    series = min(len(activity.chats), _SERIES) + any(rest)
    columns = 2 if chart.narrow else 3
    picture = chart.make(
        "StackedBar", language.number, show_legend=series > 1, legend_at_bottom=True, truncate_legend=18,
        legend_at_bottom_columns=columns,
        margin_bottom=28 if series % columns else 8,  # pygal leaves no room for a last line that is not full
    )  # fmt: skip
    every = max(1, -(-len(shown) // (4 if chart.narrow else 10)))
    picture.x_labels = [language.axis_date(bar.day) for bar in shown]
    picture.x_labels_major_every, picture.show_minor_x_labels = every, False
    for place, chat in enumerate(activity.chats[:_SERIES]):
        picture.add(visible(chat_name(chat.name, chat.thread, language)), [bar.by_chat[place] for bar in shown])
    if any(rest):
        picture.add(language.gettext("other chats"), rest)
    return chart.finish(picture)


def draw_hours(activity: Activity, language: Language, chart: Charts) -> Picture:
    """The messages of each hour of the days of the week, as dots."""
    picture = chart.make("Dot", language.number, dots_size=7 if chart.narrow else 11, one_colour=True)
    hours = range(0, 24, 2) if chart.narrow else range(24)
    picture.x_labels = [str(hour) for hour in hours]
    for name, row in zip(weekdays(language), activity.hours, strict=True):
        picture.add(name, [sum(row[hour : hour + hours.step]) for hour in hours])
    return chart.finish(picture)


def draw_chats(activity: Activity, language: Language, chart: Charts) -> Picture:
    """The busiest chats."""
    return _ranking(
        [(chat_name(chat.name, chat.thread, language), chat.messages) for chat in activity.chats], language, chart
    )


def draw_people(activity: Activity, language: Language, chart: Charts) -> Picture:
    """Those who wrote most."""
    return _ranking([(person.name, person.messages) for person in activity.people], language, chart)


def draw_answers(activity: Activity, language: Language, chart: Charts) -> Picture:
    """How many messages were answered how soon."""
    picture = chart.make("Bar", language.number)
    picture.x_labels = waits(language)
    picture.add("", activity.answers.waits)
    return chart.finish(picture)


Draw = Callable[[Activity, Language, Charts], Picture]
PICTURES: dict[str, Draw] = {
    "days": draw_days, "hours": draw_hours, "chats": draw_chats, "people": draw_people, "answers": draw_answers,
}  # fmt: skip


def chat_name(name: str, thread: str | None, language: Language) -> str:
    """A chat's name; of a thread with the beginning of the message that it hangs on."""
    return name if thread is None else f"{name} › {thread or language.gettext('thread')}"


def weekdays(language: Language) -> list[str]:
    """The days of the week, Monday first, shortened."""
    names = dates.get_day_names("abbreviated", "stand-alone", language.code)
    return [names[day] for day in range(7)]


def waits(language: Language) -> list[str]:
    """What stands for each place of `Answers.waits`."""
    _ = language.gettext
    return [_("< 1 min"), _("1–5 min"), _("5–30 min"), _("30 min–2 h"), _("2–24 h"), _("> 1 day")]


def _ranking(entries: Sequence[tuple[str, int]], language: Language, chart: Charts) -> Picture:
    picture = chart.make("HorizontalBar", language.number)
    longest = 16 if chart.narrow else 32
    picture.x_labels = [_short(visible(name), longest) for name, _ in reversed(entries)]
    picture.add("", [number for _, number in reversed(entries)])
    return chart.finish(picture)


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
