"""Sends many rows in one statement: as arrays of column values, or by COPY into a table that has none of them yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import psycopg

from vkteams_daemon.store.connections import Connection, first_line, is_full_disk_elsewhere

COPY_THRESHOLD = 200  # rows; with fewer rows, arrays in a pipeline are faster than the round trip of COPY


class CopyRefused(psycopg.DataError):
    """Another machine of a Citus cluster refuses rows of a COPY. Its answer does not tell the kind of the refusal."""


@dataclass(frozen=True, slots=True)
class ColumnSet:
    """The columns of rows that go into the database, as (name, PostgreSQL type).

    JSON values go into a statement as text. The statement casts them to jsonb.
    """

    columns: tuple[tuple[str, str], ...]

    def execute(
        self,
        connection: Connection,
        statement: str,
        rows: Iterable[Sequence[Any]],
        *,
        prefix: str = "",
        json: Callable[[Any], str] = str,
    ) -> Any:
        """Execute `statement` with the rows in place of `{incoming}`; returns the cursor.

        Args:
            connection: in a transaction or not, in pipeline mode or not.
            statement: SQL with `{incoming}` once, in a FROM clause.
            rows: values in the order of `columns`.
            prefix: replaces `{prefix}` in the statement.
            json: serialises a value of a JSON column; it is not called for None.
        """
        arrays = list(zip(*self._serialised(rows, json), strict=True)) or [()] * len(self.columns)
        columns = ", ".join(
            f"pg_catalog.unnest(%b::{'text' if kind == 'jsonb' else kind}[])" for _, kind in self.columns
        )
        names = ", ".join(name for name, _ in self.columns)
        source = f"ROWS FROM ({columns}) AS incoming({names})"
        return connection.execute(
            statement.format(incoming=source, prefix=prefix).encode(), [list(array) for array in arrays]
        )

    def copy(
        self,
        connection: Connection,
        table: str,
        rows: Iterable[Sequence[Any]],
        *,
        json: Callable[[Any], str] = str,
    ) -> Any:
        """Add the rows with COPY; returns the cursor.

        The table must have none of their keys, and the connection must not be in a pipeline. Pass an iterator that
        makes the rows: the server then takes in the first rows while the next are made.

        Raises:
            CopyRefused: see there.
        """
        try:
            return self._copy(connection, table, rows, json)
        except psycopg.errors.InternalError_ as error:
            if is_full_disk_elsewhere(error):
                raise
            raise CopyRefused(first_line(error)) from error

    def _copy(
        self, connection: Connection, table: str, rows: Iterable[Sequence[Any]], json: Callable[[Any], str]
    ) -> Any:
        names = ", ".join(name for name, _ in self.columns)
        cursor = connection.cursor()
        with cursor.copy(f"COPY {table} ({names}) FROM STDIN (FORMAT BINARY)".encode()) as copy:
            copy.set_types(["text" if kind == "jsonb" else kind for _, kind in self.columns])
            # The binary form of jsonb is a version byte, followed by the text.
            for row in self._serialised(rows, lambda value: "\1" + json(value)):
                copy.write_row(row)
        return cursor

    def _serialised(self, rows: Iterable[Sequence[Any]], json: Callable[[Any], str]) -> Iterable[Sequence[Any]]:
        places = [place for place, (_, kind) in enumerate(self.columns) if kind == "jsonb"]
        return _serialise(rows, places, json) if places else rows


def _serialise(rows: Iterable[Sequence[Any]], places: list[int], json: Callable[[Any], str]) -> Iterator[Sequence[Any]]:
    all_null = (None,) * len(places)
    values_of = itemgetter(*places) if len(places) > 1 else lambda row: (row[places[0]],)
    for row in rows:
        if values_of(row) == all_null:
            yield row
            continue
        values = list(row)
        for place in places:
            if values[place] is not None:
                values[place] = json(values[place])
        yield values
