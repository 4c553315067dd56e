"""The server on standard input and output, for a client that starts it. It ends when its input ends, or on a signal.

Only the protocol is on standard output: while it serves, the SDK points the descriptor at standard error.
"""

from __future__ import annotations

import io
import logging
import os
import signal

import anyio
import anyio.to_thread
from mcp.server.stdio import stdio_server
from mcp.shared._context_streams import ContextReceiveStream, ContextSendStream
from mcp.shared.message import SessionMessage

from vkteams_daemon.errors import VkTeamsError
from vkteams_daemon.mcp import jsonrpc
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
        lines = anyio.wrap_file(_Input(_take_input(), encoding="utf-8", errors="replace"))
        async with stdio_server(stdin=lines) as (read_stream, write_stream):
            inner = server._lowlevel_server
            messages = _Messages(read_stream, write_stream)
            await inner.run(messages, write_stream, inner.create_initialization_options())
        tasks.cancel_scope.cancel()
    await _close(reader)


class _Input(io.TextIOWrapper):
    """Lines of JSON, without the blank ones. Half of a surrogate pair is replaced; see `jsonrpc`."""

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]
        while (line := super().readline(size)).isspace():
            pass
        return jsonrpc.mended(line)


class _Messages(ContextReceiveStream[SessionMessage | Exception]):
    """The client's messages. A line that is none is answered here: the SDK would leave its client waiting for ever."""

    def __init__(
        self, lines: ContextReceiveStream[SessionMessage | Exception], answers: ContextSendStream[SessionMessage]
    ) -> None:
        super().__init__(lines._inner)
        self._answers = answers

    async def __aenter__(self) -> _Messages:
        return self

    async def receive(self) -> SessionMessage | Exception:
        """The next message."""
        while isinstance(item := await super().receive(), Exception):
            await self._answers.send(SessionMessage(jsonrpc.refusal(item)))
        return item


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
