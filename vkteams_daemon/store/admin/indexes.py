"""The indexes of the archive's tables: their sizes, which have grown, and what interrupted builds have left.

On a cluster each shard of a distributed table has an index of its own. They are counted together under the name that
the coordinator knows, but for the copies that an interrupted REINDEX leaves: those have names of their shards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vkteams_daemon.store import distribution
from vkteams_daemon.store.connections import Connection

MIN_SAVING = 8 * 2**20  # bytes; an index is rebuilt only if that frees more

_COPY = re.compile(r"_cc(new|old)\d*$")  # an index that is built beside the one that it replaces, or was replaced
_PAGE = 8192  # bytes
_BTREE_ENTRY = 24  # bytes of an entry beside its columns: line pointer, header, alignment
# Bytes of an entry beside its vector, and for each m: two neighbours and a part of those in other layers; measured with
# pgvector 0.8.
_HNSW_ENTRY, _HNSW_NEIGHBOURS = 176, 13

_FACTS = (
    "SELECT i.oid::regclass::text AS name, am.amname::text AS kind, x.indisvalid AS valid,"
    " pg_catalog.pg_relation_size(i.oid) AS octets, i.reltuples::float8 AS entries,"
    " (SELECT coalesce(pg_catalog.sum(s.avg_width), 0)::int FROM pg_catalog.unnest(x.indkey) AS k (number)"
    "  JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.number"
    "  JOIN pg_stats s ON s.schemaname = t.relnamespace::regnamespace::text AND s.tablename = t.relname"
    "  AND s.attname = a.attname) AS width,"
    " substring(pg_catalog.pg_get_indexdef(i.oid) FROM 'halfvec\\((\\d+)\\)')::int AS dims,"
    " (SELECT o.option_value::int FROM pg_catalog.pg_options_to_table(i.reloptions) AS o WHERE o.option_name = 'm')"
    " AS m, i.relname::text AS alone,"
    " pg_catalog.concat(pg_catalog.quote_ident(n.nspname::text), '.', pg_catalog.quote_ident(i.relname::text)) AS whole"
    " FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid"
    " JOIN pg_namespace n ON n.oid = i.relnamespace JOIN pg_am am ON am.oid = i.relam WHERE t.oid = {tables}"
    " AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = i.oid) ORDER BY 1"
)
_OF_TABLES = (
    f"SELECT pg_catalog.row_to_json(facts) FROM ({_FACTS.format(tables='ANY(%s::regclass[]::oid[])')}) AS facts"
)
_OF_SHARD = "SELECT coalesce(pg_catalog.json_agg(pg_catalog.row_to_json(facts)), '[]') FROM ({}) AS facts".format(
    _FACTS.format(tables="'%s'::regclass::oid")
)


@dataclass(frozen=True, slots=True)
class IndexState:
    """An index, its size and its condition.

    Attributes:
        kind: btree, gin, hnsw, …
        valid: False after an interrupted build, of one shard or of all.
        octets: its size in bytes, of all shards.
        fresh: its estimated size in bytes right after a rebuild; None if there is no estimate.
        of_shard: whether only the machine of its shard knows the name.
    """

    name: str
    kind: str
    valid: bool
    octets: int
    fresh: int | None
    of_shard: bool = False

    @property
    def grown(self) -> bool:
        """Whether a rebuild would free more than half of it, and more than a few megabytes."""
        return self.fresh is not None and self.octets > 2 * self.fresh and self.octets - self.fresh > MIN_SAVING

    @property
    def is_copy(self) -> bool:
        """Whether it was built to replace another one, or was replaced by it."""
        return bool(_COPY.search(self.name))


def index_states(connection: Connection, tables: Sequence[str]) -> list[IndexState]:
    """The indexes of these tables, without those that are being built, by their names.

    Raises:
        DatabaseUnavailable: a machine of the cluster does not answer.
    """
    found: dict[str, tuple[str, IndexState]] = {}
    for (facts,) in connection.execute(_OF_TABLES.encode(), (list(tables),)).fetchall():
        found[facts["alone"]] = facts["name"], _state(facts["name"], facts)
    for table in distribution.tables(connection, tables):
        shards: dict[str, list[IndexState]] = {}
        for shard in distribution.on_shards(connection, table, _OF_SHARD):
            for facts in json.loads(shard.answer):
                alone = facts["alone"].removesuffix(f"_{shard.shard_id}")
                known = alone in found
                name = alone if known else facts["whole"]
                shards.setdefault(name, []).append(_state(name, facts, of_shard=not known))
        for name, states in shards.items():
            shown, whole = found.get(name, (name, states[0]))
            found[name] = shown, _together(shown, whole, states)
    return sorted((state for _, state in found.values()), key=lambda state: state.name)


def rebuild(connection: Connection, index: IndexState) -> None:
    """Build an index again, concurrently, on a cluster those of all shards."""
    connection.execute(f"REINDEX INDEX CONCURRENTLY {index.name}".encode())


def drop(connection: Connection, index: IndexState) -> None:
    """Drop an index, concurrently."""
    statement = f"DROP INDEX CONCURRENTLY IF EXISTS {index.name}"
    if index.of_shard:
        distribution.on_machines(connection, statement)
    else:
        connection.execute(statement.encode())


def _state(name: str, facts: dict[str, Any], *, of_shard: bool = False) -> IndexState:
    fresh = _estimate_fresh_size(facts["kind"], facts["entries"], facts["width"], facts["dims"], facts["m"] or 0)
    return IndexState(name, facts["kind"], facts["valid"], facts["octets"], fresh, of_shard)


def _together(name: str, whole: IndexState, shards: list[IndexState]) -> IndexState:
    """One state of an index on all shards; a shard without an estimate would gain nothing by a rebuild."""
    return IndexState(
        name, whole.kind, whole.valid and all(shard.valid for shard in shards), sum(shard.octets for shard in shards),
        sum(shard.octets if shard.fresh is None else shard.fresh for shard in shards)
        if any(shard.fresh is not None for shard in shards) else None,
        whole.of_shard,
    )  # fmt: skip


def _estimate_fresh_size(kind: str, rows: float, width: int, dims: int | None, m: int) -> int | None:
    """The estimated size in bytes of a new index with so many entries; None if there is no estimate."""
    if rows <= 0:
        return None
    if kind == "btree" and width:
        return int(rows * (width + _BTREE_ENTRY) / 0.9) + _PAGE
    if kind == "hnsw" and dims:
        return int(rows * (2 * dims + _HNSW_ENTRY + _HNSW_NEIGHBOURS * m)) + _PAGE
    return None
