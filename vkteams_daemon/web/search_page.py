"""The search page: a query and its filters, what they were taken for, and the hits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast
from urllib.parse import urlencode

from vkteams_daemon import time_expressions
from vkteams_daemon.errors import NotFound, UsageError
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.search.results import Coverage, Hit, SearchResult
from vkteams_daemon.search.scope import KINDS, Kind
from vkteams_daemon.web.language import Language
from vkteams_daemon.web.note_translation import note_in

PAGE = 20  # hits of the first page, and of each further one
MAX_HITS = 500
_MAX_QUERY = 2000  # characters
_MAX_FILTER = 300


@dataclass(frozen=True, slots=True)
class SearchForm:
    """The fields of the search form as the address has them: as they were typed."""

    q: str = ""
    who: str = ""
    chat: str = ""
    when: str = ""
    has: str = ""
    sort: str = ""
    n: int = PAGE

    @classmethod
    def of(cls, parameters: dict[str, str]) -> SearchForm:
        """The form of an address; what cannot be a value is left out."""
        texts = {
            name: parameters.get(name, "").replace("\0", "").strip()[: _MAX_QUERY if name == "q" else _MAX_FILTER]
            for name in ("q", "who", "chat", "when", "has", "sort")
        }
        texts = {name: text.encode("utf-8", "replace").decode() for name, text in texts.items()}
        number = parameters.get("n", "")
        n = int(number) if number.isascii() and number.isdigit() and len(number) < 6 else PAGE
        has = texts["has"] if texts["has"] in KINDS else ""
        sort = "new" if texts["sort"] == "new" else ""
        return cls(**(texts | {"has": has, "sort": sort}), n=min(max(n, 1), MAX_HITS))

    @property
    def filtered(self) -> bool:
        """Whether a filter is set."""
        return bool(self.who or self.chat or self.when or self.has)

    @property
    def empty(self) -> bool:
        """Whether it is empty: no query and no filter."""
        return not self.q and not self.filtered

    def address(self, **changes: str | int) -> str:
        """The address of this form with some fields changed."""
        fields = {name: getattr(self, name) for name in self.__slots__} | changes
        told = {name: value for name, value in fields.items() if value and (name, value) != ("n", PAGE)}
        return f"/?{urlencode(told)}" if told else "/"


@dataclass(frozen=True, slots=True)
class Chip:
    """A filter that is set, and the address without it."""

    label: str
    text: str
    without: str


@dataclass(slots=True)
class SearchPage:
    """The page with the hits, or with the reason why there are none."""

    form: SearchForm
    chips: list[Chip] = field(default_factory=list)
    refusal: str | None = None
    """Why nothing was looked for."""
    hits: Sequence[Hit] = ()
    showing: str | None = None
    relaxed: bool = False
    notes: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    since: datetime | None = None
    more: str | None = None
    """The address with more hits."""


def search(archive: Archive, form: SearchForm, language: Language) -> SearchPage:
    """The page that answers a form."""
    _ = language.gettext
    page = SearchPage(form)
    try:
        who = archive.find_user(form.who) if form.who else None
        mentioned = _("Person")
        if who:
            page.chips.append(Chip(mentioned, who.name or who.id, form.address(who="", n=PAGE)))
        chat = archive.find_chat(form.chat) if form.chat else None
        if chat:
            page.chips.append(Chip(_("Chat"), chat.name or chat.id, form.address(chat="", n=PAGE)))
    except NotFound as error:
        nearest = (error.hint or "").removeprefix("The nearest: ")
        page.refusal = _("Nobody and no chat that you may see has this name.")
        if nearest != error.hint:
            page.refusal += " " + _("The nearest: %s") % nearest
        return page
    except UsageError as error:
        page.refusal = _("Several have this name: %s") % str(error).partition(": ")[2]
        return page
    since = until = None
    if form.when:
        try:
            span = time_expressions.read(form.when, datetime.now(UTC), language.zone)
        except time_expressions.Ambiguous:
            span = None
        if span is None:
            page.refusal = _("“%s” is no time that can be read: write yesterday, last week, in May or 24.11.2026.") % (
                form.when
            )
            return page
        since, until = span.start, span.end if span.end > span.start else None
        page.chips.append(Chip(_("Time"), _span(since, until, language), form.address(when="", n=PAGE)))
    if form.has:
        page.chips.append(Chip(_("Kind"), kind_names(_)[form.has], form.address(has="", n=PAGE)))
    chats = archive.existing([chat.id], threads=True) if chat else None
    user = who.id if who else None
    _take(page, _search(archive, form, chats, user, since, until), form, language)
    return page


def kind_names(gettext: Callable[[str], str]) -> dict[str, str]:
    """What a message can have, as the page calls it."""
    _ = gettext
    return {
        "file": _("File"), "image": _("Picture"), "video": _("Video"), "voice": _("Voice message"),
        "link": _("Link"), "mention": _("Mention"),
    }  # fmt: skip


def _search(
    archive: Archive,
    form: SearchForm,
    chats: list[str] | None,
    user: str | None,
    since: datetime | None,
    until: datetime | None,
) -> SearchResult:
    return archive.search(
        form.q, chat_ids=chats, user_id=user, since=since, until=until, limit=form.n,
        has=(cast(Kind, form.has),) if form.has else (), newest_first=form.sort == "new",
    )  # fmt: skip


def _take(page: SearchPage, result: SearchResult, form: SearchForm, language: Language) -> None:
    page.hits, page.showing, page.relaxed = result.hits, result.showing, result.relaxed
    if result.note:
        page.notes.append(note_in(language, result.note))
    coverage: Coverage = result.coverage
    if coverage.without_vector:
        page.notes.append(
            language.ngettext(
                "%(number)s message cannot be found by its meaning yet.",
                "%(number)s messages cannot be found by their meaning yet.", coverage.without_vector,
            )
        )  # fmt: skip
    page.gaps = [note_in(language, gap) for gap in coverage.gaps]
    page.since = coverage.archived_since
    if result.cursor and form.n < MAX_HITS:
        page.more = form.address(n=min(form.n + PAGE, MAX_HITS))


def _span(since: datetime, until: datetime | None, language: Language) -> str:
    start = language.day(since)
    if until is None:
        return language.gettext("since %s") % language.moment(since)
    last = language.day(until - (until - since) / 1_000_000)
    clocks = [language.clock(moment) for moment in (since, until)]
    if clocks != ["00:00", "00:00"]:
        return f"{language.moment(since)} – {language.moment(until)}"
    return (
        language.short_date(start) if start == last else f"{language.short_date(start)} – {language.short_date(last)}"
    )
