"""Runs a Python program by way of the fork server: `fork_client.py SERVER PROGRAM [ARGUMENT…]`; see fork_server.py.

It looks like the program to whoever started it: the same streams, the same exit code, and what ends it, or any other
signal that can be caught, reaches the program. Where it ends, the program is killed. It imports as little as it can:
its start is what the fork server saves.
"""

import _signal as signal
import _socket as socket
import marshal
import os
import resource
import sys

# ruff: noqa: PTH109 (pathlib takes longer to import than all the rest)
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGCONT)


def main() -> None:
    """Hand the program over, and end as it ends."""
    ignored = [number for number in SIGNALS if signal.getsignal(number) == signal.SIG_IGN]
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    name, *command = sys.argv[1:]
    umask = os.umask(0)
    os.umask(umask)
    request = marshal.dumps({
        "command": command, "directory": os.getcwd(), "environ": dict(os.environ), "umask": umask, "ignored": ignored,
        "identity": (os.getresuid(), os.getresgid(), os.getgroups()),
        "limits": [resource.getrlimit(number) for number in range(16)],
    })  # fmt: skip
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        server.connect("\0" + name)
        streams = b"".join(stream.to_bytes(4, sys.byteorder) for stream in range(3))
        server.sendmsg([len(request).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
        sent = 0
        while sent < len(request):
            sent += server.send(request[sent:])
        process = int.from_bytes(server.recv(4, socket.MSG_WAITALL), "big")
    except OSError:  # one of the streams is closed, or there is no server
        process = 0
    if not process:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os.execv(sys.executable, [sys.executable, *command])
    for number in SIGNALS:
        signal.signal(number, lambda number, _: os.kill(process, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    status = server.recv(4, socket.MSG_WAITALL)
    code = os.waitstatus_to_exitcode(int.from_bytes(status, "big")) if status else 70
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


main()
