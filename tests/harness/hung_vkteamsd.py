"""vkteamsd with the real service, in which one thing or another hangs as long as a test wants it to.

What hangs: each name of `HANGS` of which the directory HANG has a file. Where something hangs, the file `NAME.reached`
tells it. The limits after which a loop is overdue are short here.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vkteams_daemon.daemon.main import main
from vkteams_daemon.daemon.process import detach
from vkteams_daemon.system import garbage

# By name: the module, the function in it, and the thread in which it hangs ("" for every thread).
HANGS = {
    "longpoll": ("vkteams_daemon.botapi.client", "BotClient.poll", ""),
    "keeper": ("vkteams_daemon.store.ingest.writer", "Writer.ping", "keeper"),
    "main": ("vkteams_daemon.daemon.reporter", "Reporter.dump", ""),
    "reload": ("vkteams_daemon.daemon.process.settings", "Settings.read_again", ""),
    "worker 0": ("vkteams_daemon.daemon.workers.worker", "Worker.round", ""),
    "status": ("vkteams_daemon.daemon.status", "write", ""),
    "rhythm": ("vkteams_daemon.daemon.rhythm", "Rhythm.check", ""),
    "roster": ("vkteams_daemon.daemon.roster", "RosterReader._read_next", ""),
    "measures": ("vkteams_daemon.daemon.archive_measures", "measure", ""),
    "words": ("vkteams_daemon.store.admin.word_counts", "count_words", ""),
    "search-terms": ("vkteams_daemon.store.rebuild.search_terms", "refill", ""),
    "retention": ("vkteams_daemon.daemon.retention", "Retention._check", ""),
    "look-up": ("socket", "getaddrinfo", "longpoll"),
    "model": ("vkteams_daemon.embedding.model", "Model.load", ""),
    "embedding": ("vkteams_daemon.embedding.model", "Model.embed", ""),
}
LIMIT = 1.0  # seconds
INTERVAL = 0.2  # seconds between two turns of loops that have time
CHECK_INTERVAL = 0.1  # seconds


def hung_service(*arguments: Any, **settings: Any) -> Any:
    """The service. It is imported here, after the fork, because its imports may start threads."""
    from vkteams_daemon.daemon import (
        archive_measures,
        bot_listener,
        reload,
        reporter,
        retention,
        rhythm,
        roster,
        search_terms,
        service,
        watch,
        word_count,
    )
    from vkteams_daemon.daemon.polling import poller
    from vkteams_daemon.daemon.workers import pool, worker

    bot_listener.PING_LIMIT = bot_listener.PING_INTERVAL = service.MAIN_LIMIT = LIMIT
    poller.STEP_LIMIT = reload.RELOAD_LIMIT = reporter.WRITE_LIMIT = LIMIT
    worker.ROUND_LIMIT = worker.LOAD_LIMIT = pool.LISTEN_LIMIT = LIMIT
    rhythm.CHECK_LIMIT = roster.STEP_LIMIT = archive_measures.MEASURE_LIMIT = LIMIT
    word_count.COUNT_LIMIT = search_terms.BATCH_LIMIT = retention.BATCH_LIMIT = LIMIT
    pool.LISTEN_TIMEOUT = roster.CHECK_INTERVAL = INTERVAL
    retention.CHECK_INTERVAL = 0.5
    watch.Watch.run = functools.partialmethod(watch.Watch.run, interval=CHECK_INTERVAL)  # type: ignore[assignment]
    rhythm.Rhythm.run = functools.partialmethod(rhythm.Rhythm.run, interval=INTERVAL)  # type: ignore[assignment]
    measure_loop = functools.partial(archive_measures.measure_loop, interval=INTERVAL)
    bot_listener.measure_loop = measure_loop  # type: ignore[attr-defined]
    word_count.count_words_loop = functools.partial(word_count.count_words_loop, interval=INTERVAL)
    search_terms.refill_loop = functools.partial(search_terms.refill_loop, interval=INTERVAL)
    for name, (module, function, thread) in HANGS.items():
        __import__(module)
        owner: Any = sys.modules[module]
        *path, last = function.split(".")
        for part in path:
            owner = getattr(owner, part)
        setattr(owner, last, _hanging(name, getattr(owner, last), thread))
    return service.Service(*arguments, **settings)


def _hanging(name: str, real: Callable[..., Any], thread: str) -> Callable[..., Any]:
    directory = Path(os.environ["HANG"])

    def hang(*arguments: Any, **settings: Any) -> Any:
        while (directory / name).exists() and thread in ("", threading.current_thread().name):
            (directory / f"{name}.reached").touch()
            time.sleep(0.05)
        return real(*arguments, **settings)

    return hang


if __name__ == "__main__":
    detach.SILENCE = float(os.environ.get("SILENCE", detach.SILENCE))
    garbage.collect_rarely()  # as bin/vkteamsd does
    sys.exit(main(service=hung_service))
