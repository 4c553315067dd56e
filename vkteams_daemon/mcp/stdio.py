"""The server on standard input and output, for a client that starts it; it ends with its input, or on TERM.

Nothing but the protocol is on standard output: the SDK points the descriptor at standard error meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

import anyio
import anyio.to_thread

from vkteams_daemon.mcp.reader import Reader
from vkteams_daemon.mcp.server import Server

_LAST = 3.0  # seconds to let go of the database


def serve(server: Server, reader: Reader) -> None:
    """Serve until the client closes the input, or a signal comes; the process ends with it."""
    # A client that goes away in mid-answer leaves a broken pipe, and nothing to be said about it.
    with contextlib.suppress(OSError, BaseExceptionGroup):
        anyio.run(_serve, server, reader)
    sys.stderr.flush()
    # Threads that wait for the input, or for an answer that nobody wants any more, would keep the process.
    os._exit(0)


async def _serve(server: Server, reader: Reader) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_until_signal, reader)
        await server.run_stdio_async()
        tasks.cancel_scope.cancel()
    await _let_go(reader)


async def _until_signal(reader: Reader) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for _ in signals:
            await _let_go(reader)
            sys.stderr.flush()
            os._exit(0)


async def _let_go(reader: Reader) -> None:
    with anyio.move_on_after(_LAST):
        await anyio.to_thread.run_sync(reader.close, abandon_on_cancel=True)
