"""The facts about one message fold into the same row, in whatever order they arrive."""

from __future__ import annotations

import copy
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness.scale import scaled
from vkteams_daemon.botapi.facts import Content, MessageFact
from vkteams_daemon.store.derive.message_fold import Message, fold_all, new_message

EXAMPLES = scaled("examples of a property of events and messages", full=300, quick=100)

SENT = datetime(2025, 11, 24, 16, 0, tzinfo=UTC)
KEY = ("chat", "1")


def at(seconds: float) -> datetime:
    return SENT + timedelta(seconds=seconds)


def content(text: str | None, edited: float | None = None, **more: Any) -> Content:
    return Content("anna", at(edited) if edited is not None else None, text, **more)


def fact(arrival: float, what: Content | None = None, **more: Any) -> MessageFact:
    return MessageFact(*KEY, at(arrival), SENT, what, **more)


def result(facts: list[MessageFact], *, erase: bool = False, cuts: tuple[int, ...] = ()) -> Message:
    """The message after these facts, folded in batches that end at `cuts`."""
    message = new_message(facts[0])
    bounds = [0, *sorted(cuts), len(facts)]
    for first, end in itertools.pairwise(bounds):
        message = copy.deepcopy(fold_all(message, facts[first:end], erase=erase))
        message.mark_stored(message.earlier)  # as it comes back from the database
    return message


def texts(message: Message) -> list[tuple[int, str | None]]:
    return [(row[2], row[4]) for row in message.version_rows]


def test_edit_makes_a_version_and_keeps_the_earlier_text() -> None:
    message = result([fact(1, content("one")), fact(2, content("two", 30))])
    assert (message.version, message.text, message.edited_at) == (2, "two", at(30))
    assert message.version_rows == [(*KEY, 1, None, "one", None, None, at(30))]


def test_two_edits_in_one_batch_in_any_order() -> None:
    edits = [fact(1, content("one")), fact(2, content("three", 60)), fact(3, content("two", 30))]
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0, 1)):
        message = result([edits[n] for n in order])
        assert message.text == "three"
        assert texts(message) == [(1, "one"), (2, "two")]


def test_late_edit_takes_its_place_among_the_versions() -> None:
    message = result([fact(1, content("one")), fact(2, content("three", 60)), fact(9, content("two", 30))], cuts=(2,))
    assert [row[7] for row in message.version_rows] == [at(30), at(60)]
    assert message.row != message.stored_row or message.version == 3


def test_the_same_edit_seen_twice_is_one_version() -> None:
    facts = [fact(1, content("one")), fact(2, content("two", 30)), fact(3, content("two", 30)), fact(4, content("one"))]
    assert texts(result(facts)) == [(1, "one")]


def test_same_second_edits_are_ordered_by_their_text() -> None:
    first = result([fact(1, content("b", 30)), fact(2, content("a", 30))])
    second = result([fact(1, content("a", 30)), fact(2, content("b", 30))])
    assert (first.text, texts(first)) == (second.text, texts(second)) == ("b", [(1, "a")])


def test_message_after_its_edit_adds_what_the_edit_lacks() -> None:
    original = content("one", reply_to_msg_id="7", forward=[{"x": 1}], thread={"y": 2})
    message = result([fact(1, content("two", 30)), fact(2, original)])
    assert (message.reply_to_msg_id, message.forward, message.thread) == ("7", [{"x": 1}], {"y": 2})
    assert (message.text, texts(message)) == ("two", [(1, "one")])


def test_deletion_before_its_message_is_final() -> None:
    facts = [fact(1, deleted=True), fact(2, content("one"))]
    message = result(facts)
    assert message.deleted_at == at(1)
    assert message.text == "one"
    assert not fold_all(new_message(facts[0]), facts, erase=False).to_embed


def test_ghost_after_a_deletion_changes_nothing() -> None:
    facts = [fact(1, content("one")), fact(2, deleted=True)]
    assert result([*facts, fact(3)], cuts=(2,)).row == result(facts).row


def test_earliest_deletion_counts() -> None:
    assert result([fact(5, deleted=True), fact(3, deleted=True)]).deleted_at == at(3)


def test_pins_follow_the_order_of_arrival() -> None:
    pin = {"pinned": True}
    assert result([fact(1, **pin)]).pinned_at == at(1)
    assert result([fact(1, **pin), fact(2, **pin)]).pinned_at == at(1)
    assert result([fact(1, **pin), fact(2, pinned=False)]).pinned_at is None
    assert result([fact(1, **pin), fact(2, pinned=False), fact(3, **pin)]).pinned_at == at(3)


def test_copy_in_a_pin_fills_the_row_of_an_unknown_message() -> None:
    copies = [fact(1, content("old"), quoted=True, pinned=True), fact(2, content("newer"), quoted=True)]
    message = result(copies)
    assert (message.text, message.version, texts(message)) == ("newer", 0, [])
    assert fold_all(new_message(copies[0]), copies, erase=False).to_embed


def test_copy_in_a_pin_never_makes_a_version() -> None:
    said, pin = fact(1, content("one")), fact(2, content("two"), quoted=True, pinned=True)
    for facts in ([said, pin], [pin, said]):
        message = result(facts)
        assert (message.text, message.version, texts(message)) == ("one", 1, [])


def test_sent_at_is_the_time_of_sending_not_of_arrival() -> None:
    without = MessageFact(*KEY, at(500), at(500), None, deleted=True)
    assert result([without, fact(501, content("one"))]).sent_at == SENT
    assert result([fact(1, content("one")), without]).sent_at == SENT


def test_erasing_blanks_every_version_and_late_ones_too() -> None:
    facts = [fact(1, content("one")), fact(2, content("two", 30)), fact(3, deleted=True), fact(4, content("x", 60))]
    for cuts in ((), (1,), (2,), (3,), (1, 2, 3)):
        message = result(facts, erase=True, cuts=cuts)
        assert (message.text, message.version, texts(message)) == (None, 2, [(1, None)])
        assert message.user_id == "anna"


def test_only_a_new_text_is_embedded() -> None:
    message = result([fact(1, content("one"))])
    assert not message.to_embed, "the database has it"
    for what, wanted in ((content("one"), False), (content("two", 30), True), (content("", 30), False)):
        assert fold_all(copy.deepcopy(message), [fact(9, what)], erase=False).to_embed is wanted, what


def test_a_late_edit_is_not_embedded() -> None:
    known = result([fact(1, content("one")), fact(2, content("three", 60))])
    assert not fold_all(known, [fact(9, content("two", 30))], erase=False).to_embed


_edits = st.tuples(st.integers(0, 3), st.sampled_from(["", "a", "b", "c"]))


@st.composite
def stories(draw: st.DrawFn) -> list[MessageFact]:
    """The original, edits (some at the same second, some repeated), deletions and ghosts of one message."""
    format_of = {"": None, "a": {"bold": [1]}, "b": None, "c": {"link": [2]}}
    originals = [content("zero", reply_to_msg_id="7", thread={"t": 1}, forward=[1])] * draw(st.integers(0, 2))
    edits = [content(text, 10 * n, format=format_of[text]) for n, text in draw(st.lists(_edits, max_size=6))]
    other: list[dict[str, Any]] = draw(st.lists(st.sampled_from([{"deleted": True}, {}]), max_size=3))
    facts = [fact(n, what) for n, what in enumerate(originals + edits)]
    facts += [fact(100 + n, **more) for n, more in enumerate(other)]
    return draw(st.permutations(facts or [fact(0)]))


@settings(max_examples=EXAMPLES, deadline=None)
@given(stories(), st.data())
def test_any_order_and_any_batches_end_in_the_same_rows(story: list[MessageFact], data: st.DataObject) -> None:
    other = data.draw(st.permutations(story))
    cuts = tuple(data.draw(st.lists(st.integers(1, len(story)), max_size=3)))
    one, two = result(story), result(other, cuts=cuts)
    assert one.row == two.row
    assert one.version_rows == two.version_rows


@settings(max_examples=EXAMPLES, deadline=None)
@given(stories(), st.data())
def test_copy_changes_nothing_once_the_message_is_known(story: list[MessageFact], data: st.DataObject) -> None:
    copied = fact(50, content("copied", data.draw(st.sampled_from([None, 15.0]))), quoted=True)
    where = data.draw(st.integers(0, len(story)))
    without, with_it = result(story), result([*story[:where], copied, *story[where:]])
    if without.version:
        assert with_it.row == without.row
        assert with_it.version_rows == without.version_rows


@settings(max_examples=EXAMPLES, deadline=None)
@given(stories(), st.data())
def test_versions_are_numbered_in_order(story: list[MessageFact], data: st.DataObject) -> None:
    message = result(story)
    assert [row[2] for row in message.version_rows] == list(range(1, len(message.earlier) + 1))
    times = [v.edited_at or SENT - timedelta(1) for v in message.earlier] + [message.edited_at or SENT - timedelta(1)]
    assert times == sorted(times)
    assert message.version == (len(message.earlier) + 1 if any(f.content for f in story) else 0)
