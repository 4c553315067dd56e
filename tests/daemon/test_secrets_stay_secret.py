"""Everything that a hostile run leaves behind or shows is searched for the token and the database's password."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.harness.daemon import TOKEN, DaemonProcess
from tests.harness.oracle import Oracle
from tests.harness.waiting import until
from vkteams_daemon.simulator import Simulator
from vkteams_daemon.simulator.faults import FAULTS

Make = Callable[..., DaemonProcess]
PASSWORD = "hunter-2-p@ss"
FAST = {"api.backoff_max": 0.5, "api.poll_time": 1, "api.read_margin": 0.5, "api.connect_timeout": 1.0}
PLAYED: dict[str, dict[str, object]] = {
    "refused": {"description": f"no such method /bot/v1/events/get?token={quote(TOKEN)}&x ({TOKEN})"},
    "answer": {"body": f'{{"token": "{TOKEN}"'},
    "html": {"status": 502},
    "deaf": {"seconds": 3},
    "slow_body": {"octets": 200, "pause": 0.01},
}


def _searched(texts: dict[str, str], *secrets: str) -> None:
    for where, text in texts.items():
        for secret in secrets:
            for form in {secret, quote(secret), quote(secret, safe="")}:
                assert form not in text, f"{where} holds a secret"


def _left_behind(daemon: DaemonProcess) -> dict[str, str]:
    files = [path for path in daemon.directory.rglob("*") if path.is_file() and path != daemon.config_file]
    return {str(path): path.read_bytes().decode(errors="replace") for path in files}


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_secret_is_left_behind_or_shown(vkteamsd: Make, simulator: Simulator, oracle: Oracle, form: str) -> None:
    options = FAST | {"log.level": "debug", "log.format": form}
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url, options=options)
    password = oracle.url.partition("vkteams:")[2].partition("@")[0]
    assert password
    done = daemon.start()
    assert done.returncode == 0, done.stderr
    said = {"the starter": done.stdout + done.stderr}
    played = [name for name in FAULTS if name not in ("replayed", "out_of_order")]
    for name in played:
        simulator.faults(name, 1, "events/get", **PLAYED.get(name, {}))
    simulator.say("681869378@chat.agent", "anna", "привет")
    until(lambda: all(f["played"] for f in simulator.fault_list.to_json()), 90, "every fault")
    oracle.wait()
    daemon.wait_log("the Bot API answers again", 30)
    pid = daemon.signal(signal.SIGUSR1)
    daemon.signal(signal.SIGUSR2)
    process = Path("/proc") / str(pid)
    said |= {name: (process / name).read_bytes().decode(errors="replace") for name in ("cmdline", "comm", "status")}
    for words in (("daemon", "status"), ("daemon", "stats"), ("diagnostic", "health"), ("config", "show")):
        for mode in ("table", "json"):
            done = daemon.ctl("--output", mode, *words)
            said[" ".join((*words, mode))] = done.stdout + done.stderr
    daemon.kill9()
    left = _left_behind(daemon)
    assert any(path.endswith("vkteamsd.log") and "refused the request" in text for path, text in left.items())
    assert any(path.endswith("vkteamsd.status.json") for path in left)
    _searched(said | left, TOKEN, password)


def test_a_database_that_cannot_be_reached_gives_its_password_to_nobody(vkteamsd: Make, simulator: Simulator) -> None:
    url = f"postgresql://anna:{quote(PASSWORD, safe='')}@127.0.0.1:9/archive"
    options = FAST | {"log.level": "debug", "daemon.start_timeout": 0}
    daemon = vkteamsd(api_url=simulator.url, database_url=url, options=options)
    daemon.environ["VKTEAMS_DEBUG"] = "1"
    done = daemon.start()
    assert done.returncode == 69
    said = {"the starter": done.stdout + done.stderr}
    for words in (("database", "stats"), ("diagnostic", "health"), ("config", "show"), ("search", "text", "x")):
        done = daemon.ctl("--output", "json", *words)
        said[" ".join(words)] = done.stdout + done.stderr
    _searched(said | _left_behind(daemon), TOKEN, PASSWORD)
