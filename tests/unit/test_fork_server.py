"""A program that the fork server plays does what it does as a new process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.fork_server import python
from tests.harness.scale import FULL
from tests.harness.waiting import until

pytestmark = pytest.mark.skipif(FULL, reason="FAULTS=full starts every process anew")

TELLS = """
import atexit, json, os, signal, sys, warnings
atexit.register(print, "the end")
json.dump({
    "argv": sys.argv, "path": sys.path[0], "directory": os.getcwd(), "input": sys.stdin.read(),
    "environ": sorted(set(os.environ.items()) - {("LC_CTYPE", "C.UTF-8")}), "umask": os.umask(0),
    "hangup": str(signal.getsignal(signal.SIGHUP)), "terminal": sys.stdout.isatty(), "encoding": sys.stdout.encoding,
    "errors": [sys.stdin.errors, sys.stdout.errors, sys.stderr.errors], "name": __name__,
    "files": sorted(os.listdir("/proc/self/fd"))[:-1],
    "command": open("/proc/self/cmdline").read().rstrip(chr(0)).split(chr(0))[1:],
}, sys.stdout, indent=1)
print()
print("and an error", file=sys.stderr)
warnings.warn("a warning")
"""


def _both(*words: str) -> list[list[str]]:
    return [python(*words), [sys.executable, *words]]


@pytest.mark.parametrize("warned", ["default", "error"])
def test_it_finds_everything_as_a_new_process_does(tmp_path: Path, warned: str) -> None:
    script = tmp_path / "tells.py"
    script.write_text(TELLS)
    environ = {"PATH": os.environ["PATH"], "ПЕРЕМЕННАЯ": "ё", "PYTHONWARNINGS": warned}
    runs = [
        subprocess.run(
            ["/bin/sh", "-c", 'umask 027; trap "" HUP; exec "$@"', "sh", *command, "слово", "--flag"],
            env=environ, cwd=tmp_path, input="what is asked", capture_output=True, text=True, check=False,
        )
        for command in _both(str(script))
    ]  # fmt: skip
    forked, new = ((run.returncode, run.stdout, run.stderr.splitlines()[-1]) for run in runs)
    assert forked == new
    assert new[0] == (1 if warned == "error" else 0) and "what is asked" in new[1] and new[1].endswith("the end\n")


@pytest.mark.parametrize(
    "ends", ["sys.exit(3)", "sys.exit('a sentence')", "1 / 0", "os._exit(9)", "os.kill(os.getpid(), 9)", "pass"]
)
def test_it_ends_as_a_new_process_does(tmp_path: Path, ends: str) -> None:
    script = tmp_path / "ends.py"
    script.write_text(f"import os, sys\n{ends}\n")
    forked, new = (
        subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False) for command in _both(str(script))
    )
    assert forked.returncode == new.returncode
    assert forked.stderr.splitlines()[-1:] == new.stderr.splitlines()[-1:]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGKILL])
def test_a_signal_reaches_it(tmp_path: Path, number: signal.Signals) -> None:
    script = tmp_path / "waits.py"
    script.write_text("import os, sys\nprint(os.getpid(), flush=True)\nsys.stdin.read()\n")
    with subprocess.Popen(python(str(script)), stdin=-1, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout
        program = int(process.stdout.readline())
        process.send_signal(number)
        assert process.wait(20) == -number
        until(lambda: not Path(f"/proc/{program}").exists(), 20, "the program's end")


def test_what_it_cannot_play_is_started_anew(tmp_path: Path) -> None:
    """A limit of its own, for one: the server's child would not have it."""
    script = tmp_path / "limit.py"
    script.write_text("import resource\nprint(resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n")
    command = ["/bin/sh", "-c", 'ulimit -n 77; exec "$@"', "sh", *python(str(script))]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "77\n"
