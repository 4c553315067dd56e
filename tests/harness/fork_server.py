"""A process that has imported the program already, and forks for each one that a test starts.

Most of what a short command costs is the import of its modules: a tenth of a second for vkteamsctl, half a second for
vkteamsd, more than a second for the MCP server. A test run starts a thousand of them. Each is a process of its own as
ever, with the streams, the environment, the directory, the user and the signals that the test gives it.

`python`   the command line of a Python process that is forked, or with FAULTS=full started anew

A program that the server cannot play is started anew: one whose user, limits, or variables for the interpreter and the
C library are not the server's own. One server serves all workers of a run, and ends with the run.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import io
import marshal
import os
import resource
import runpy
import select
import signal
import socket
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
_CLIENT = str(_ROOT / "tests" / "harness" / "fork_client.py")
_PRELOADED = (
    "vkteams_daemon.ctl.main", "vkteams_daemon.daemon.main", "vkteams_daemon.daemon.service",
    "vkteams_daemon.mcp.serve", "vkteams_daemon.mcp.http", "vkteams_daemon.mcp.stdio", "vkteams_daemon.web.serve",
    "vkteams_daemon.search.archive", "vkteams_daemon.search.history.context",
    "vkteams_daemon.search.history.statistics",
    "vkteams_daemon.search.name_lookup", "vkteams_daemon.store.database", "rich.logging",
)  # fmt: skip
# What the interpreter and the C library read once, at their start, beside the locale.
_READ_AT_START = ("PYTHON", "LD_", "MALLOC_", "GLIBC_")
_TAKEN_OVER = {"PYTHONPATH", "PYTHONWARNINGS", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
_NAME_LENGTH = 4000  # bytes that /proc/PID/cmdline can hold of the command line of a forked process


def python(*arguments: str) -> list[str]:
    """The command line of a Python process: a script or `-m` and a module, and its arguments."""
    from tests.harness.scale import FULL  # here: the server itself does without pytest

    if FULL:
        return [sys.executable, *arguments]
    return [sys.executable, "-I", "-S", _CLIENT, _started(), *arguments]


@functools.cache
def _started() -> str:
    """The name of this run's server, which the first test process to need one starts."""
    run = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    name = f"vkteams-fork-{run}"
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            listener.bind("\0" + name)
        except OSError:
            return name  # another worker has started it
        listener.listen(512)
        os.set_inheritable(listener.fileno(), True)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("VKTEAMS_", "PYTHON"))}
        command = [sys.executable, "-m", __name__, str(listener.fileno()), str(run), "-" * _NAME_LENGTH]
        os.posix_spawn(
            sys.executable, command, kept | {"PYTHONPATH": str(_ROOT)}, setpgroup=0,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0), (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_RDWR, 0),
            ],
        )  # fmt: skip
    return name


class _Server:
    """Forks for each client until the run ends; `serve` returns in each forked process.

    Args:
        listener: where the clients connect.
        run: the process whose end ends the server.
    """

    def __init__(self, listener: socket.socket, run: int) -> None:
        self._listener = listener
        self._run = os.pidfd_open(run)
        self._clients: dict[int, tuple[socket.socket, int, int]] = {}  # by descriptor: its process and its pidfd
        self._poll = select.poll()
        for descriptor in (listener.fileno(), self._run):
            self._poll.register(descriptor, select.POLLIN)

    def serve(self) -> dict[str, Any] | None:
        """The request of a client, in the process that is to be its program; None at the end of the run."""
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor == self._run:
                    return None
                if descriptor == self._listener.fileno():
                    if request := self._accept():
                        return request
                else:
                    self._ended(descriptor)

    def _accept(self) -> dict[str, Any] | None:
        client, _ = self._listener.accept()
        try:
            request, streams = _read(client)
        except (EOFError, ConnectionError):
            client.close()
            return None
        if not _playable(request):
            client.sendall(bytes(4))
            process = 0
        elif not (process := os.fork()):
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            for inherited in (self._listener, client, *(connected for connected, _, _ in self._clients.values())):
                inherited.detach()
            os.closerange(3, 4096)
            return request
        for stream in streams:
            os.close(stream)
        if not process:
            client.close()
            return None
        client.sendall(process.to_bytes(4, "big"))
        descriptor = os.pidfd_open(process)
        for watched in (client.fileno(), descriptor):
            self._clients[watched] = (client, process, descriptor)
            self._poll.register(watched, select.POLLIN)
        return None

    def _ended(self, descriptor: int) -> None:
        """A program has ended, or a client was killed."""
        if descriptor not in self._clients:
            return  # both in one turn
        client, process, pidfd = self._clients[descriptor]
        if descriptor != pidfd:
            os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        with contextlib.suppress(OSError):
            client.sendall(status.to_bytes(4, "big"))
        for watched in (client.fileno(), pidfd):
            del self._clients[watched]
            self._poll.unregister(watched)
        client.close()
        os.close(pidfd)


def _read(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A client's request, and its three streams."""
    streams = array.array("i")
    length, ancillary, _, _ = client.recvmsg(4, socket.CMSG_SPACE(3 * streams.itemsize))
    for _, _, data in ancillary:
        streams.frombytes(data)
    size = int.from_bytes(length, "big")
    data = b""
    while len(data) < size:
        more = client.recv(size - len(data))
        if not more:
            break
        data += more
    if not size or len(data) < size:
        for stream in streams:
            os.close(stream)
        raise EOFError
    return marshal.loads(data), list(streams)


def _playable(request: dict[str, Any]) -> bool:
    """Whether a fork of this process is what the client would have started."""
    environ = request["environ"]
    return (
        request["identity"] == (os.getresuid(), os.getresgid(), os.getgroups())
        and request["limits"] == [resource.getrlimit(number) for number in range(16)]
        and _at_start(environ) == _at_start(dict(os.environ))
        and environ.get("PYTHONWARNINGS", "default") in ("default", "error")
    )


def _at_start(environ: dict[str, str]) -> dict[str, str]:
    letters = environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG") or "C"
    return {"letters": "C.UTF-8" if letters in ("C", "POSIX") else letters} | {  # as the interpreter takes C
        name: value for name, value in environ.items() if name.startswith(_READ_AT_START) and name not in _TAKEN_OVER
    }


def _become(request: dict[str, Any]) -> None:
    """Make this process what the interpreter would be that the client wanted, and run the program."""
    os.chdir(request["directory"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environ"])
    time.tzset()
    for number in request["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    if "PYTHONWARNINGS" in request["environ"]:
        warnings.simplefilter(request["environ"]["PYTHONWARNINGS"])  # type: ignore[arg-type]
    _open_streams()
    command = request["command"]
    _rename([sys.executable, *command])
    if command[0] == "-m":
        sys.path[0] = request["directory"]
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(command[0]).resolve().parent)
        sys.argv = list(command)
        runpy.run_path(command[0], run_name="__main__")


def _open_streams() -> None:
    """Open standard input, output and error as the interpreter does."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        like = getattr(sys, f"__{name}__")
        mode = "r" if number == 0 else "w"
        binary = open(number, f"{mode}b", closefd=False)  # noqa: SIM115
        line_buffering = number == 2 or os.isatty(number)
        stream = io.TextIOWrapper(binary, like.encoding, like.errors, line_buffering=line_buffering)
        stream.mode = mode  # type: ignore[misc]
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _rename(command: list[str]) -> None:
    """Let /proc/PID/cmdline show this command line."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begin, end = int(fields[45]), int(fields[46])
    text = b"\0".join(os.fsencode(word) for word in command)[: end - begin - 1]
    ctypes.memset(begin, 0, end - begin)
    ctypes.memmove(begin, text, len(text))


def _exit(code: Any) -> None:
    """End as the interpreter does, but leave the memory to the kernel: to tear it down costs more than to fork."""
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit((code or 0) & 255)


def main() -> None:
    """Serve until the run ends; in each forked process, run its program."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    server = _Server(listener, int(sys.argv[2]))
    for module in _PRELOADED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    if request := server.serve():
        try:
            _become(request)
        except SystemExit as ended:
            _exit(ended.code)
        _exit(0)


if __name__ == "__main__":
    main()
