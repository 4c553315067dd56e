"""Finds the person or the chat that a name means: a name, a part of it, an e-mail, in either script or keyboard layout,
or another form of a Russian first name: Миша, Михаил.

Only people and chats that the scope shows are looked at, so the answer tells a confined reader nothing beyond it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rapidfuzz import fuzz, process

from vkteams_daemon.errors import NotFound, UsageError
from vkteams_daemon.search.names import chat_titles, people
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.search.spelling.keyboard import other_layout, other_script
from vkteams_daemon.search.spelling.short_names import other_names
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.words.letters import fold

_MAX_LISTED = 10
_MAX_NEAREST = 3
_NEAR = 60  # per cent of letters that a suggestion shares with the name
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class NameMatch:
    """The person or chat that a name was taken for."""

    kind: Literal["user", "chat"]
    typed: str
    id: str
    name: str | None

    @property
    def sentence(self) -> str:
        """What an answer says of it."""
        return f"{self.kind} {self.typed}: {_label(self.id, self.name)}"


def find_user(connection: Connection, name: str, scope: Scope) -> NameMatch:
    """The person whom a name means.

    Args:
        connection: any connection to the archive.
        name: an id, a name or a part of one; case, script and keyboard layout do not matter.
        scope: people who have spoken in it are looked at; if it is not confined, everybody whom the archive knows.

    Raises:
        UsageError: several people have this name.
        NotFound: nobody has it.
    """
    if scope.confined:
        source = f"SELECT DISTINCT m.user_id FROM messages m WHERE {scope.population.condition}"
    else:
        source = "SELECT user_id FROM users UNION SELECT DISTINCT user_id FROM messages WHERE user_id IS NOT NULL"
    rows = connection.execute(source.encode(), scope.population.parameters, prepare=False)
    known = people(connection, [user_id for (user_id,) in rows if user_id], scope)
    names = {
        user_id: [
            " ".join(part for part in (person.first_name, person.last_name) if part),
            " ".join(part for part in (person.last_name, person.first_name) if part),
            person.nick or "",
        ]
        for user_id, person in known.items()
    }
    return _choose("user", name, names, {user_id: person.name for user_id, person in known.items()})


def known_user_id(connection: Connection, user_id: str, scope: Scope) -> str:
    """A user id as the archive spells it: one that is an e-mail address is the same in any case.

    For a confined scope, only people who have spoken in it are known. An unknown id then stays as it is: a refusal
    would tell who speaks elsewhere.

    Raises:
        NotFound: the archive has no such person. An empty answer would look like a quiet person.
        UsageError: several ids differ in nothing but case, and none is spelled so.
    """
    if scope.confined:
        sources = [f"SELECT DISTINCT m.user_id FROM messages m WHERE {scope.population.condition} AND"]
    else:
        sources = ["SELECT m.user_id FROM users m WHERE", "SELECT m.user_id FROM messages m WHERE"]
    parameters = {**scope.population.parameters, "typed": user_id}
    conditions = [f"{source} m.user_id = %(typed)s LIMIT 1" for source in sources]
    if "@" in user_id:
        conditions.append(f"{sources[0]} pg_catalog.lower(m.user_id) = pg_catalog.lower(%(typed)s::text) LIMIT 2")
    for condition in conditions:
        found = [row[0] for row in connection.execute(condition.encode(), parameters, prepare=False)]
        if len(found) > 1:
            raise UsageError(f"several people have the id {user_id}: {', '.join(found)}", hint="Give one of these ids.")
        if found:
            return str(found[0])
    if scope.confined:
        return user_id
    raise NotFound(
        f"the archive has no user {user_id}",
        hint="`vkteamsctl context users` and the tool list_users name those it has.",
    )


def find_chat(connection: Connection, name: str, scope: Scope) -> NameMatch:
    """The chat that a title, a part of it, an id or, for a private chat, a person's name means; see `find_user`.

    A thread has its parent's title. A title does not mean it, unless its parent is not in the scope.
    """
    if scope.confined:
        spoken = f"SELECT DISTINCT m.chat_id FROM messages m WHERE {scope.population.condition}"
        source = f"SELECT s.chat_id, c.parent_chat_id FROM ({spoken}) AS s LEFT JOIN chats c ON c.chat_id = s.chat_id"
    else:
        source = "SELECT chat_id, parent_chat_id FROM chats"
    rows = connection.execute(source.encode(), scope.population.parameters, prepare=False).fetchall()
    known = {chat_id for chat_id, _ in rows}
    chat_ids = [chat_id for chat_id, parent in rows if parent not in known or chat_id == name]
    titles = chat_titles(connection, chat_ids, scope)
    return _choose("chat", name, {chat_id: [titles.get(chat_id, "")] for chat_id in chat_ids}, titles)


def _choose(
    kind: Literal["user", "chat"], typed: str, names: Mapping[str, Sequence[str]], labels: Mapping[str, str | None]
) -> NameMatch:
    wanted = _plain(typed.removeprefix("@"))
    if not wanted:
        raise UsageError(f"the name of the {kind} is blank")
    layout = (other_layout(wanted) or "").lower()
    words, layout_words = _WORD.findall(wanted), _WORD.findall(layout)
    ways: list[Callable[[list[str]], bool]] = [
        lambda own: wanted in own,
        lambda own: _is_called([[word] for word in words], own),
        lambda own: _has_words([[word] for word in words], own),
        lambda own: bool(layout) and layout in own,
        lambda own: _has_words([[word] for word in layout_words], own),
        lambda own: _is_called([[word] for word in layout_words], own),
        lambda own: _has_words([[word, *other_script(word)] for word in words], own),
        lambda own: _is_called([other_script(word) for word in words], own),
    ]
    plain = {each: _names_of(each, own) for each, own in names.items()}
    for matches in ways:
        found = sorted(each for each, own in plain.items() if matches(own))
        if len(found) == 1:
            return NameMatch(kind, typed, found[0], labels.get(found[0]))
        if found:
            listed = "; ".join(_label(each, labels.get(each)) for each in found[:_MAX_LISTED])
            more = f"; and {len(found) - _MAX_LISTED} more" if len(found) > _MAX_LISTED else ""
            raise UsageError(
                f"several {'people' if kind == 'user' else 'chats'} are called {typed}: {listed}{more}",
                hint="Give one of these ids.",
            )
    nearest = _nearest(wanted, plain)
    offered = "; ".join(_label(each, labels.get(each)) for each in nearest)
    listing = "`vkteamsctl context users` and the tool list_users name those it has."
    raise NotFound(
        f"the archive has no {kind} called {typed}",
        hint=f"The nearest: {offered}." if offered else listing.replace("user", kind),
    )


def _names_of(each: str, own: Sequence[str]) -> list[str]:
    return [_plain(text) for text in (each, *own) if text]


def _is_called(wanted: Sequence[Sequence[str]], own: Sequence[str]) -> bool:
    """Whether each wanted word, in one of its readings, is a word of a name, or another form of one: Миша, Михаил."""
    words = {word for text in own for word in _WORD.findall(text)}
    return bool(wanted) and all(
        any(not words.isdisjoint((reading, *other_names(reading))) for reading in readings) for readings in wanted
    )


def _has_words(wanted: Sequence[Sequence[str]], own: Sequence[str]) -> bool:
    """Whether each wanted word, in one of its readings, begins a word of a name or of the id."""
    words = [word for text in own for word in _WORD.findall(text)]
    return bool(wanted) and all(any(word.startswith(tuple(readings)) for word in words) for readings in wanted)


def _nearest(wanted: str, names: Mapping[str, Sequence[str]]) -> list[str]:
    texts = [(each, text) for each, own in names.items() for text in own]
    scores: dict[str, float] = {}
    for reading in (wanted, (other_layout(wanted) or wanted).lower(), *other_script(wanted)[:1]):
        choices = [text for _, text in texts]
        for _, score, place in process.extract(reading, choices, scorer=fuzz.WRatio, score_cutoff=_NEAR, limit=10):
            each = texts[place][0]
            scores[each] = max(scores.get(each, 0.0), score)
    return sorted(scores, key=lambda each: (-scores[each], each))[:_MAX_NEAREST]


def _plain(text: str) -> str:
    return " ".join(fold(text).lower().split())


def _label(each: str, name: str | None) -> str:
    return f"{name} ({each})" if name and name != each else each
