"""Context within a token budget: what belongs together, what is kept, what may be seen."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.harness.talk import ANNA, DEV, OPS, PETR, VERA, Talk, moment
from vkteams_daemon.errors import NotFound, UsageError
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.search.history.results import Context
from vkteams_daemon.search.history.token_budget import CUT, TokenBudget, line_cost, tokens
from vkteams_daemon.search.messages import ArchivedMessage

THREAD = "693938330@chat.agent"


@pytest.fixture
def archive(talk: Talk) -> Iterator[Archive]:
    with Archive(talk.url) as opened:
        yield opened


def _ids(context: Context) -> list[tuple[str, list[str]]]:
    return [(c.chat_id, [said.msg_id for said in c.messages]) for c in context.conversations]


def _said(text: str, author: str = "Anna") -> ArchivedMessage:
    return ArchivedMessage(OPS, "1", ANNA, author, moment(0), text, None, False, ())


# Threads


def test_thread_has_the_replies_in_both_directions(talk: Talk, archive: Archive) -> None:
    talk.say("1", "what is down?")
    talk.say("2", "the mail", at=1, who=PETR, answers="1")
    talk.say("3", "something else", at=2)
    talk.say("4", "since when?", at=3, answers="2")
    talk.say("5", "which floor?", at=4, who=VERA, answers="1")
    for msg_id in ("1", "2", "4", "5"):
        assert [said.msg_id for said in archive.thread(OPS, msg_id)] == ["1", "2", "4", "5"]
    assert [said.msg_id for said in archive.thread(OPS, "3")] == ["3"]
    shown = archive.message(OPS, "2")
    assert (shown.message.text, shown.chat_title) == ("the mail", "Эксплуатация")
    assert [said.msg_id for said in shown.thread] == ["1", "4", "5"]


def test_links_lead_through_deleted_and_unknown_messages(talk: Talk, archive: Archive) -> None:
    talk.say("1", "question")
    talk.say("2", "answer", at=1, answers="1")
    talk.say("3", "thanks", at=2, answers="2")
    talk.delete("2")
    assert [said.msg_id for said in archive.thread(OPS, "3")] == ["1", "3"]
    talk.say("11", "one opinion", at=5, answers="before the bot came")
    talk.say("12", "another", at=6, answers="before the bot came")
    # The answers repeat a message that is not archived.
    assert [said.msg_id for said in archive.thread(OPS, "11")] == ["before the bot came", "11", "12"]


def test_deleted_unknown_or_hidden_message_has_no_thread(talk: Talk, archive: Archive) -> None:
    talk.say("1", "question")
    talk.say("2", "gone", at=1)
    talk.delete("2")
    for chat, msg_id in ((OPS, "2"), (OPS, "99"), (DEV, "1")):
        with pytest.raises(NotFound, match="no message"):
            archive.thread(chat, msg_id)
    with pytest.raises(NotFound):
        archive.thread(OPS, "1", chat_ids=[DEV])
    with pytest.raises(NotFound):
        archive.thread(OPS, "1", chat_ids=[])
    with pytest.raises(NotFound):
        archive.message(OPS, "1", since=moment(1))


def test_circular_replies_end(talk: Talk, archive: Archive) -> None:
    talk.say("1", "me", answers="1")
    talk.say("2", "a", at=1, answers="3")
    talk.say("3", "b", at=2, answers="2")
    assert [said.msg_id for said in archive.thread(OPS, "1")] == ["1"]
    assert [said.msg_id for said in archive.thread(OPS, "2")] == ["2", "3"]


def test_long_thread_is_cut_to_the_nearest_messages(talk: Talk, archive: Archive) -> None:
    talk.say("m0", "who comes?")
    talk.many(["me"] * 1000)
    talk.execute("UPDATE messages SET reply_to_msg_id = 'm0' WHERE msg_id <> 'm0'")
    found = [said.msg_id for said in archive.thread(OPS, "m500")]
    assert len(found) == 200
    assert {"m450", "m500", "m550"} <= set(found)


def test_thread_and_the_message_it_hangs_on_belong_together(talk: Talk, archive: Archive) -> None:
    talk.say("1", "the disk is full")
    talk.say("21", "which one?", at=1, chat=THREAD, below=(OPS, "1"))
    talk.say("22", "/var", at=2, chat=THREAD, below=(OPS, "1"))
    assert [said.msg_id for said in archive.thread(THREAD, "21")] == ["1", "21"]
    assert [said.msg_id for said in archive.thread(OPS, "1")] == ["1", "21", "22"]
    # Whoever may see the thread alone sees nothing of the chat, and the other way round.
    assert [said.msg_id for said in archive.thread(THREAD, "21", chat_ids=[THREAD])] == ["21"]
    assert [said.msg_id for said in archive.thread(OPS, "1", chat_ids=[OPS])] == ["1"]


# Around one message


def test_around_prefers_the_thread_to_the_neighbours(talk: Talk, archive: Archive) -> None:
    talk.say("1", "which port?", at=-600)
    for n in range(20):
        talk.say(f"x{n}", "chatter " * 20, at=n)
    talk.say("2", "5432", at=10.5, answers="1")
    found = archive.context("around", message=(OPS, "2"), max_tokens=300)
    assert found.cut
    assert found.conversations[0].matches == ("2",)
    kept = [said.msg_id for said in found.conversations[0].messages]
    assert kept[0] == "1"
    assert set(kept[1:]) <= {"x8", "x9", "x10", "x11", "x12", "x13", "2"}
    assert found.left_out == found.conversations[0].left_out == 22 - len(kept)
    whole = archive.context("around", message=(OPS, "2"))
    assert len(whole.conversations[0].messages) == 22
    assert not whole.cut


def test_neighbours_are_the_nearest_and_of_one_chat(talk: Talk, archive: Archive) -> None:
    talk.many([f"text {n}" for n in range(1, 101)])
    talk.many(["elsewhere"] * 50, chat=DEV, first=200)
    found = archive.context("around", message=(OPS, "m50"))
    assert _ids(found) == [(OPS, [f"m{n}" for n in range(38, 63)])]


def test_chat_of_needs_exactly_one_chat(talk: Talk, archive: Archive) -> None:
    talk.say("1", "here")
    talk.say("2", "in both")
    talk.say("2", "in both", chat=DEV)
    assert archive.chat_of("1") == OPS
    assert archive.chat_of("2", chat_ids=[DEV]) == DEV
    with pytest.raises(UsageError, match="several chats have a message 2"):
        archive.chat_of("2")
    with pytest.raises(NotFound):
        archive.chat_of("1", chat_ids=[DEV])


# Recent


@pytest.fixture
def now(database_url: str) -> Iterator[Talk]:
    """A talk that began four hours ago."""
    made = Talk(database_url, datetime.now(UTC) - timedelta(hours=4))
    yield made
    made.close()


def test_recent_is_the_last_two_hours_unless_told(now: Talk) -> None:
    now.say("1", "long ago", at=60)
    now.say("2", "an hour ago", at=180)
    now.say("3", "elsewhere", at=200, chat=DEV)
    now.say("4", "deleted", at=210)
    now.delete("4")
    with Archive(now.url) as archive:
        assert _ids(archive.context()) == [(DEV, ["3"]), (OPS, ["2"])]
        assert _ids(archive.context(chat_ids=[OPS])) == [(OPS, ["2"])]
        assert _ids(archive.context(chat_ids=[OPS], timeframe=timedelta(hours=5))) == [(OPS, ["1", "2"])]
        assert _ids(archive.context(chat_ids=[])) == []
        earliest = datetime.now(UTC) - timedelta(minutes=50)
        assert _ids(archive.context(timeframe=timedelta(hours=5), since=earliest)) == [(DEV, ["3"])]


def test_empty_answer_says_when_the_last_message_was(now: Talk) -> None:
    with Archive(now.url) as archive:
        assert archive.context().note == "The archive has no message there."
        now.say("1", "long ago", at=60)
        note = archive.context().note
        assert note is not None
        assert note.startswith("Nothing was said since ")
        assert note.endswith(f"the last message is of {now.start + timedelta(hours=1):%a %Y-%m-%d %H:%M} UTC.")
        # What may not be seen is not told either.
        assert archive.context(chat_ids=[DEV]).note == "The archive has no message there."


def test_newest_messages_are_kept_across_chats(now: Talk) -> None:
    for n in range(40):
        now.say(f"o{n}", "twelve tokens or so of talk about the disk", at=200 + n / 2, chat=OPS)
        now.say(f"d{n}", "twelve tokens or so of talk about the disk", at=200.2 + n / 2, chat=DEV)
    with Archive(now.url) as archive:
        found = archive.context(max_tokens=400)
    assert found.tokens <= 400
    (dev, d), (ops, o) = _ids(found)
    assert (dev, ops) == (DEV, OPS)
    assert d == [f"d{n}" for n in range(40 - len(d), 40)]
    assert o == [f"o{n}" for n in range(40 - len(o), 40)]
    assert 0 <= len(d) - len(o) <= 1
    assert found.cut
    assert [c.left_out for c in found.conversations] == [40 - len(d), 40 - len(o)]


def test_no_message_is_kept_that_is_older_than_one_left_out(now: Talk) -> None:
    now.say("1", "short", at=200)
    now.say("2", "long " * 100, at=201)
    now.say("3", "long " * 100, at=202)
    now.say("4", "short", at=203)
    with Archive(now.url) as archive:
        found = archive.context(max_tokens=200)
    assert _ids(found) == [(OPS, ["3", "4"])]
    assert found.tokens < 170  # there would have been room for the first one


def test_messages_of_chats_that_are_not_shown_are_counted(now: Talk) -> None:
    now.say("1", "older", at=180, chat=DEV)
    now.say("2", "newer " * 200, at=200)
    with Archive(now.url) as archive:
        found = archive.context(max_tokens=100)
    assert _ids(found) == [(OPS, ["2"])]
    assert (found.cut, found.left_out) == (True, 1)
    assert found.conversations[0].messages[0].text.endswith(CUT)


# Topic


def test_topic_has_the_conversations_that_a_query_touches(talk: Talk, archive: Archive) -> None:
    talk.say("1", "the relay is down", at=0)
    talk.say("2", "restarting it", at=1, who=PETR)
    talk.say("3", "lunch?", at=60, who=VERA)
    talk.say("4", "is the relay fine again?", at=120, who=VERA)
    talk.say("5", "yes", at=121, who=PETR)
    talk.say("6", "release notes", at=122, chat=DEV)
    found = archive.context("topic", query="relay")
    assert sorted(_ids(found)) == [(OPS, ["1", "2"]), (OPS, ["4", "5"])]
    assert sorted(c.matches for c in found.conversations) == [("1",), ("4",)]
    assert archive.context("topic", query="relay", user_id=VERA).conversations[0].matches == ("4",)
    assert archive.context("topic", query="relay", chat_ids=[DEV]).conversations == []
    seen = archive.context("topic", query="fine", since=moment(120.5))
    assert seen.conversations == []


def test_hits_of_one_conversation_share_it(talk: Talk, archive: Archive) -> None:
    for n in range(30):
        text = {3: "the relay in Riga stopped", 18: "who has the keys of the relay?"}.get(n, f"talk {n}")
        talk.say(f"{n}", text, at=n)
    found = archive.context("topic", query="relay")
    assert len(found.conversations) == 1
    assert found.conversations[0].matches == ("3", "18")
    ids = [said.msg_id for said in found.conversations[0].messages]
    assert ids == [str(n) for n in range(30)]


def test_every_hit_comes_before_the_messages_around_hits(talk: Talk, archive: Archive) -> None:
    texts = {0: "the relay in Riga stopped", 100: "who has the keys of the relay?", 200: "relay bill paid, finally"}
    for start, text in texts.items():
        talk.say(f"r{start}", text, at=start)
        for n in range(9):
            talk.say(f"c{start + n}", "talk " * 30, at=start + n / 2)
    found = archive.context("topic", query="relay", max_tokens=420)
    assert sorted(c.matches for c in found.conversations) == [("r0",), ("r100",), ("r200",)]
    assert found.tokens <= 420
    assert found.cut


# One person


def test_profile_has_messages_chats_and_times(talk: Talk, archive: Archive) -> None:
    talk.say("1", "one", who=PETR)
    talk.say("2", "two", at=5, who=PETR)
    talk.say("3", "three", at=3, who=PETR, chat=DEV)
    talk.say("4", "not his", at=4)
    talk.say("5", "gone", at=6, who=PETR)
    talk.delete("5")
    found = archive.context("user-profile", user_id=PETR)
    assert _ids(found) == [(OPS, ["1", "2"]), (DEV, ["3"])]
    profile = found.profile
    assert profile is not None
    assert (profile.name, profile.messages, profile.chats) == ("Пётр", 3, 2)
    assert (profile.first_at, profile.last_at) == (moment(0), moment(5))
    assert [(p.chat_title, p.messages) for p in profile.places] == [("Эксплуатация", 2), ("Development", 1)]
    seen = archive.context("user-profile", user_id=PETR, chat_ids=[DEV]).profile
    assert seen is not None
    assert (seen.messages, seen.chats) == (1, 1)


def test_person_without_visible_messages_has_no_profile(talk: Talk, archive: Archive) -> None:
    talk.say("1", "one", who=PETR)
    with pytest.raises(NotFound):
        archive.context("user-profile", user_id=PETR, chat_ids=[DEV])
    with pytest.raises(NotFound):
        archive.context("user-profile", user_id=PETR, since=moment(1))
    with pytest.raises(NotFound):
        archive.context("user-profile", user_id="nobody")


@pytest.mark.parametrize("kind", ["topic", "user-profile", "around"])
def test_missing_argument_of_a_kind_is_an_error(archive: Archive, kind: str) -> None:
    with pytest.raises(UsageError, match=f"context {kind} needs"):
        archive.context(kind)  # type: ignore[arg-type]


# The budget


def test_budget_is_never_exceeded() -> None:
    budget = TokenBudget(200)
    kept = [said for n in range(50) if (said := budget.take(_said("слово " * 5), first=n == 0))]
    assert budget.used == 48 + sum(map(line_cost, kept)) <= 200
    assert budget.left == 200 - budget.used
    assert budget.cut
    assert budget.take(_said("")) is None or budget.used <= 200


def test_long_text_is_shortened_to_a_quarter_of_the_budget() -> None:
    budget = TokenBudget(400)
    said = budget.take(_said("ж" * 10_000))
    assert said is not None
    assert said.text.endswith(CUT)
    assert tokens(said.text) <= 100 + tokens(CUT)
    assert budget.cut


def test_cost_of_a_message_can_be_given() -> None:
    budget = TokenBudget(100, lambda said: 50)
    assert budget.take(_said("a"))
    assert budget.take(_said("a"))
    assert budget.take(_said("a")) is None


# Chats and people


def test_chats_and_users_are_counted_latest_first(talk: Talk, archive: Archive) -> None:
    talk.say("1", "one")
    talk.say("2", "two", at=1, who=PETR)
    talk.say("3", "three", at=2, chat=DEV, who=PETR)
    talk.say("4", "gone", at=3, who=PETR)
    talk.delete("4")
    talk.say("5", "in private", at=4, chat=ANNA)
    talk.say("21", "below", at=5, chat=THREAD, below=(OPS, "1"), who=None)
    found = {chat.chat_id: chat for chat in archive.chats()}
    assert list(found) == [THREAD, ANNA, DEV, OPS]
    ops = found[OPS]
    assert (ops.title, ops.type, ops.messages, ops.users) == ("Эксплуатация", "group", 2, 2)
    assert (ops.first_message_at, ops.last_message_at) == (moment(0), moment(1))
    assert (found[ANNA].title, found[ANNA].type) == ("Анна Иванова", "private")
    assert (found[THREAD].title, found[THREAD].parent_chat_id, found[THREAD].parent_msg_id) == (
        "Эксплуатация", OPS, "1",
    )  # fmt: skip
    people = {user.user_id: user for user in archive.users()}
    assert list(people) == [ANNA, PETR]
    petr = people[PETR]
    assert (petr.name, petr.messages, petr.chats, petr.last_message_at) == ("Пётр", 2, 2, moment(2))
    assert [chat.chat_id for chat in archive.chats(limit=2)] == [THREAD, ANNA]
    assert [user.user_id for user in archive.users(limit=1)] == [ANNA]


def test_hidden_chats_and_users_are_not_counted(talk: Talk, archive: Archive) -> None:
    talk.say("1", "one")
    talk.say("2", "two", at=10, who=PETR)
    talk.say("3", "three", at=2, chat=DEV, who=VERA)
    talk.event("newChatMembers", chat={"chatId": DEV}, newMembers=[{"userId": "silent@corp.example"}])
    assert {user.user_id for user in archive.users()} == {ANNA, PETR, VERA, "silent@corp.example"}
    assert [user.user_id for user in archive.users(chat_ids=[OPS])] == [PETR, ANNA]
    assert [user.user_id for user in archive.users(since=moment(5))] == [PETR]
    assert [chat.chat_id for chat in archive.chats(chat_ids=[DEV])] == [DEV]
    assert archive.chats(chat_ids=[]) == archive.users(chat_ids=[]) == []
    counted = {chat.chat_id: chat.messages for chat in archive.chats(since=moment(5))}
    assert counted == {OPS: 1, DEV: 0}
