"""What is left of root's rights once the daemon has become another user."""

from __future__ import annotations

import json
import os
import pwd
import sys
from pathlib import Path

import pytest

from vkteams_daemon.daemon.process.daemon_process import DaemonProcess
from vkteams_daemon.daemon.process.notify import Notify
from vkteams_daemon.daemon.process.settings import Settings
from vkteams_daemon.options import Config, Daemon
from vkteams_daemon.system.user import Owner


def _become(owner: Owner, directory: Path) -> dict[str, list[int]]:
    """Open DaemonContext in a process of its own; the users and groups that it has then."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            sys.stdin = Path(os.devnull).open()  # noqa: SIM115  pytest's has no descriptor that could be redirected
            life = DaemonProcess(
                Config(daemon=Daemon(runtime_dir=str(directory))), Settings(None, "", {}, {}), owner, Notify({})
            )
            with life._open(life._context(detach_process=False, files_preserve=[writing])):
                found = {"users": os.getresuid(), "groups": os.getresgid(), "others": os.getgroups()}
                os.write(writing, json.dumps(found).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        found = json.loads(answer.read() or b"{}")
    os.waitpid(child, 0)
    return dict(found)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_daemon_keeps_no_user_or_group_of_root(open_tmp: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chown(open_tmp, nobody.pw_uid, nobody.pw_gid)
    found = _become(Owner("nobody", nobody.pw_uid, nobody.pw_gid, impersonated=True), open_tmp)
    assert found.get("users") == [nobody.pw_uid] * 3, found
    assert found["groups"] == [nobody.pw_gid] * 3
    assert 0 not in found["others"]
