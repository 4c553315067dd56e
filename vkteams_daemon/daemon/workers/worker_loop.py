"""The loop of one thread over its workers, one for each model: they take turns, and no one waits for a broken model."""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Callable, Sequence

from vkteams_daemon.daemon.workers.worker import Stopped, Worker
from vkteams_daemon.errors import SchemaNewer, VkTeamsError

BACKOFF_MAX = 60.0  # seconds; the longest wait after a failure of the database or the model
BUILDING_INTERVAL = 10.0  # seconds after which a building model has a turn, whatever waits for the active ones
IDLE_COUNT_INTERVAL = 1.0  # seconds between two counts by an idle leader while other workers still have claims


def take_turns(
    workers: Sequence[Worker],
    wake: threading.Event,
    poll_interval: float,
    stop: threading.Event,
    on_end: Callable[[VkTeamsError], None] = lambda error: None,
) -> None:
    """Give each worker its turn, again and again, until `stop` is set.

    While one of them has work, nobody waits. A worker that failed is left out for longer and longer. A model that
    search does not ask yet has its turns while nothing waits for the others, and now and then: its backlog may last for
    hours, and what people say meanwhile must be found.

    Args:
        workers: of this thread, one for each model.
        wake: ends the wait of workers that are idle.
        poll_interval: how long they wait, in seconds.
        stop: set when the loop must end.
        on_end: called with the error when the schema is newer than this program; the loop then ends.
    """
    failures = dict.fromkeys(workers, 0)
    due = dict.fromkeys(workers, 0.0)  # monotonic
    turned = dict.fromkeys(workers, 0.0)  # monotonic
    while not stop.is_set():
        wake.clear()
        busy = asked = False
        for worker in sorted(workers, key=lambda one: one.is_building):
            if stop.is_set():
                return
            if time.monotonic() < due[worker]:
                continue
            building = worker.is_building
            if building and asked and time.monotonic() - turned[worker] < BUILDING_INTERVAL:
                continue
            turned[worker] = time.monotonic()
            try:
                if worker.turn():
                    busy, asked = True, asked or not building
            except Stopped:
                return
            except SchemaNewer as error:
                on_end(error)
                return
            except Exception as error:  # noqa: BLE001 - a loop must not end unnoticed, so it tries again
                failures[worker] += 1
                due[worker] = time.monotonic() + random.uniform(0.5, 1) * min(
                    BACKOFF_MAX, 2.0 ** min(failures[worker], 10)
                )
                worker.stats.mark_failing(worker, error)
                continue
            failures[worker] = 0
            worker.stats.mark_ok(worker)
        if busy:
            continue
        failing = [due[worker] for worker in workers if failures[worker]]
        if failing:
            gc.collect()  # what failed attempts leave in reference cycles, see Poller.run
        retry = max(0.0, min(failing) - time.monotonic()) if failing else poll_interval
        if len(failing) == len(workers):
            stop.wait(retry)  # new messages are no reason to try earlier
            continue
        # A leader's count includes the claims of other workers. It counts again soon, so that it follows their work.
        soon = any(worker.waits_for_others for worker in workers)
        wake.wait(min(retry, poll_interval, IDLE_COUNT_INTERVAL if soon else poll_interval))
