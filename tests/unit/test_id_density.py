"""A hole in dense ids is a warning, and everywhere else it is nothing."""

from __future__ import annotations

from vkteams_daemon.daemon.polling.id_density import IdDensity


def _watched(dense: int = 5) -> tuple[IdDensity, list[str | None]]:
    said: list[str | None] = []
    return IdDensity(said.append, dense), said


def test_a_hole_after_dense_ids_is_told_once_and_is_over_when_they_are_dense_again() -> None:
    density, said = _watched()
    density.add(range(1, 7), 0)
    density.add([8, 9], 6)
    assert len(said) == 1 and said[0] is not None and "event 8 came after event 6" in said[0]
    density.add([11], 9)  # the ids are not dense any more
    assert len(said) == 1
    density.add(range(12, 18), 11)
    assert said[1:] == [None]


def test_ids_that_are_not_dense_repeated_late_or_start_over_say_nothing() -> None:
    density, said = _watched()
    density.add(range(0, 100, 7), 0)
    density.add(range(101, 104), 98)
    density.add([103, 101, 102, 103, 104], 103)
    density.add([], 104)
    density.add(range(1, 5), 104)
    density.add([50], 4)
    assert said == []


def test_it_begins_where_the_cursor_stands() -> None:
    density, said = _watched(dense=1)
    density.add([501], 500)
    density.add([503], 501)
    assert len(said) == 1
