"""The order in which a thread's workers take their turns."""

from __future__ import annotations

import threading

import pytest

from vkteams_daemon.daemon.workers import worker_loop
from vkteams_daemon.daemon.workers.worker_stats import WorkerStats


class _Worker:
    """Writes its name at each turn; has work for some turns, and ends the loop when `last` has none left."""

    waits_for_others = False

    def __init__(self, name: str, turns: int, said: list[str], stop: threading.Event, *, last: bool) -> None:
        self.stats = WorkerStats()
        self.is_building = name == "building"
        self._name, self._turns, self._said, self._stop, self._last = name, turns, said, stop, last

    def turn(self) -> bool:
        self._said.append(self._name)
        self._turns -= 1
        if self._last and self._turns == 0:
            self._stop.set()
        return self._turns >= 0


@pytest.mark.parametrize(("interval", "order"), [(10.0, "abaaab"), (0.0, "abab")])
def test_building_model_waits_for_the_active_ones_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, interval: float, order: str
) -> None:
    monkeypatch.setattr(worker_loop, "BUILDING_INTERVAL", interval)
    stop = threading.Event()
    said: list[str] = []
    workers = [
        _Worker("building", 2, said, stop, last=True),
        _Worker("active", 3, said, stop, last=False),
    ]
    worker_loop.take_turns(workers, threading.Event(), 0.0, stop)  # type: ignore[arg-type]
    assert "".join(name[0] for name in said) == order
