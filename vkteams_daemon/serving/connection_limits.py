"""The limits of the HTTP server's connections: how many there may be, and how long a request may take to arrive.

uvicorn has neither. Its `limit_concurrency` counts half-sent requests too: a client that opens connections and sends
half a request on each would keep everybody else out.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 512
HEADER_TIMEOUT = 10.0  # seconds from the connection, or the first byte of a later request, to the end of its header
BODY_TIMEOUT = 60.0  # seconds from there to the end of its body; also for a client that does not read its answer

Refuse = Callable[[str, str], None]
"""Counts a refusal: its reason, and the client's address."""


def max_connections() -> int:
    """The most connections at once: half of the files that this process may open, because a question needs some too."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, soft // 2)


def limited_protocol(most: int, refuse: Refuse) -> type[asyncio.Protocol]:
    """The protocol of uvicorn with these limits.

    If there are too many connections, the oldest one that is not being answered is closed. So clients that only connect
    never keep out those that ask.

    Args:
        most: connections at once; from one address half of them. A proxy's clients share its address.
        refuse: counts a connection that was closed.
    """

    class LimitedProtocol(H11Protocol):
        _opened_at = 0.0
        _phase: Any = None
        _request_timer: asyncio.TimerHandle | None = None
        _answer_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._opened_at = self.loop.time()
            self._time_request()
            everybody = [one for one in self.connections if isinstance(one, LimitedProtocol)]
            neighbours = [one for one in everybody if one._address == self._address]
            if len(neighbours) > most // 2:
                self._make_room(neighbours)
            elif len(everybody) > most:
                self._make_room(everybody)

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self._request_timer, self._answer_timer):
                if timer is not None:
                    timer.cancel()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._time_request()

        def send_400_response(self, msg: str) -> None:
            refuse("the request is not HTTP", self._address)
            super().send_400_response(msg)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._answer_timer = self.loop.call_later(BODY_TIMEOUT, self._end, "the client did not read its answer")

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._answer_timer is not None:
                self._answer_timer.cancel()

        @property
        def _address(self) -> str:
            return self.client[0] if self.client else ""

        @property
        def _is_answered(self) -> bool:
            """Whether the server works on an answer, and the client reads it."""
            cycle = self.cycle
            waits = cycle is None or cycle.more_body or cycle.response_complete
            return not (waits or self.flow.write_paused)

        def _time_request(self) -> None:
            """Start the timer of the part of a request that is due now; none is due while one is answered."""
            phase = self.conn.their_state
            if phase is self._phase:
                return
            self._phase = phase
            if self._request_timer is not None:
                self._request_timer.cancel()
            if phase in (h11.IDLE, h11.SEND_BODY):
                timeout = HEADER_TIMEOUT if phase is h11.IDLE else BODY_TIMEOUT
                self._request_timer = self.loop.call_later(timeout, self._end, "the request did not arrive in time")

        def _make_room(self, among: list[LimitedProtocol]) -> None:
            waiting = [one for one in among if one is not self and not one._is_answered]
            min(waiting, key=lambda one: one._opened_at, default=self)._end("too many connections")

        def _end(self, reason: str) -> None:
            refuse(reason, self._address)
            self.connections.discard(self)  # it does not count any more, although the loop closes it a moment later
            self.transport.abort()

    return LimitedProtocol
