"""A second model is added to a running daemon while people talk: search answers all the while, and nothing is lost."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.harness.daemon import DaemonProcess
from tests.harness.models import NAME, write_encoder
from tests.harness.oracle import Oracle
from tests.harness.waiting import until
from vkteams_daemon.config import Config
from vkteams_daemon.embedding.install import installer
from vkteams_daemon.options import Database, Embedding
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.search.results import MODES
from vkteams_daemon.simulator import Simulator

OPS, ANNA = "681869378@chat.agent", "a.ivanova@corp.example"


@contextmanager
def talking(simulator: Simulator) -> Iterator[None]:
    """Anna says twenty messages a second."""
    end = threading.Event()

    def talk() -> None:
        for number in itertools.count():
            simulator.say(OPS, ANNA, f"обед номер {number}")
            if end.wait(0.05):
                return

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def test_a_second_model_is_added_while_people_talk(
    vkteamsd: Callable[..., DaemonProcess], simulator: Simulator, oracle: Oracle, models_dir: Path, tmp_path: Path
) -> None:
    own = shutil.copytree(models_dir, tmp_path / "models")
    installer.install(str(write_encoder(tmp_path / "wider", seed=2, hidden=48)), own, precision="fp32")
    for number in range(100):
        simulator.say(OPS, ANNA, f"почтовый сервер номер {number}")
    options = {"embedding.models_dir": str(own)}
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url, options=options).started()
    until(lambda: oracle.rows("SELECT count(*) FROM embeddings") == [(100,)], 60, "a vector of each message")
    config = Config(database=Database(url=oracle.url), embedding=Embedding(models_dir=str(own)))
    asked: list[tuple[str, ...]] = []

    def add() -> list[str]:
        commands = [daemon.ctl("model", "add", "wider"), daemon.ctl("daemon", "restart")]
        return [done.stderr for done in commands if done.returncode]

    with Archive(config) as archive, talking(simulator), ThreadPoolExecutor(1) as pool:

        def both() -> bool:
            for mode in MODES:
                found = archive.search("почтовый сервер", mode=mode)
                assert found.hits, f"{mode} after {asked}"
                asked.append(found.coverage.models)
            return asked[-1] == (NAME, "wider")

        assert not both()
        added = pool.submit(add)  # search is asked during the restart, too
        until(both, 60, "search that asks both models", interval=0.3)
        assert added.result(60) == []
    assert set(asked) == {(NAME,), (NAME, "wider")}
    oracle.wait()
    oracle.check()
    waiting = "SELECT count(*) FROM embedding_queue"
    until(lambda: oracle.rows(waiting) == [(0,)], 60, "the vectors of what was said meanwhile")
    assert oracle.rows("SELECT count(*) FROM embeddings") == [(2 * simulator.state()["issued"],)]
