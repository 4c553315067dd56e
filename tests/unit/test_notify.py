from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from vkteams_daemon.daemon.process.notify import Notify


@pytest.mark.parametrize("abstract", [False, True])
def test_each_report_is_one_datagram(tmp_path: Path, abstract: bool) -> None:
    name = f"vkteams-test-{os.getpid()}-{time.monotonic_ns()}" if abstract else str(tmp_path / "notify")
    environ = {"NOTIFY_SOCKET": f"@{name}" if abstract else name, "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}" if abstract else name)
        manager.settimeout(5)
        notify = Notify(environ)
        assert environ == {}  # nobody whom we start reports in our name
        notify.ready("standby:\nwaits")
        assert manager.recv(4096).decode() == f"READY=1\nMAINPID={os.getpid()}\nSTATUS=standby: waits"
        before = time.monotonic_ns() // 1000
        notify.reloading()
        first, second = manager.recv(4096).decode().split("\n")
        assert first == "RELOADING=1"
        assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
        notify.reloaded()
        assert manager.recv(4096) == b"READY=1"
        notify.alive()
        assert manager.recv(4096) == b"WATCHDOG=1"
        notify.stopping()
        assert manager.recv(4096).startswith(b"STOPPING=1")


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "relative", "@nobody-listens-here"])
def test_without_a_manager_nothing_happens(address: str) -> None:
    Notify({"NOTIFY_SOCKET": address} if address else {}).ready("")


def test_manager_that_does_not_read_blocks_nothing(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        notify = Notify({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        for _ in range(1000):
            notify.reloaded()
