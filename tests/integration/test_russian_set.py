"""The Russian relevance set is right by construction: PostgreSQL itself says which messages each query names.

The judge is its plain `russian` configuration, with every word required and ё read as е, not our own search.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import psycopg
import pytest

from bench.russian import texts
from tests.harness.postgres import PostgresServer
from tests.harness.russian import Query, messages, queries


@pytest.fixture(scope="module")
def plain(postgres_server: PostgresServer) -> Iterator[psycopg.Connection]:
    """The set's messages in a table `said`, with plain Russian text search."""
    with postgres_server.fresh(migrated=False) as url, psycopg.connect(url) as connection:
        connection.execute(
            "CREATE TABLE said (id text PRIMARY KEY, body text, search tsvector GENERATED ALWAYS AS"
            " (to_tsvector('pg_catalog.russian'::regconfig, translate(body, 'ёЁ', 'еЕ'))) STORED)"
        )
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO said (id, body) VALUES (%s, %s)", [(message.id, message.text) for message in messages()]
            )
        yield connection


def _matches(connection: psycopg.Connection, text: str) -> list[str]:
    rows = connection.execute(
        "SELECT id FROM said WHERE search @@ websearch_to_tsquery('pg_catalog.russian', translate(%s, 'ёЁ', 'еЕ'))"
        " ORDER BY id",
        (text,),
    )
    return [row[0] for row in rows]


def test_exactly_the_relevant_messages_match_what_was_meant(plain: psycopg.Connection) -> None:
    judged = [query for query in queries() if query.kind != "paraphrase"]
    matches = {query: _matches(plain, query.meant) for query in judged}
    assert [(query, ids) for query, ids in matches.items() if ids != list(query.relevant)] == []


def test_misspelt_query_as_typed_matches_nothing(plain: psycopg.Connection) -> None:
    misspelt = [query for query in queries() if query.kind in ("layout", "translit", "typo")]
    assert [query for query in misspelt if _matches(plain, query.query)] == []


def test_a_paraphrase_shares_no_stem_with_its_messages(plain: psycopg.Connection) -> None:
    paraphrases = [query for query in queries() if query.kind == "paraphrase"]
    shared = {query: _shared_stems(plain, query) for query in paraphrases}
    assert [(query, stems) for query, stems in shared.items() if stems] == []


def _shared_stems(connection: psycopg.Connection, query: Query) -> list[str]:
    rows = connection.execute(
        "SELECT word"
        " FROM unnest(tsvector_to_array(to_tsvector('pg_catalog.russian', translate(%s, 'ёЁ', 'еЕ')))) AS word"
        " WHERE EXISTS (SELECT FROM said WHERE id = ANY(%s) AND word = ANY(tsvector_to_array(search)))",
        (query.query, list(query.relevant)),
    )
    return [row[0] for row in rows]


def test_a_paraphrase_of_the_benchmark_shares_no_stem_with_its_message(plain: psycopg.Connection) -> None:
    written, queries = texts.haystack(datetime.now(UTC))
    by_id = {message.id: message.text for message in written}
    pairs = [(q.text, by_id[one]) for q in queries if q.kind == "paraphrase" for one in q.relevant]
    stems = "tsvector_to_array(to_tsvector('pg_catalog.russian', translate({}, 'ёЁ', 'еЕ')))".format
    rows = plain.execute(
        f"SELECT query, answer FROM unnest(%s::text[], %s::text[]) AS p (query, answer)"
        f" WHERE {stems('query')} && {stems('answer')}".encode(),
        ([query for query, _ in pairs], [answer for _, answer in pairs]),
    )
    assert rows.fetchall() == []
