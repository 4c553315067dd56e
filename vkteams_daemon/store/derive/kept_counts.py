"""Keeps the counts of messages, edits, deletions and earlier versions, by chat and person, and by chat and hour.

Beside the counts by person stands when the first and the last message was sent of those that are not deleted.

Code that writes or deletes messages passes the old and the new row of each to `CountChanges`, in the same transaction
and under the locks of the chats. So the counts agree with `messages` whenever a transaction ends. Two bots in one chat
wait for the lock of the chat, and never for each other's counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from vkteams_daemon.store.bulk import ColumnSet
from vkteams_daemon.store.connections import Connection

_HOUR = 3600  # seconds
_ONE_HOUR = timedelta(seconds=_HOUR)
_COUNTED = (("messages", "int8"), ("edited", "int8"), ("deleted", "int8"), ("versions", "int8"))
_PEOPLE = ColumnSet((
    ("chat_id", "text"), ("user_id", "text"), *_COUNTED, ("first_at", "timestamptz"), ("last_at", "timestamptz"),
))  # fmt: skip
_HOURS = ColumnSet((("chat_id", "text"), ("hour", "timestamptz"), *_COUNTED))
_ADD = (
    "DO UPDATE SET messages = c.messages + excluded.messages, edited = c.edited + excluded.edited,"
    " deleted = c.deleted + excluded.deleted, versions = c.versions + excluded.versions"
)
_SAVE_PEOPLE = (
    "INSERT INTO chat_user_counts AS c (chat_id, user_id, messages, edited, deleted, versions, first_at, last_at)"
    " SELECT chat_id, user_id, messages, edited, deleted, versions, first_at, last_at FROM {incoming}"
    f" ON CONFLICT (chat_id, user_id) {_ADD}, first_at = least(c.first_at, excluded.first_at),"
    " last_at = greatest(c.last_at, excluded.last_at)"
)
_SAVE_HOURS = (
    "INSERT INTO chat_hour_counts AS c (chat_id, hour, messages, edited, deleted, versions)"
    " SELECT chat_id, hour, messages, edited, deleted, versions FROM {incoming}"
    f" ON CONFLICT (chat_id, hour) {_ADD}"
)
# Chat by chat, so that one machine answers. A message without a person is counted under ''.
_END = (
    "(SELECT pg_catalog.{}(m.sent_at) FROM messages m WHERE m.chat_id = %(chat)s AND m.deleted_at IS NULL AND m.user_id"
)
_END_OF = f"CASE c.user_id WHEN '' THEN {_END} IS NULL) ELSE {_END} = c.user_id) END"
_FIND_ENDS = (
    f"UPDATE chat_user_counts c SET first_at = {_END_OF.format('min', 'min')},"
    f" last_at = {_END_OF.format('max', 'max')} WHERE c.chat_id = %(chat)s AND c.user_id = ANY(%(people)s)"
)
_TABLES = ("chat_user_counts", "chat_hour_counts")
_COUNTS = (
    "count(*), pg_catalog.count(edited_at), pg_catalog.count(deleted_at), pg_catalog.sum(greatest(version - 1, 0))"
)
_ALIVE = "FILTER (WHERE deleted_at IS NULL)"
COUNTED = {
    "chat_user_counts": (
        f"SELECT chat_id, coalesce(user_id, '') AS user_id, {_COUNTS}, pg_catalog.min(sent_at) {_ALIVE},"
        f" pg_catalog.max(sent_at) {_ALIVE} FROM messages GROUP BY 1, 2"
    ),
    "chat_hour_counts": (
        "SELECT chat_id, pg_catalog.to_timestamp("
        f"pg_catalog.floor(extract(epoch FROM sent_at) / {_HOUR}::numeric) * {_HOUR}::numeric)"
        f" AS hour, {_COUNTS} FROM messages GROUP BY 1, 2"
    ),
}
"""For each table the query that counts its rows in `messages`, in the order of its columns."""

_ENDS = 4  # where the times of the first and the last message stand in the changes of a person


class CountChanges:
    """Adds up how the counts change within a transaction."""

    def __init__(self) -> None:
        # By chat and person the changes of the counts, and when the first and the last of the messages was sent that
        # are counted now and not deleted; by chat and hour the changes of the counts.
        self._people: dict[tuple[str, str], list[Any]] = {}
        self._hours: dict[tuple[str, datetime], list[int]] = {}
        self._fewer: set[tuple[str, str]] = set()  # by chat and person: a message is no longer counted
        self._hour = self._end = datetime.fromtimestamp(0, UTC)

    def add(self, row: Sequence[Any], number: int = 1) -> None:
        """Count a row of `messages`, in the order of `message_fold.COLUMNS`; with -1 it is no longer counted."""
        person = self._count(row, number)
        if row[5] is not None:
            return
        if number < 0:
            self._fewer.add((row[0], row[2] or ""))
            return
        sent_at = row[3]
        first_at, last_at = person[_ENDS:]
        if first_at is None:
            person[_ENDS:] = sent_at, sent_at
        elif sent_at > last_at:
            person[_ENDS + 1] = sent_at
        elif sent_at < first_at:
            person[_ENDS] = sent_at

    def replace(self, old: Sequence[Any], new: Sequence[Any]) -> None:
        """Count the new row of a message in the place of the old one."""
        if old[:4] == new[:4] and (old[5] is None) == (new[5] is None):  # an edit: nobody's first or last has changed
            self._count(old, -1)
            self._count(new, 1)
        else:
            self.add(old, -1)
            self.add(new)

    def _count(self, row: Sequence[Any], number: int) -> list[Any]:
        """Change the counts of the person and of the hour; returns the changes of the person."""
        chat_id, _, user_id, sent_at, edited_at, deleted_at, _, version = row[:8]
        if not self._hour <= sent_at < self._end:  # most messages of a batch were sent within one hour
            self._hour = datetime.fromtimestamp(sent_at.timestamp() // _HOUR * _HOUR, UTC)
            self._end = self._hour + _ONE_HOUR
        person = self._people.get((chat_id, user_id or ""))
        if person is None:
            person = self._people[chat_id, user_id or ""] = [0, 0, 0, 0, None, None]
        hour = self._hours.get((chat_id, self._hour))
        if hour is None:
            hour = self._hours[chat_id, self._hour] = [0, 0, 0, 0]
        for change in (person, hour):
            change[0] += number
            if edited_at is not None:
                change[1] += number
            if deleted_at is not None:
                change[2] += number
            if version > 1:
                change[3] += number * (version - 1)
        return person

    def save(self, connection: Connection) -> None:
        """Change the stored counts, in a transaction that has locked the chats; in pipeline mode or not."""
        changed_people = sorted((*key, *change) for key, change in self._people.items() if any(change))
        changed_hours = sorted((*key, *change) for key, change in self._hours.items() if any(change))
        if changed_people:
            _PEOPLE.execute(connection, _SAVE_PEOPLE, changed_people)
        if changed_hours:
            _HOURS.execute(connection, _SAVE_HOURS, changed_hours)
        people: dict[str, list[str]] = {}
        for chat_id, user_id in sorted(self._fewer):
            people.setdefault(chat_id, []).append(user_id)
        for chat_id, user_ids in people.items():
            connection.execute(_FIND_ENDS.encode(), {"chat": chat_id, "people": user_ids})
        # A count that has become 0 goes. An hour loses a message also if its time changes, and the person none.
        fewer = sorted({row[0] for row in (*changed_people, *changed_hours) if row[2] < 0})
        if fewer:
            for table in _TABLES:
                connection.execute(f"DELETE FROM {table} WHERE messages = 0 AND chat_id = ANY(%s)".encode(), (fewer,))


def recount(connection: Connection, chat_id: str) -> None:
    """Count the messages of a chat again, in a transaction that has locked it."""
    for table, counted in COUNTED.items():
        connection.execute(f"DELETE FROM {table} WHERE chat_id = %s".encode(), (chat_id,))
        of_chat = counted.replace("FROM messages", "FROM messages WHERE chat_id = %s")
        connection.execute(f"INSERT INTO {table} {of_chat}".encode(), (chat_id,))


def chats_to_count(connection: Connection) -> list[str]:
    """The chats that have messages or counts, of vectors too."""
    rows = connection.execute(
        "SELECT chat_id FROM chats UNION SELECT DISTINCT chat_id FROM messages"
        " UNION SELECT DISTINCT chat_id FROM chat_hour_counts UNION SELECT DISTINCT chat_id FROM chat_user_counts"
        " UNION SELECT DISTINCT chat_id FROM chat_vector_counts ORDER BY 1"
    )
    return [chat_id for (chat_id,) in rows]
