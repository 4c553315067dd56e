"""docs/demo.md: what it says of the conversation is so, and its questions by words find what stands below them."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.harness.built_in_conversation import all_events, last_texts
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.store.ingest.writer import Writer

PAGE = Path(__file__).parents[2] / "docs" / "demo.md"


@dataclass(frozen=True, slots=True)
class Question:
    verb: str
    query: str
    chat_ids: tuple[str, ...] | None
    answer: str


def _questions() -> list[Question]:
    questions = []
    for command, answer in re.findall(r"^    vkteamsctl search (.+)\n\n> (.+)$", PAGE.read_text("utf-8"), re.M):
        verb, query, *options = shlex.split(command)
        questions.append(Question(verb, query, tuple(options[1:]) or None, answer))
    return questions


QUESTIONS = _questions()
BY_WORDS = [question for question in QUESTIONS if question.verb == "text"]
BY_MEANING = [question for question in QUESTIONS if question.verb == "semantic"]


@pytest.fixture
def archive(database_url: str) -> Iterator[psycopg.Connection]:
    """The whole conversation, stored."""
    writer = Writer(functools.partial(psycopg.connect, database_url, autocommit=True), "1000000001")
    assert writer.acquire()
    writer.store(all_events())
    writer.close()
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def test_there_are_eleven_questions() -> None:
    assert (len(BY_WORDS), len(BY_MEANING)) == (5, 6)


def test_number_of_messages_on_the_page_is_right() -> None:
    events = all_events()
    msg_ids = {event.subject for event in events if event.type == "newMessage"}
    assert f"{len(msg_ids)} messages" in " ".join(PAGE.read_text("utf-8").split())


@pytest.mark.parametrize("question", BY_WORDS, ids=lambda question: question.query)
def test_text_search_finds_the_printed_answer_first(
    archive: psycopg.Connection, database_url: str, question: Question
) -> None:
    with Archive(database_url) as library:
        hits = library.search(question.query, mode="text", chat_ids=question.chat_ids).hits
    assert question.answer in hits[0].text


@pytest.mark.parametrize("question", BY_MEANING, ids=lambda question: question.query)
def test_semantic_question_shares_no_word_with_its_only_answer(archive: psycopg.Connection, question: Question) -> None:
    """That it is found first was seen with the model, which no test may need to download."""
    answers = [text for text in last_texts().values() if question.answer in text]
    assert len(answers) == 1
    assert not _stems(archive, question.query) & _stems(archive, answers[0])


def _stems(archive: psycopg.Connection, text: str) -> set[str]:
    """The words, without the commonest, as the search by words knows them."""
    row = archive.execute("SELECT tsvector_to_array(to_tsvector('vkteams', %s))", (text,)).fetchone()
    assert row
    return set(row[0])


def test_deleted_message_is_not_found(archive: psycopg.Connection, database_url: str) -> None:
    query = "Lesnaya-7-khinkali"
    assert f"search text '{query}'" in PAGE.read_text("utf-8")
    with Archive(database_url) as library:
        assert library.search(query, mode="text").hits == []
    kept = archive.execute("SELECT count(*) FROM messages WHERE text LIKE %s", (f"%{query}",)).fetchone()
    assert kept == (1,)
