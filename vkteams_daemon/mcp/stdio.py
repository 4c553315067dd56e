"""The server on standard input and output, for a client that starts it. It ends when its input ends, or on a signal.

Only the protocol is on standard output: while it serves, the SDK points the descriptor at standard error.
"""

from __future__ import annotations

import logging
import signal

import anyio
import anyio.to_thread

from vkteams_daemon.errors import VkTeamsError
from vkteams_daemon.mcp.archive_reader import Reader
from vkteams_daemon.mcp.server import Server
from vkteams_daemon.serving.standard_error import end_process

log = logging.getLogger(__name__)

_CLOSE_TIMEOUT = 3.0  # seconds to close the archive


def serve(server: Server, reader: Reader) -> None:
    """Serve until the client closes the input or a signal arrives, then end the process."""
    code = 0
    try:
        anyio.run(_serve, server, reader)
    except* (BrokenPipeError, anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass  # a client that disappears while it is answered leaves a broken pipe: that is no failure of the server
    except* Exception as errors:
        log.error("the MCP server failed", exc_info=errors)
        code = VkTeamsError.exit_code
    server.audit.close()
    end_process(code)


async def _serve(server: Server, reader: Reader) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_end_on_signal, server, reader)
        await server.run_stdio_async()
        tasks.cancel_scope.cancel()
    await _close(reader)


async def _end_on_signal(server: Server, reader: Reader) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for _ in signals:
            await _close(reader)
            server.audit.close()
            end_process(0)


async def _close(reader: Reader) -> None:
    with anyio.move_on_after(_CLOSE_TIMEOUT):
        await anyio.to_thread.run_sync(reader.close, abandon_on_cancel=True)
