"""Runs the vkteamsd program and passes on its messages and its exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from vkteams_daemon.errors import VkTeamsError
from vkteams_daemon.system import streams


def program() -> list[str]:
    """The command of vkteamsd: the script beside this program's own, or beside the interpreter, or the module."""
    for directory in (Path(sys.argv[0]).absolute().parent, Path(sys.executable).parent):
        script = directory / "vkteamsd"
        if script.is_file():
            return [sys.executable, str(script)]
    return [sys.executable, "-m", "vkteams_daemon.daemon.main"]


def run(arguments: Sequence[str], *, foreground: bool) -> str:
    """Start vkteamsd; its message after a successful start, or "".

    In the foreground this process becomes vkteamsd, and the call does not return.

    Raises:
        VkTeamsError: it did not start; the error has vkteamsd's sentence and exit code.
    """
    command = [*program(), *arguments]
    if foreground:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(command[0], command)
    import subprocess  # it takes 6 ms to import, and `daemon status`, which does not need it, imports this module

    # In a process group of its own: Ctrl-C reaches only this process, which passes on exactly one signal.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", process_group=0
    ) as child:

        def pass_on(signum: int, _: FrameType | None) -> None:
            child.send_signal(signum)

        before = {signum: signal.signal(signum, pass_on) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            out, err = child.communicate()
        finally:
            for signum, action in before.items():
                signal.signal(signum, action)
    if child.returncode:
        raise _failure(err, child.returncode)
    streams.write_stderr(err)
    return out.strip().removeprefix("vkteamsd: ")


def _failure(err: str, code: int) -> VkTeamsError:
    lines = err.strip().splitlines() or [f"vkteamsd ended with status {code}"]
    if len(lines) > 1:
        streams.write_stderr("\n".join(lines[:-1]) + "\n")  # the traceback that VKTEAMS_DEBUG=1 asks for
    error = VkTeamsError(lines[-1].removeprefix("vkteamsd: "))
    error.exit_code = code if code > 0 else 128 - code
    return error
