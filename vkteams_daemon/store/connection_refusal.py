"""Tells with which SQLSTATE a server refuses a connection.

libpq keeps no more of such a refusal than its text, which is in the server's language (`lc_messages`). Its trace of the
protocol has the code. So a connection that has failed is begun once more, and traced from the moment at which the
server has it.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import time

from psycopg import Error, pq
from psycopg.pq import abc

_LIMIT = 2.0  # seconds; the server has just answered
# The localised severity, the severity, and the code.
_CODE = re.compile(rb'ErrorResponse\t S "[^"]*" (?:V "[A-Z]+" )?C "([0-9A-Z]{5})"')
_WAIT_FOR: dict[int, int] = {
    pq.PollingStatus.READING: select.POLLIN | select.POLLERR | select.POLLHUP,
    pq.PollingStatus.WRITING: select.POLLOUT | select.POLLERR | select.POLLHUP,
}


# The codes of the refusals so far. A server that refuses for days is asked once: each trace leaves 5 KB behind, because
# psycopg does not close the stream that it makes for libpq.
_known: dict[str, str] = {}
_MAX_KNOWN = 100


def sqlstate(conninfo: str, refusal: str) -> str | None:
    """The code with which the server refuses a connection; None if it gives none, or takes the connection now.

    Args:
        conninfo: of the connection.
        refusal: the text of the failed attempt. The same text has the same code.
    """
    if refusal not in _known and (code := _trace(conninfo)):
        if len(_known) >= _MAX_KNOWN:
            _known.clear()
        _known[refusal] = code
    return _known.get(refusal)


def _trace(conninfo: str) -> str | None:
    """The code with which the server refuses this connection now."""
    deadline = time.monotonic() + _LIMIT
    connection: abc.PGconn | None = None
    trace = os.memfd_create("trace", os.MFD_CLOEXEC)
    try:
        with contextlib.suppress(Error, OSError):
            connection = pq.PGconn.connect_start(conninfo.encode())
            traced = False
            while connection.status != pq.ConnStatus.BAD:
                step = connection.connect_poll()
                if step not in _WAIT_FOR:
                    break
                if not traced and connection.status == pq.ConnStatus.AWAITING_RESPONSE:
                    connection.trace(trace)
                    traced = True
                if not _wait(connection.socket, _WAIT_FOR[step], deadline):
                    break
            if traced:
                connection.untrace()  # libpq writes the rest of the trace
        codes = _CODE.findall(os.pread(trace, 1 << 16, 0))
    finally:
        if connection is not None:
            connection.finish()
        os.close(trace)
    return codes[-1].decode() if codes else None


def _wait(descriptor: int, events: int, deadline: float) -> bool:
    poll = select.poll()  # select(2) takes no descriptor above 1023
    poll.register(descriptor, events)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
