"""The words of the archive: when they are counted again, and when words of deleted messages disappear."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psycopg
import pytest

from tests.harness.talk import DEV, OPS, Talk
from tests.harness.waiting import until
from vkteams_daemon.config import Config
from vkteams_daemon.daemon import word_count
from vkteams_daemon.daemon.watch import Pulse
from vkteams_daemon.options import Database as DatabaseOptions
from vkteams_daemon.search.retrieval import document_frequencies
from vkteams_daemon.search.retrieval.document_frequencies import DocumentFrequencies
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.store.admin import search_index, word_counts
from vkteams_daemon.store.database import Database


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def _say(connection: psycopg.Connection, first: int, count: int, text: str) -> None:
    connection.execute(
        "INSERT INTO messages (chat_id, msg_id, sent_at, received_at, text, search)"
        " SELECT 'c', n::text, now(), now(), %(text)s, to_tsvector('vkteams', %(text)s)"
        " FROM generate_series(%(first)s::int, %(last)s::int) AS n",
        {"text": text, "first": first, "last": first + count - 1},
    )


def _words(connection: psycopg.Connection) -> dict[str, int]:
    return dict(connection.execute("SELECT word, messages FROM words").fetchall())


def test_small_archive_is_not_counted(connection: psycopg.Connection) -> None:
    _say(connection, 1, word_counts.MIN_MESSAGES - 1, "сервер")
    assert not word_counts.count_words(connection)
    assert _words(connection) == {}


def test_each_word_is_counted_once_for_a_message(connection: psycopg.Connection) -> None:
    _say(connection, 1, word_counts.MIN_MESSAGES, "серверы и server")
    _say(connection, 10_000, 2, "сервер, сервера, сервером")
    assert word_counts.count_words(connection)
    assert _words(connection) == {"сервер": word_counts.MIN_MESSAGES + 2, "server": word_counts.MIN_MESSAGES}


def test_nothing_is_counted_again_before_the_archive_has_grown(connection: psycopg.Connection) -> None:
    _say(connection, 1, word_counts.MIN_MESSAGES, "сервер")
    assert word_counts.count_words(connection)
    _say(connection, 10_000, word_counts.MIN_MESSAGES - 1, "принтер")
    assert not word_counts.count_words(connection)
    _say(connection, 20_000, 1, "принтер")
    assert word_counts.count_words(connection)
    assert _words(connection)["принтер"] == word_counts.MIN_MESSAGES


def test_words_of_deleted_messages_are_forgotten_within_a_day(connection: psycopg.Connection) -> None:
    _say(connection, 1, word_counts.MIN_MESSAGES, "сервер")
    _say(connection, 10_000, 1, "пароль")
    assert word_counts.count_words(connection)
    connection.execute("UPDATE messages SET deleted_at = now() WHERE text = 'пароль'")
    assert not word_counts.count_words(connection)
    connection.execute("UPDATE words_counted SET counted_at = counted_at - interval '1 day 1 second'")
    assert word_counts.count_words(connection)
    assert _words(connection) == {"сервер": word_counts.MIN_MESSAGES}


def test_only_one_process_counts_at_a_time(connection: psycopg.Connection, database_url: str) -> None:
    _say(connection, 1, word_counts.MIN_MESSAGES, "сервер")
    with psycopg.connect(database_url) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtextextended('vkteams words ' || current_schema(), 0))")
        assert not word_counts.count_words(connection)
    assert word_counts.count_words(connection)


def test_common_words_of_a_confined_reader_are_counted_in_a_sample_of_what_they_may_see(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document_frequencies, "_WHOLE", 100)
    monkeypatch.setattr(document_frequencies, "_SAMPLE", 40)
    monkeypatch.setattr(document_frequencies, "_COMMON", 10)
    monkeypatch.setattr(document_frequencies, "_COUNT_LIMIT", 20)
    talk.many(["резерв" if n % 2 else "принтер" if n % 8 == 0 else "сервер" for n in range(200)], chat=OPS)
    talk.say("key", "ключ", chat=OPS)
    own = Scope([OPS], confined=True)
    counted = ["'резерв'", "'принтер'", "'ключ'", "'пароль'"]
    with talk.connection() as connection:
        before = DocumentFrequencies(connection, own).of(counted)
        talk.many(["резерв", "пароль"] * 50, chat=DEV)
        assert DocumentFrequencies(connection, own).of(counted) == before
    common, rarer, *rare = before.values()
    assert common == pytest.approx(100, abs=5), "not 20, where counting stops"
    assert rarer == pytest.approx(25, abs=5), "of too few in the sample more are counted, and of more the sample tells"
    assert rare == [1, 0]


def test_daemon_counts_words_and_merges_them_into_the_index(connection: psycopg.Connection, database_url: str) -> None:
    _say(connection, 1, word_counts.MIN_MESSAGES, "сервер")
    stopping = threading.Event()
    with Database(Config(database=DatabaseOptions(url=database_url))) as database:
        thread = threading.Thread(target=word_count.count_words_loop, args=(database, stopping, Pulse(), 0.01))
        thread.start()
        try:
            until(lambda: _words(connection), 60, "words")
            assert search_index.merge_pending(connection) == 0, "the daemon has done it before it counted"
        finally:
            stopping.set()
            thread.join(30)
    assert not thread.is_alive()
