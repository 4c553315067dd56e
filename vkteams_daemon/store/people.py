"""What a batch says about chats, users and members, as rows for statements that take each row once; pure.

The newest known value of every column wins, and the time beside a row is that of its last change. So that it does not
matter how events were cut into batches, a row that changes again within a batch is written once for each change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from vkteams_daemon.botapi.facts import Membership

Row = tuple[Any, ...]


def rounds(seen: Iterable[tuple[str, Row, datetime]]) -> Iterator[list[Row]]:
    """The rows to write, in rounds in which every key occurs once; each row ends with the time of its change.

    Args:
        seen: (key, columns, arrival) in the order of arrival; None in a column means that nothing is known.
    """
    states: dict[str, list[Row]] = {}
    latest: dict[str, Row] = {}
    for key, row, at in seen:
        if latest.get(key) == row:
            continue  # most messages come from where, and from whom, many came before
        latest[key] = row
        known = states.setdefault(key, [])
        if not known:
            known.append((*row, at))
            continue
        merged = tuple(new if new is not None else old for new, old in zip(row, known[-1][:-1], strict=True))
        if merged != known[-1][:-1]:
            known.append((*merged, at))
    # Sorted, so that two bots' transactions lock the rows they share in one order.
    ordered = [states[key] for key in sorted(states)]
    for number in range(max(map(len, ordered), default=0)):
        yield [rows[number] for rows in ordered if number < len(rows)]


def memberships(seen: Iterable[Membership]) -> list[Row]:
    """One row for each member: key, joined_at, left_at, added_by, removed_by; None is what the batch does not say."""
    members: dict[tuple[str, str], Row] = {}
    for member in seen:
        key = (member.chat_id, member.user_id)
        if member.joined:
            members[key] = (*key, member.at, None, member.by, None)
        else:
            joined_at, added_by = (members[key][2], members[key][4]) if key in members else (None, None)
            members[key] = (*key, joined_at, member.at, added_by, member.by)
    return [members[key] for key in sorted(members)]
