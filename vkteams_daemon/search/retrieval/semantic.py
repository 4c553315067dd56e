"""Search by meaning: the messages whose vectors are nearest to the query's, by cosine.

Two ways lead there, and a bounded count of what the filters leave decides between them: few rows are measured one by
one (exact, and the approximate index would find nearly none of them), many go through the model's partial HNSW index
with an iterative scan. Whenever the index yields fewer messages than were asked for, the exact way is gone as well: an
answer is never shorter than what exists.

Model and dimensions stand in the SQL as checked integers and the statements are never prepared: a generic plan
could not prove that the partial index fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from vkteams_daemon.search.results import Leg, Ranked
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.store.models import StoredModel

EXACT = 5000
"""Up to this many messages are measured one by one: no slower than a filtered walk through the index, and exact."""

# With the index of store.models, over 192,734 vectors of chat messages, what is found is as near as the ten nearest to
# 0.989 (bench/search_speed.py); each 200 less save some 2 ms and 0.003 (docs/benchmarks.md).
EFFORT = 1000
ROUGH = 250
"""The same for an answer that is one part of another: a third of the time, and fusion bears what is missed."""
_SPARE = 20


def search_semantic(
    connection: psycopg.Connection[Any],
    vector: Sequence[float],
    model: StoredModel,
    scope: Scope,
    limit: int,
    *,
    effort: int = EFFORT,
) -> list[Ranked]:
    """The messages nearest to the vector; of a message in several chunks the nearest one counts.

    Args:
        connection: any connection to the archive.
        vector: (dims,), of any length but zero; from the same model as the stored ones.
        model: whose vectors are searched.
        scope: where to look.
        limit: most messages.
        effort: how many candidates the walk through the index keeps (hnsw.ef_search).

    Raises:
        ValueError: the vector has not the model's dimensions.
    """
    if len(vector) != model.dims:
        raise ValueError(f"the vector has {len(vector)} numbers, the model {model.dims}")
    look = _Look(connection, vector, int(model.model_id), int(model.dims), scope, effort)
    # A transaction, or a savepoint where there is one: the settings of the index scan are local to it.
    with connection.transaction():
        ranked = look.exact(limit) if look.is_small() else look.indexed(limit)
    return [replace(r, legs=(Leg("semantic", rank, r.score),)) for rank, r in enumerate(ranked, 1)]


@dataclass(frozen=True, slots=True)
class _Look:
    connection: psycopg.Connection[Any]
    vector: Sequence[float]
    model_id: int
    dims: int
    scope: Scope
    effort: int

    def is_small(self) -> bool:
        """Whether the filters leave at most `EXACT` messages."""
        if not self.scope.narrows:
            return False
        sql = f"SELECT count(*) FROM (SELECT FROM messages m WHERE {self.scope.condition} LIMIT {EXACT + 1}) AS few"
        return int(self._rows(sql)[0][0]) <= EXACT

    def exact(self, limit: int) -> list[Ranked]:
        """Every vector that the filters leave, measured."""
        # The filter is materialized first: otherwise the planner walks the whole index and drops nearly all of it.
        sql = (
            f"WITH kept AS MATERIALIZED (SELECT e.chat_id, e.msg_id, e.embedding {self._source}),"
            f" measured AS (SELECT chat_id, msg_id, min({self._distance('kept')}) AS distance FROM kept"
            "   GROUP BY chat_id, msg_id)"
            " SELECT chat_id, msg_id, 1 - distance FROM measured"
            f" ORDER BY distance, chat_id, msg_id LIMIT {int(limit)}"
        )
        return [Ranked(*row) for row in self._rows(sql)]

    def indexed(self, limit: int) -> list[Ranked]:
        """The nearest by the index; more rows are asked for as long as chunks of one message stand for several."""
        wanted = limit + _SPARE
        self._rows(
            "SELECT set_config('hnsw.iterative_scan', 'relaxed_order', true),"
            f" set_config('hnsw.ef_search', '{min(max(self.effort, wanted), 1000)}', true)"
        )
        while True:
            rows = self._rows(
                f"SELECT e.chat_id, e.msg_id, {self._distance('e')} AS distance {self._source}"
                f" ORDER BY distance LIMIT {wanted}"
            )
            nearest: dict[tuple[str, str], float] = {}
            # A relaxed scan yields rows nearly in order; sorted, the first of a message is its nearest chunk.
            for chat_id, msg_id, distance in sorted(rows, key=lambda row: (row[2], row[0], row[1])):
                nearest.setdefault((chat_id, msg_id), distance)
            if len(nearest) >= limit:
                best = list(nearest.items())[:limit]
                return [Ranked(chat_id, msg_id, 1 - distance) for (chat_id, msg_id), distance in best]
            if len(rows) < wanted:
                return self.exact(limit)
            wanted *= 4

    @property
    def _source(self) -> str:
        return (
            "FROM embeddings e JOIN messages m ON m.chat_id = e.chat_id AND m.msg_id = e.msg_id"
            f" WHERE e.model_id = {self.model_id} AND e.kind = 'message' AND {self.scope.condition}"
        )

    def _distance(self, table: str) -> str:
        return f"{table}.embedding::halfvec({self.dims}) <=> %(vector)s::halfvec({self.dims})"

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        numbers = "[" + ",".join(f"{float(number):.7g}" for number in self.vector) + "]"
        with self.connection.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(sql.encode(), {**self.scope.parameters, "vector": numbers}, prepare=False)
            return cursor.fetchall()
