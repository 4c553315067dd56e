"""Runs the vkteamsd program and hands on what it says and returns."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from vkteams_daemon.errors import VkTeamsError
from vkteams_daemon.system import streams


def program() -> list[str]:
    """How to run vkteamsd: the script beside this program's own, or beside the interpreter, or the module."""
    for directory in (Path(sys.argv[0]).absolute().parent, Path(sys.executable).parent):
        script = directory / "vkteamsd"
        if script.is_file():
            return [sys.executable, str(script)]
    return [sys.executable, "-m", "vkteams_daemon.daemon.main"]


def run(arguments: Sequence[str], *, foreground: bool) -> str:
    """Start vkteamsd; what it has to say about a good start, or "".

    In the foreground this process becomes vkteamsd, and the call does not return.

    Raises:
        VkTeamsError: it did not start; with its sentence and its exit code.
    """
    command = [*program(), *arguments]
    if foreground:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(command[0], command)
    # A group of its own: Ctrl-C reaches us alone, and exactly one signal is passed on.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", process_group=0
    ) as child:

        def hand_on(signum: int, _: FrameType | None) -> None:
            child.send_signal(signum)

        before = {signum: signal.signal(signum, hand_on) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            said, complaint = child.communicate()
        finally:
            for signum, action in before.items():
                signal.signal(signum, action)
    if child.returncode:
        raise _failure(complaint, child.returncode)
    streams.write_stderr(complaint)
    return said.strip().removeprefix("vkteamsd: ")


def _failure(complaint: str, code: int) -> VkTeamsError:
    lines = complaint.strip().splitlines() or [f"vkteamsd ended with status {code}"]
    if len(lines) > 1:
        streams.write_stderr("\n".join(lines[:-1]) + "\n")  # the traceback that VKTEAMS_DEBUG=1 asked for
    error = VkTeamsError(lines[-1].removeprefix("vkteamsd: "))
    error.exit_code = code if code > 0 else 128 - code
    return error
