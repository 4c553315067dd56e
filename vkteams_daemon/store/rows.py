"""Brings many rows into one statement: as arrays of their columns; or, into a table that has none of them, by COPY."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from vkteams_daemon.store.database import Connection

COPY_FROM = 200  # rows; below it the arrays' place in a pipeline is quicker than COPY's round trip


@dataclass(frozen=True, slots=True)
class Rows:
    """The columns of a set of rows on its way into the database: (name, PostgreSQL type).

    A row has JSON as text; a statement gets it so, and casts it itself.
    """

    columns: tuple[tuple[str, str], ...]

    @property
    def json(self) -> tuple[int, ...]:
        """Which columns have JSON."""
        return tuple(place for place, (_, kind) in enumerate(self.columns) if kind == "jsonb")

    def run(self, connection: Connection, statement: str, rows: Sequence[tuple[Any, ...]], prefix: str = "") -> Any:
        """Execute `statement`, whose `{incoming}` stands for the rows; returns the cursor.

        Args:
            connection: in a transaction or not, in pipeline mode or not.
            statement: SQL with `{incoming}` once, in a FROM clause.
            rows: tuples in the order of `columns`.
            prefix: what stands for `{prefix}` in the statement.
        """
        arrays = list(zip(*rows, strict=True)) or [()] * len(self.columns)
        places = ", ".join(f"%b::{'text' if kind == 'jsonb' else kind}[]" for _, kind in self.columns)
        names = ", ".join(name for name, _ in self.columns)
        source = f"unnest({places}) AS incoming({names})"
        return connection.execute(
            statement.format(incoming=source, prefix=prefix).encode(), [list(array) for array in arrays]
        )

    def copy(self, connection: Connection, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Add rows to a table that has none of their keys; a pipeline does not take it."""
        names = ", ".join(name for name, _ in self.columns)
        json = self.json
        with connection.cursor().copy(f"COPY {table} ({names}) FROM STDIN (FORMAT BINARY)".encode()) as copy:
            copy.set_types([kind for _, kind in self.columns])
            for row in rows:
                values = list(row)
                for place in json:
                    if row[place] is not None:
                        values[place] = Jsonb(row[place], dumps=str)
                copy.write_row(values)
