"""The sizes of tables and indexes, as answers hold them; imports no database driver."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class IndexSize:
    """An index and its bytes."""

    name: str
    octets: int


@dataclass(frozen=True, slots=True)
class TableSize:
    """A table and its bytes."""

    name: str
    rows: int | None
    """The planner's estimate; null before the first ANALYZE."""
    octets: int
    """The whole table, with indexes and long values."""
    indexes: list[IndexSize] = field(default_factory=list)
    """The largest first."""
