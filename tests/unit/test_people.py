"""Chats, users and members end in the same rows, however their events were cut into batches."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness.scale import scaled
from vkteams_daemon.botapi.facts import Membership
from vkteams_daemon.store.derive import people

EXAMPLES = scaled("examples of a property of events and messages", full=300, quick=100)

START = datetime(2026, 1, 1, tzinfo=UTC)
Table = dict[Any, tuple[Any, ...]]


def rounds(observations: list[tuple[str, people.Row, datetime]]) -> list[list[people.Row]]:
    table = people.RowHistory(lambda row: row)
    for key, row, arrival in observations:
        table.add(key, row, arrival)
    return list(table.rounds())


def at(n: int) -> datetime:
    return START + timedelta(seconds=n)


def save(table: Table, rows: list[people.Row]) -> None:
    """Do as the upserts of chats and users do: take newer values that are not None, and only if a row changes."""
    assert len({row[0] for row in rows}) == len(rows), "a statement takes each row once"
    assert [row[0] for row in rows] == sorted(row[0] for row in rows), "locks are taken in one order"
    for *columns, seen_at in rows:
        old = table.get(columns[0])
        if old is None:
            table[columns[0]] = (*columns, seen_at)
            continue
        merged = [new if new is not None else known for new, known in zip(columns, old[:-1], strict=True)]
        if seen_at >= old[-1] and merged != list(old[:-1]):
            table[columns[0]] = (*merged, seen_at)


_names = st.sampled_from([None, "a", "b"])
_seen = st.lists(st.tuples(st.sampled_from("xyz"), _names, _names), max_size=20)


@settings(max_examples=EXAMPLES, deadline=None)
@given(_seen, st.lists(st.integers(0, 20), max_size=4))
def test_rows_do_not_depend_on_the_batches(seen: list[tuple[str, Any, Any]], cuts: list[int]) -> None:
    events = [(key, (key, one, two), at(n)) for n, (key, one, two) in enumerate(seen)]
    whole: Table = {}
    single: Table = {}
    parts: Table = {}
    for rows in rounds(events):
        save(whole, rows)
    for event in events:
        for rows in rounds([event]):
            save(single, rows)
    for first, end in itertools.pairwise([0, *sorted(cuts), len(events)]):
        for rows in rounds(events[first:end]):
            save(parts, rows)
    assert whole == single == parts


def test_row_that_does_not_change_takes_one_round() -> None:
    events = [("x", ("x", "a"), at(n)) for n in range(100)]
    assert rounds(events) == [[("x", "a", at(0))]]


def test_no_rows_take_no_round() -> None:
    assert list(rounds([])) == []


def test_leaving_keeps_the_join_and_joining_clears_the_leave() -> None:
    came, left = Membership("c", "u", True, at(1), "boss"), Membership("c", "u", False, at(2), None)
    again = Membership("c", "u", True, at(3), None)
    assert people.member_rows([came, left]) == [("c", "u", at(1), at(2), "boss", None)]
    assert people.member_rows([came, left, again]) == [("c", "u", at(3), None, None, None)]
    assert people.member_rows([left]) == [("c", "u", None, at(2), None, None)]
