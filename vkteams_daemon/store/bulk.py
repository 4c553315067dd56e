"""Brings many rows into one statement: as arrays of their columns; or, into a table that has none of them, by COPY."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vkteams_daemon.store.connections import Connection

COPY_THRESHOLD = 200  # rows; below it the arrays' place in a pipeline is quicker than COPY's round trip


@dataclass(frozen=True, slots=True)
class ColumnSet:
    """The columns of a set of rows on its way into the database: (name, PostgreSQL type).

    A statement gets JSON as text, and casts it itself.
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
        """Execute `statement`, whose `{incoming}` stands for the rows; returns the cursor.

        Args:
            connection: in a transaction or not, in pipeline mode or not.
            statement: SQL with `{incoming}` once, in a FROM clause.
            rows: in the order of `columns`.
            prefix: what stands for `{prefix}` in the statement.
            json: writes a value of a JSON column that is not None.
        """
        arrays = list(zip(*self._with_json(rows, json), strict=True)) or [()] * len(self.columns)
        places = ", ".join(f"%b::{'text' if kind == 'jsonb' else kind}[]" for _, kind in self.columns)
        names = ", ".join(name for name, _ in self.columns)
        source = f"unnest({places}) AS incoming({names})"
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
    ) -> None:
        """Add rows to a table that has none of their keys; a pipeline does not take it.

        The server takes in the first rows while the next are made: give it an iterator that makes them.
        """
        names = ", ".join(name for name, _ in self.columns)
        with connection.cursor().copy(f"COPY {table} ({names}) FROM STDIN (FORMAT BINARY)".encode()) as copy:
            copy.set_types(["text" if kind == "jsonb" else kind for _, kind in self.columns])
            # The binary form of jsonb is its version, and the text.
            for row in self._with_json(rows, lambda value: "\1" + json(value)):
                copy.write_row(row)

    def _with_json(self, rows: Iterable[Sequence[Any]], written: Callable[[Any], str]) -> Iterable[Sequence[Any]]:
        places = [place for place, (_, kind) in enumerate(self.columns) if kind == "jsonb"]
        return _written(rows, places, written) if places else rows


def _written(
    rows: Iterable[Sequence[Any]], places: list[int], written: Callable[[Any], str]
) -> Iterator[Sequence[Any]]:
    nothing = [None] * len(places)
    for row in rows:
        if [row[place] for place in places] == nothing:
            yield row
            continue
        values = list(row)
        for place in places:
            if values[place] is not None:
                values[place] = written(values[place])
        yield values
