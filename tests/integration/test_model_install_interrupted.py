"""An installation that is killed, fails at its end, or finds another one running."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.harness.models import NAME, names_in
from tests.harness.waiting import until
from vkteams_daemon.embedding import catalogue, model_info
from vkteams_daemon.embedding.install import installer
from vkteams_daemon.errors import AlreadyRunning, CannotCreate

_SLOW_INSTALL = """
import sys, time
from pathlib import Path
from vkteams_daemon.embedding import catalogue
from vkteams_daemon.embedding.install import installer

def progress(line):
    print(line, flush=True)
    if line == "trying the model":
        time.sleep(60)

installer.install(sys.argv[1], Path(sys.argv[2]), precision="fp32", progress=progress)
"""


def test_a_killed_installation_leaves_nothing_half_made(encoder: Path, home: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW_INSTALL, str(encoder), str(home)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    with process.stdout:
        assert any(line == "trying the model\n" for line in process.stdout)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    (remains,) = names_in(home)
    assert remains.startswith(".installing-")
    assert catalogue.installed_models(home) == []
    installer.install(str(encoder), home, precision="fp32")
    assert names_in(home) == ["default", NAME]


def test_an_installation_that_is_stopped_is_not_waited_for(
    encoder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installer, "_PATIENCE", 1.0)
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW_INSTALL, str(encoder), str(home)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    with process.stdout:
        assert any(line == "trying the model\n" for line in process.stdout)
        process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(AlreadyRunning, match=rf"another installation \(process {process.pid}\) holds .*"):
                installer.install(str(encoder), home, precision="fp32")
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(60)
    installer.install(str(encoder), home, precision="fp32")
    assert names_in(home) == ["default", NAME]


_KILLED_BETWEEN = """
import os, signal, sys
from pathlib import Path
from vkteams_daemon.embedding.install import installer

real = Path.rename

def rename(self, target):
    real(self, target)
    if self == Path(sys.argv[2]) / "tiny":
        os.kill(os.getpid(), signal.SIGKILL)

Path.rename = rename
installer.install(sys.argv[1], Path(sys.argv[2]), precision="fp32")
"""


def test_a_kill_while_a_model_is_replaced_loses_no_model(encoder: Path, home: Path, tmp_path: Path) -> None:
    before = installer.install(str(encoder), home, precision="int8")
    done = subprocess.run([sys.executable, "-c", _KILLED_BETWEEN, str(encoder), str(home)], check=False)
    assert done.returncode == -signal.SIGKILL and catalogue.installed_models(home) == []
    other = shutil.copytree(encoder, tmp_path / "other")
    installer.install(str(other), home, precision="fp32")
    assert names_in(home) == ["default", "other", NAME]
    assert model_info.read(home / NAME) == before
    model_info.check_hashes(before)


def test_model_stays_when_its_successor_cannot_be_renamed(
    encoder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = installer.install(str(encoder), home, precision="int8")
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name == "model":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(CannotCreate, match="No space left on device"):
        installer.install(str(encoder), home, precision="fp32")
    assert names_in(home) == ["default", NAME]
    assert model_info.read(home / NAME) == before


def test_an_installation_waits_for_another(encoder: Path, home: Path) -> None:
    first_is_in, first_may_go = threading.Event(), threading.Event()
    said: list[str] = []

    def slow(line: str) -> None:
        first_is_in.set()
        assert first_may_go.wait(20)

    first = threading.Thread(
        target=installer.install, args=(str(encoder), home), kwargs={"precision": "fp32", "progress": slow}
    )
    second = threading.Thread(
        target=installer.install, args=(str(encoder), home), kwargs={"precision": "int8", "progress": said.append}
    )
    first.start()
    assert first_is_in.wait(20)
    second.start()
    until(lambda: said, what="the second installation")
    assert said == ["waiting for another installation to end"]
    first_may_go.set()
    first.join(30)
    second.join(30)
    assert model_info.read(home / NAME).precision == "int8"
    assert names_in(home) == ["default", NAME]
