"""No file and no output of a hostile run contains the token or the database's password."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

from tests.harness.daemon import TOKEN, DaemonProcess
from tests.harness.oracle import Oracle
from tests.harness.scale import drawn
from tests.harness.traffic import Traffic
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


def _assert_free_of(texts: dict[str, str], *secrets: str) -> None:
    for source, text in texts.items():
        for secret in secrets:
            for form in {secret, quote(secret), quote(secret, safe="")}:
                assert form not in text, f"{source} holds a secret"


def _printed(daemon: DaemonProcess, commands: list[tuple[str, ...]]) -> dict[str, str]:
    """The output of vkteamsctl for each of these command lines, which run at the same time."""
    with ThreadPoolExecutor(4) as pool:
        outcomes = pool.map(lambda words: daemon.ctl(*words), commands)
        return {" ".join(words): done.stdout + done.stderr for words, done in zip(commands, outcomes, strict=True)}


def _written_files(daemon: DaemonProcess) -> dict[str, str]:
    files = [path for path in daemon.directory.rglob("*") if path.is_file() and path != daemon.config_file]
    return {str(path): path.read_bytes().decode(errors="replace") for path in files}


@drawn("forms of the log that are read for secrets", ["text", "json"], quick=1)
def test_no_file_and_no_output_contains_a_secret(
    vkteamsd: Make, simulator: Simulator, oracle: Oracle, name: str
) -> None:
    options = FAST | {"log.level": "debug", "log.format": name}
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url, options=options, quick=True)
    password = oracle.url.partition("vkteams:")[2].partition("@")[0]
    assert password
    done = daemon.start()
    assert done.returncode == 0, done.stderr
    texts = {"the starter": done.stdout + done.stderr}
    played = [name for name in FAULTS if name not in ("replayed", "out_of_order")]
    for name in played:
        simulator.faults(name, 1, "events/get", **PLAYED.get(name, {}))
    with Traffic(simulator, rate=20):  # so that no poll waits for an event
        until(lambda: all(f["played"] for f in simulator.fault_list.to_json()), 90, "every fault")
    oracle.wait()
    daemon.wait_log("the Bot API answers again", 30)
    pid = daemon.signal(signal.SIGUSR1)
    daemon.signal(signal.SIGUSR2)
    process = Path("/proc") / str(pid)
    texts |= {name: (process / name).read_bytes().decode(errors="replace") for name in ("cmdline", "comm", "status")}
    commands = (("daemon", "status"), ("daemon", "stats"), ("diagnostic", "health"), ("config", "show"))
    texts |= _printed(daemon, [("--output", mode, *words) for words in commands for mode in ("table", "json")])
    daemon.kill9()
    files = _written_files(daemon)
    assert any(path.endswith("vkteamsd.log") and "refused the request" in text for path, text in files.items())
    assert any(path.endswith("vkteamsd.status.json") for path in files)
    _assert_free_of(texts | files, TOKEN, password)


def test_error_of_an_unreachable_database_hides_its_password(vkteamsd: Make, simulator: Simulator) -> None:
    url = f"postgresql://anna:{quote(PASSWORD, safe='')}@127.0.0.1:9/archive"
    options = FAST | {"log.level": "debug", "daemon.start_timeout": 0}
    daemon = vkteamsd(api_url=simulator.url, database_url=url, options=options)
    daemon.environ["VKTEAMS_DEBUG"] = "1"
    done = daemon.start()
    assert done.returncode == 69
    texts = {"the starter": done.stdout + done.stderr}
    commands = (("database", "stats"), ("diagnostic", "health"), ("config", "show"), ("search", "text", "x"))
    texts |= _printed(daemon, [("--output", "json", *words) for words in commands])
    _assert_free_of(texts | _written_files(daemon), TOKEN, PASSWORD)
