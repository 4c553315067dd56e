"""Semantic search: the messages whose vectors are nearest to the query's vector, by cosine.

A bounded count of the messages in the scope chooses one of two ways. Few messages are compared one by one: that is
exact, and the approximate index would find nearly none of them. Otherwise an iterative scan walks the model's partial
HNSW index. If the index yields fewer messages than the limit, the exact way follows: an answer is never shorter than
the archive allows.

Model and dimensions stand in the SQL as checked integers, and the statements are never prepared: a generic plan could
not prove that the partial index fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

from vkteams_daemon.embedding.language_axis import QueryVector
from vkteams_daemon.search.messages import MessageKey
from vkteams_daemon.search.results import Ranked, RetrieverScore
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.embedding_models import StoredModel
from vkteams_daemon.store.vector_index import graph_of

EXACT_CONFINED = 50_000
"""Up to this many messages are compared one by one for a confined reader; for others see `Graph.exact`. A walk through
the index could depend on messages that the reader may not see."""

_VECTOR_SCHEMA = (
    "SELECT pg_catalog.quote_ident(n.nspname::text) FROM pg_catalog.pg_extension e"
    " JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'"
)
_vector_schemas: WeakKeyDictionary[Connection, str] = WeakKeyDictionary()
_LIFTED = 100  # messages nearest to the level vector, among which the lifted cosines decide
OVERFETCH = 20
"""Rows beyond the limit that are read at once, because several chunks may belong to one message."""


def search_semantic(
    connection: Connection,
    query: QueryVector,
    model: StoredModel,
    scope: Scope,
    limit: int,
    *,
    fused: bool = False,
) -> list[Ranked]:
    """The messages nearest to the query; for a message in several chunks the nearest chunk counts.

    Args:
        connection: any connection to the archive.
        query: no zeros; by the same model as the stored vectors.
        model: the model whose vectors are searched.
        scope: where to look.
        limit: most messages.
        fused: whether the hits are put together with hits by words: then the walk through the index is shorter.

    Raises:
        ValueError: the query does not have the model's dimensions.
    """
    if len(query.plain) != model.dims:
        raise ValueError(f"the vector has {len(query.plain)} numbers, the model {model.dims}")
    nearest = _nearest(connection, query, model, scope, fused=fused)
    # What is nearest to the level vector is put in the order of the lifted cosines.
    count = max(limit, _LIFTED) if query.lift else limit
    # A transaction, or a savepoint inside one: the settings of the index scan are local to it.
    with connection.transaction():
        ranked = nearest.exact(count) if nearest.is_small() else nearest.indexed(count)
    if query.lift:
        ranked = sorted(ranked, key=lambda one: (-one.score, one.key))[:limit]
    return [replace(r, by_retriever=(RetrieverScore("semantic", rank, r.score),)) for rank, r in enumerate(ranked, 1)]


def cosines(
    connection: Connection, query: QueryVector, model: StoredModel, keys: Sequence[MessageKey]
) -> dict[MessageKey, float]:
    """The cosine of each of these messages' nearest chunk with the query, by key; without those that have no vector.

    Args:
        connection: any connection to the archive.
        query: no zeros; by the same model as the stored vectors.
        model: the model of the vectors.
        keys: of messages.
    """
    return _nearest(connection, query, model, Scope()).cosines(keys) if keys else {}


def _nearest(
    connection: Connection, query: QueryVector, model: StoredModel, scope: Scope, *, fused: bool = False
) -> _NearestNeighbours:
    # pgvector may have a schema of its own. Another role might make such an operator in ours, which comes first.
    schema = _vector_schemas.get(connection)
    if schema is None:
        [(schema,)] = connection.execute(_VECTOR_SCHEMA.encode()).fetchall()
        _vector_schemas[connection] = schema
    return _NearestNeighbours(connection, schema, query, int(model.model_id), int(model.dims), scope, fused)


@dataclass(frozen=True, slots=True)
class _NearestNeighbours:
    connection: Connection
    vector_schema: str
    query: QueryVector
    model_id: int
    dims: int
    scope: Scope
    fused: bool

    def is_small(self) -> bool:
        """Whether the scope holds so few messages that they are compared one by one."""
        if not self.scope.narrows:
            return False
        most = EXACT_CONFINED if self.scope.confined else graph_of(self.connection, self.model_id).exact
        if self.scope.chats_alone:
            sql = (
                "SELECT coalesce(pg_catalog.sum(vectors), 0)::bigint FROM chat_vector_counts"
                f" WHERE model_id = {self.model_id} AND chat_id = ANY(%(chat_ids)s)"
            )
        else:  # deleted ones as well, so that of chats and times the index alone is read
            sql = (
                "SELECT count(*) FROM (SELECT 1 FROM messages m"
                f" WHERE {self.scope.condition_with_deleted} LIMIT {most + 1}) AS few"
            )
        return int(self._rows(sql)[0][0]) <= most

    def exact(self, limit: int) -> list[Ranked]:
        """The nearest of all vectors in the scope."""
        if self.scope.chats_alone and self.scope.chat_ids is not None:
            return self._exact_in_chats(limit)
        # The filter is materialized first: otherwise the planner walks the whole index and drops nearly all of it.
        sql = (
            f"WITH kept AS MATERIALIZED (SELECT e.chat_id, e.msg_id, {self._distances('e')} {self._source})"
            f" SELECT chat_id, msg_id, pg_catalog.min(distance) AS distance, pg_catalog.min(plain) FROM kept"
            f" GROUP BY chat_id, msg_id ORDER BY distance, chat_id, msg_id LIMIT {int(limit)}"
        )
        return [self._ranked(*row) for row in self._rows(sql)]

    def _exact_in_chats(self, limit: int) -> list[Ranked]:
        """The same of whole chats: which of the nearest messages may be seen is looked up for these alone."""
        count = limit + OVERFETCH
        while True:
            rows = self._rows(
                f"WITH near AS MATERIALIZED (SELECT e.chat_id, e.msg_id, {self._distances('e')} FROM embeddings e"
                f" WHERE e.model_id = {self.model_id} AND e.kind = 'message' AND e.chat_id = ANY(%(chat_ids)s))"
                f" SELECT chat_id, msg_id, distance, plain FROM near ORDER BY distance, chat_id, msg_id LIMIT {count}"
            )
            nearest: dict[MessageKey, Ranked] = {}
            for row in rows:
                nearest.setdefault(row[:2], self._ranked(*row))
            seen = self._rows(
                "SELECT m.chat_id, m.msg_id FROM unnest(%(chats)s::text[], %(messages)s::text[]) AS k (chat_id, msg_id)"
                " JOIN messages m ON m.chat_id = k.chat_id AND m.msg_id = k.msg_id"
                f" WHERE {self.scope.condition_of_few}",
                {"chats": [key[0] for key in nearest], "messages": [key[1] for key in nearest]},
            )
            visible = set(seen)
            ranked = [one for key, one in nearest.items() if key in visible]
            if len(ranked) >= limit or len(rows) < count:
                return ranked[:limit]
            count *= 4

    def indexed(self, limit: int) -> list[Ranked]:
        """The nearest by the index; more rows are read as long as the chunks belong to too few messages."""
        count = limit + OVERFETCH
        graph = graph_of(self.connection, self.model_id)
        ef_search = graph.ef_search_fused if self.fused else graph.ef_search
        # Citus hands SET LOCAL on to the machines of the shards, and set_config() not.
        self.connection.execute(
            "SET LOCAL hnsw.iterative_scan = 'relaxed_order';"
            f" SET LOCAL hnsw.ef_search = {min(max(ef_search, count), 1000)}".encode()
        )
        while True:
            rows = self._rows(
                f"SELECT e.chat_id, e.msg_id, {self._distances('e')} {self._source} ORDER BY distance LIMIT {count}"
            )
            nearest: dict[MessageKey, Ranked] = {}
            # A relaxed scan yields rows nearly in order. Once sorted, the first row of a message is its nearest chunk.
            for row in sorted(rows, key=lambda row: (row[2], row[0], row[1])):
                nearest.setdefault(row[:2], self._ranked(*row))
            if len(nearest) >= limit:
                return list(nearest.values())[:limit]
            if len(rows) < count:
                return self.exact(limit)
            count *= 4

    def cosines(self, keys: Sequence[MessageKey]) -> dict[MessageKey, float]:
        """The cosines of these messages, by key."""
        rows = self._rows(
            "SELECT chat_id, msg_id, pg_catalog.min(distance), pg_catalog.min(plain)"
            f" FROM (SELECT e.chat_id, e.msg_id, {self._distances('e')}"
            " FROM unnest(%(chats)s::text[], %(messages)s::text[]) AS k (chat_id, msg_id)"
            " JOIN embeddings e ON e.chat_id = k.chat_id AND e.msg_id = k.msg_id"
            f" WHERE e.model_id = {self.model_id} AND e.kind = 'message') AS each GROUP BY chat_id, msg_id",
            {"chats": [key[0] for key in keys], "messages": [key[1] for key in keys]},
        )
        return {row[:2]: self._ranked(*row).score for row in rows}

    def _ranked(self, chat_id: str, msg_id: str, level: float, plain: float | None) -> Ranked:
        """The message with its cosine; the distances are those of `_distances`."""
        return Ranked(chat_id, msg_id, self.query.cosine(1 - (level if plain is None else plain), 1 - level))

    @property
    def _source(self) -> str:
        return (
            "FROM embeddings e JOIN messages m ON m.chat_id = e.chat_id AND m.msg_id = e.msg_id"
            f" WHERE e.model_id = {self.model_id} AND e.kind = 'message' AND {self.scope.condition}"
        )

    def _distance(self, table: str, vector: str = "level") -> str:
        operator = f"OPERATOR({self.vector_schema}.<=>)"
        return f"{table}.embedding::halfvec({self.dims}) {operator} %({vector})s::halfvec({self.dims})"

    def _distances(self, table: str) -> str:
        """The columns `distance` and `plain`."""
        plain = self._distance(table, "plain") if self.query.lift else "NULL::float8"
        return f"{self._distance(table)} AS distance, {plain} AS plain"

    def _rows(self, sql: str, more: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        vectors = {"level": _text(self.query.level), "plain": _text(self.query.plain)}
        parameters = {**self.scope.parameters, **(more or {}), **vectors}
        return self.connection.execute(sql.encode(), parameters, prepare=False).fetchall()


def _text(vector: Sequence[float]) -> str:
    """A vector in pgvector's notation."""
    return "[" + ",".join(f"{number:.7g}" for number in vector) + "]"
