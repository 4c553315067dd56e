"""Wishes: what a query names beside the words of a message. A half memory has a person, a chat, a kind of file, a time.

"Кто-то из бухгалтерии присылал таблицу осенью": the message itself need not hold any of these words. So a message of
that chat, with such a file, of that time ranks higher. A wish never excludes a message: the filters of a question do
(user, chat, has, since and until).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from vkteams_daemon import time_expressions, times
from vkteams_daemon.search.messages import MessageKey
from vkteams_daemon.search.names import visible_chats
from vkteams_daemon.search.retrieval.query import Query
from vkteams_daemon.search.scope import HAS, Kind, Scope, with_threads
from vkteams_daemon.search.spelling.forms import MIN_STEM, is_form
from vkteams_daemon.search.spelling.short_names import meant_names
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.words.letters import fold
from vkteams_daemon.time_expressions import Span

_WORD = re.compile(r"[^\W_]+")
_MAX_WORDS_OF_TIME = 4
# Words that name a time and mostly mean something else. The others need no preposition: осенью, вчера, december.
_NO_TIME_ALONE = re.compile(
    r"\w{1,3}|сред[аы]|март|march|spring|fall|ночью|утро|утром|днем|вечер|вечером|morning|afternoon|evening|weekend"
    r"|выходны[ех]|выходных|.*\d.*"
)
_ROUGHLY = 6  # "a month ago" is right to a sixth of a month
_SHORTEST = timedelta(hours=1)

_ALONE = 0.5
"""What a chat or a kind of file counts that a query names alone: a word of a title, or `video`, may mean itself."""

_NEWEST = 20  # messages that are looked at for their file alone

# The words for a kind of file, and the rest of a `FileKind`.
_TYPES_OF_FILE: tuple[tuple[str, Kind, str], ...] = (
    ("табли[цч]\\w*|эксел\\w*|excel|xlsx?|csv|spreadsheets?", "file", "xlsx?|xlsm|csv|ods"),
    ("презентаци\\w*|слайд\\w*|presentations?|slides?|pptx?", "file", "pptx?|odp|key"),
    ("документ\\w*|ворд\\w*|docx?", "file", "docx?|odt|rtf|pdf"),
    ("pdf|пдф", "file", "pdf"),
    ("скан\\w{0,2}", "image", "pdf|jpe?g|png|tiff?"),
    ("архив\\w{0,3}|zip|rar", "file", "zip|rar|7z|tar|t?gz"),
    ("файл\\w{0,3}", "file", ""),
    ("фот\\w*|снимо?к\\w*|скрин\\w*|картин\\w*|photos?|pictures?|screenshots?", "image", "jpe?g|png|gif|heic|webp"),
    ("видео\\w*|ролик\\w*|videos?", "video", "mp4|mov|avi|mkv|webm"),
    ("голосов\\w*", "voice", "ogg|mp3|m4a"),
    ("ссылк\\w*|ссылок", "link", ""),
)
FileKind = tuple[re.Pattern[str], Kind, str]
"""The words for it, what a message with it has, and how the names of such files end."""

_KINDS: tuple[FileKind, ...] = tuple((re.compile(words), kind, ends) for words, kind, ends in _TYPES_OF_FILE)
# The API does not always tell the names of files: a file without name and kind may be any document.
_NAMELESS = (
    'pg_catalog.jsonb_path_exists(m.parts, \'$.** ? (@.type == "file").payload ? (!exists(@.type) && !exists(@.name)'
    " && !exists(@.filename) && !exists(@.fileName) && !exists(@.file_name))'::jsonpath, silent => true)"
)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a query wishes for. An empty attribute is no wish.

    Attributes:
        authors: user ids of the people whom it names; any of them grants the wish.
        chats: ids of the chats whose titles have a word of it, and of their threads.
        kinds: the kinds of files it names; any of them grants the wish.
        span: the time it names.
    """

    authors: frozenset[str] = frozenset()
    chats: frozenset[str] = frozenset()
    kinds: tuple[FileKind, ...] = ()
    span: Span | None = None

    def narrowed(self, scope: Scope) -> Scope | None:
        """The part of the scope where a person, a chat or a time is as wished; None if nothing is known of these.

        One person says more than a chat: a title has many words that are no names.
        """
        narrow = scope
        if len(self.authors) == 1 and scope.user_id is None:
            narrow = replace(narrow, user_id=next(iter(self.authors)))
        elif self.chats:
            chats = self.chats if scope.chat_ids is None else self.chats.intersection(scope.chat_ids)
            narrow = replace(narrow, chat_ids=sorted(chats))
        if narrow is not scope and self.kinds:
            # Only here: to look into the parts of every message of an archive would take too long.
            kinds = {kind for _, kind, _ in self.kinds}
            narrow = replace(narrow, has=tuple(sorted({*narrow.has, *kinds}))) if len(kinds) == 1 else narrow
        if self.span:
            since = max(scope.since or self.span.start, self.span.start)
            until = min(scope.until or self.span.end, self.span.end)
            narrow = replace(narrow, since=since, until=until)
        return None if narrow is scope else narrow

    def newest(self, connection: Connection, narrowed: Scope) -> list[MessageKey]:
        """The newest messages of the narrowed scope, if a kind of file is wished too: they may have no text at all."""
        if not self.kinds or not narrowed.has:
            return []
        rows = connection.execute(
            f"SELECT m.chat_id, m.msg_id FROM messages m WHERE {narrowed.condition}"
            f" ORDER BY m.sent_at DESC LIMIT {_NEWEST}".encode(),
            narrowed.parameters,
            prepare=False,
        )
        return [(chat_id, msg_id) for chat_id, msg_id in rows]

    @property
    def _weight(self) -> float:
        """What a granted wish counts."""
        return _ALONE if bool(self.chats) + bool(self.kinds) == 1 and not (self.authors or self.span) else 1.0

    def granted(self, connection: Connection, keys: Sequence[MessageKey]) -> dict[MessageKey, float]:
        """How many of the wishes each of these messages grants, by key; without those that grant none."""
        conditions = []
        if self.authors:
            conditions.append("m.user_id = ANY(%(authors)s)")
        if self.chats:
            conditions.append("m.chat_id = ANY(%(chats)s)")
        if self.span:
            conditions.append("(m.sent_at >= %(start)s AND m.sent_at < %(end)s)")
        if self.kinds:
            conditions.append(f"({' OR '.join(condition for kind in self.kinds for condition in _conditions(kind))})")
        if not conditions or not keys:
            return {}
        parameters: dict[str, Any] = {
            "authors": sorted(self.authors),
            "chats": sorted(self.chats),
            "start": self.span and self.span.start,
            "end": self.span and self.span.end,
            "chat_ids": [key[0] for key in keys],
            "msg_ids": [key[1] for key in keys],
        }
        count = " + ".join(f"CASE WHEN {condition} THEN 1 ELSE 0 END" for condition in conditions)
        rows = connection.execute(
            f"SELECT m.chat_id, m.msg_id, {count} FROM unnest(%(chat_ids)s::text[], %(msg_ids)s::text[])"
            " AS k (chat_id, msg_id) JOIN messages m ON m.chat_id = k.chat_id AND m.msg_id = k.msg_id".encode(),
            parameters,
        )
        return {(chat_id, msg_id): self._weight * granted for chat_id, msg_id, granted in rows if granted}


def read_wishes(connection: Connection, query: Query, scope: Scope, now: datetime) -> Wishes:
    """What the query wishes for.

    Args:
        connection: any connection to the archive.
        query: as it was read.
        scope: what the reader may see; a name that it does not show is no wish.
        now: the present moment, which "yesterday" is seen from (aware).
    """
    words = [
        fold(word).lower()
        for terms in query.alternatives
        for term in terms
        if not term.excluded and not term.phrase
        for word in _WORD.findall(term.typed)
    ]
    span, rest = named_time(words, now)
    kinds = named_kinds(words)
    # Without stop words, which have no terms.
    known = {fold(word).lower() for term in query.terms for word in _WORD.findall(term.typed)}
    names = [
        word
        for word in dict.fromkeys(rest)
        if len(word) >= MIN_STEM and word.isalpha() and word in known
        if not named_kinds([word])
    ]
    if not names:
        return Wishes(kinds=kinds, span=span)
    return Wishes(_authors(connection, names, scope), _chats(connection, names, scope), kinds, span)


def named_kinds(words: Sequence[str]) -> tuple[FileKind, ...]:
    """The kinds of files that any of the words names."""
    return tuple(kind for kind in _KINDS if any(kind[0].fullmatch(word) for word in words))


def named_time(words: Sequence[str], now: datetime) -> tuple[Span | None, list[str]]:
    """The first and longest time that the words name, and the words without it."""
    if not any(time_expressions.may_name_time(word) or any(map(str.isdigit, word)) for word in words):
        return None, list(words)
    for count in range(min(_MAX_WORDS_OF_TIME, len(words)), 0, -1):
        for begin in range(len(words) - count + 1):
            some = words[begin : begin + count]
            if count == 1 and _NO_TIME_ALONE.fullmatch(some[0]):
                continue
            if (span := _read_time(" ".join(some), now)) is not None:
                if span.start == span.end:
                    around = max((now - span.start) / _ROUGHLY, _SHORTEST)
                    span = Span(span.start - around, span.end + around)
                return span, [*words[:begin], *words[begin + count :]]
    return None, list(words)


def _read_time(text: str, now: datetime) -> Span | None:
    try:
        return time_expressions.read(text, now, times.zone())
    except time_expressions.Ambiguous:
        return None


def _authors(connection: Connection, words: Sequence[str], scope: Scope) -> frozenset[str]:
    """The people whom one of the words names; nobody for a confined reader.

    What somebody is called may be known from a hidden chat. To read what the reader has seen of everybody would take
    longer than the search.
    """
    if scope.confined:
        return frozenset()
    begins = " OR ".join(
        f"pg_catalog.translate(pg_catalog.lower(pg_catalog.left({column}, {MIN_STEM})), 'ё'::text, 'е'::text)"
        " = ANY(%(begins)s::text[])"
        for column in ("first_name", "last_name")
    )
    words = list(dict.fromkeys([*words, *(name for word in words for name in sorted(meant_names(word)))]))
    rows = connection.execute(
        f"SELECT user_id, first_name, last_name FROM users WHERE {begins}".encode(),
        {"begins": sorted({word[:MIN_STEM] for word in words})},
    )
    return frozenset(user_id for user_id, *names in rows if _names_any(words, filter(None, names)))


def _chats(connection: Connection, words: Sequence[str], scope: Scope) -> frozenset[str]:
    """The chats whose titles have one of the words, and their threads."""
    begins = "|".join(sorted({word[:MIN_STEM] for word in words}))
    rows = connection.execute(
        "SELECT chat_id, title FROM chats WHERE pg_catalog.translate(pg_catalog.lower(title), 'ё'::text, 'е'::text)"
        " ~ %s::text",
        (rf"\m({begins})",),
        prepare=False,
    )
    chats = visible_chats(connection, [chat_id for chat_id, title in rows if _names_any(words, [title])], scope)
    return frozenset(with_threads(connection, chats, scope.since)) if chats else frozenset()


def _names_any(words: Sequence[str], names: Iterable[str]) -> bool:
    parts = {part for name in names for part in _WORD.findall(fold(name).lower()) if len(part) >= MIN_STEM}
    return any(is_form(word, part) for word in words for part in parts)


def _conditions(wished: FileKind) -> list[str]:
    """The conditions on `messages AS m`, any of which says that it has a file of this kind."""
    _, kind, endings = wished
    conditions = [_NAMELESS if kind == "file" and endings else HAS[kind]]
    if endings:
        name = rf"[.]({endings})([^[:alnum:]]|$)"
        conditions += [f"m.text ~* '{name}'::text", f"m.parts::text ~* '{name}'::text"]
    return conditions
