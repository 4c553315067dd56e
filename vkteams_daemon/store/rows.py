"""Brings many rows into one statement: small sets as arrays, large ones by binary COPY into a temporary table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vkteams_daemon.store.database import Connection

COPY_FROM = 200  # rows; below it the arrays' one round trip is quicker than COPY's three


@dataclass(frozen=True, slots=True)
class Rows:
    """The columns of a set of rows on its way into the database.

    Attributes:
        name: of the set; its temporary table is `incoming_{name}`.
        columns: (name, PostgreSQL type); JSON travels as text and is cast by the statement that uses it.
    """

    name: str
    columns: tuple[tuple[str, str], ...]

    @property
    def temporary_table(self) -> str:
        """The statement that makes the session's temporary table."""
        columns = ", ".join(f"{name} {kind}" for name, kind in self.columns)
        return f"CREATE TEMPORARY TABLE IF NOT EXISTS incoming_{self.name} ({columns}) ON COMMIT DELETE ROWS"

    def run(
        self,
        connection: Connection,
        statement: str,
        rows: Sequence[tuple[Any, ...]],
        copy: bool,
        prefix: str = "",
    ) -> Any:
        """Execute `statement`, whose `{incoming}` stands for the rows; returns the cursor.

        Args:
            connection: inside a transaction; with `copy`, one that has the temporary table.
            statement: SQL with `{incoming}` once, in a FROM clause.
            rows: tuples in the order of `columns`.
            copy: whether COPY may be used.
            prefix: what stands for `{prefix}` in the statement.
        """
        if copy and len(rows) >= COPY_FROM:
            self._copy(connection, rows)
            return connection.execute(
                statement.format(incoming=f"incoming_{self.name} AS incoming", prefix=prefix).encode()
            )
        arrays = list(zip(*rows, strict=True)) or [()] * len(self.columns)
        places = ", ".join(f"%b::{kind}[]" for _, kind in self.columns)
        names = ", ".join(name for name, _ in self.columns)
        source = f"unnest({places}) AS incoming({names})"
        return connection.execute(
            statement.format(incoming=source, prefix=prefix).encode(), [list(array) for array in arrays]
        )

    def _copy(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        # A second set of the same transaction (a halved batch) must not meet the first. Not TRUNCATE: inside a
        # transaction that makes a new file and catalogue rows every time.
        connection.execute(f"DELETE FROM incoming_{self.name}".encode())
        statement = f"COPY incoming_{self.name} FROM STDIN (FORMAT BINARY)".encode()
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types([kind for _, kind in self.columns])
            for row in rows:
                copy.write_row(row)
