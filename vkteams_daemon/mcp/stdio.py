"""The server on standard input and output, for a client that starts it. It ends when its input ends, or on a signal.

Only the protocol is on standard output: while it serves, the SDK points the descriptor at standard error.
"""

from __future__ import annotations

import io
import logging
import os
import re
import signal

import anyio
import anyio.to_thread
from mcp.server.stdio import stdio_server

from vkteams_daemon.errors import VkTeamsError
from vkteams_daemon.mcp.archive_reader import Reader
from vkteams_daemon.mcp.server import Server
from vkteams_daemon.serving.standard_error import end_process

log = logging.getLogger(__name__)

_CLOSE_TIMEOUT = 3.0  # seconds to close the archive
# The escapes of a line of JSON, one after the other; half of a surrogate pair is in the group.
_HALF_PAIR = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)


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
        lines = anyio.wrap_file(_Input(_take_input(), encoding="utf-8", errors="replace"))
        async with stdio_server(stdin=lines) as (read_stream, write_stream):
            inner = server._lowlevel_server
            await inner.run(read_stream, write_stream, inner.create_initialization_options())
        tasks.cancel_scope.cancel()
    await _close(reader)


class _Input(io.TextIOWrapper):
    """Lines of JSON. Half of a surrogate pair is replaced, as a client writes it that has cut an emoji in two.

    The SDK does not read such a line, and does not answer it. The client would wait for ever.
    """

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]
        return _HALF_PAIR.sub(lambda escape: r"\ufffd" if escape[1] else escape[0], super().readline(size))


def _take_input() -> io.BufferedReader:
    """The client's end of standard input. What else would read the descriptor finds it empty."""
    private = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return os.fdopen(private, "rb", closefd=False)


async def _end_on_signal(server: Server, reader: Reader) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for _ in signals:
            await _close(reader)
            server.audit.close()
            end_process(0)


async def _close(reader: Reader) -> None:
    with anyio.move_on_after(_CLOSE_TIMEOUT):
        await anyio.to_thread.run_sync(reader.close, abandon_on_cancel=True)
