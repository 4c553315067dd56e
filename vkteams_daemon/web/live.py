"""Tells open pages that there is something new for their visitors, by server-sent events.

One task looks at the archive for all open pages of the process. If something has changed in a chat, it asks what each
visitor who may be concerned sees now, one after the other on one connection. An event says only that the page is old,
and ends the stream. The page is then loaded like any other: signed in, narrowed to the visitor, and audited.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import anyio
import anyio.to_thread
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from vkteams_daemon.access import Access
from vkteams_daemon.errors import VkTeamsError
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.web import today_page

log = logging.getLogger(__name__)

INTERVAL = 3.0  # seconds between two looks at the archive
MAX_STREAMS = 100
MAX_STREAMS_OF_ONE = 4  # of a person; a browser has six connections to a server
_SHARE = 4  # a pause is at least so many times as long as the look before it
_RECHECK = 30.0  # seconds after which a visitor's chats are looked up again, even if nothing was said
_HEARTBEAT = 15.0  # seconds between signs of life: a proxy between would take a silent connection for dead
_MAX_AGE = 300.0  # seconds after which the browser opens the stream anew, and whoever signs people in is asked again
_LOOK_BACK = timedelta(days=1)  # messages that were sent earlier and arrive now are shown when the page is loaded
_BEGIN = b"retry: 5000\n\n"  # milliseconds until the browser opens a stream anew that has ended
_BEAT = b":\n\n"
_NEWS = b"event: news\ndata: new\n\n"


@dataclass(eq=False, slots=True)
class Listener:
    """An open page.

    Attributes:
        access: the visitor's.
        since: what the page shows begins here (aware).
        mark: of what it shows, see `today_page.mark`.
        session: the id of the browser's session; None if it has none.
        ends: when the stream ends at the latest; monotonic.
        chats: those that the visitor saw when that was looked up last; None is every chat.
        checked: when that was; monotonic.
        woken: set if there is something new, or the stream ends.
        news: whether there is something new.
    """

    access: Access
    since: datetime
    mark: str
    session: str | None
    ends: float
    chats: frozenset[str] | None = frozenset()
    checked: float = -math.inf
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    news: bool = False

    async def events(self) -> AsyncIterator[bytes]:
        """What is sent to the page."""
        yield _BEGIN
        while (left := self.ends - time.monotonic()) > 0 and not self.woken.is_set():
            try:
                async with asyncio.timeout(min(_HEARTBEAT, left)):
                    await self.woken.wait()
            except TimeoutError:
                yield _BEAT
        if self.news:
            yield _NEWS


class EventStream(StreamingResponse):
    """The answer that sends the events of a listener.

    Args:
        listener: the open page.
        ended: called when it is over, however it ends.
    """

    def __init__(self, listener: Listener, ended: Callable[[], None]) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}  # nginx would keep the events back
        super().__init__(listener.events(), media_type="text/event-stream", headers=headers)
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


class Live:
    """The open pages of a process. Its methods are called in the thread of the event loop.

    Args:
        archive: as a whole; the caller closes it.
        interval: seconds between two looks.
    """

    def __init__(self, archive: Archive, interval: float = INTERVAL) -> None:
        self._archive = archive
        self._interval = interval
        self._listeners: list[Listener] = []
        self._watch: asyncio.Task[None] | None = None
        self._counts: dict[str, tuple[int, int, int]] | None = None
        self._thread = anyio.CapacityLimiter(1)
        self._closed = False

    def has_room(self, access: Access) -> bool:
        """Whether this visitor may open one more stream."""
        own = sum(each.access.name == access.name for each in self._listeners)
        return not self._closed and own < MAX_STREAMS_OF_ONE and len(self._listeners) < MAX_STREAMS

    def open(self, access: Access, since: datetime, mark: str, session: str | None, until: float | None) -> Listener:
        """Begin to listen; there is room.

        Args:
            access: the visitor's.
            since: what the page shows begins here (aware).
            mark: of what it shows.
            session: the id of the browser's session.
            until: when the sign-in ends, in seconds since 1970; None if that is not known.
        """
        lasts = _MAX_AGE if until is None else min(_MAX_AGE, until - time.time())
        listener = Listener(access, since, mark, session, time.monotonic() + lasts)
        self._listeners.append(listener)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.get_running_loop().create_task(self._look_on())
        return listener

    def close_listener(self, listener: Listener) -> None:
        """Stop listening."""
        self._listeners.remove(listener)

    def end_session(self, session: str) -> None:
        """End the streams of a browser whose person signs out."""
        for listener in self._listeners:
            if listener.session == session:
                listener.woken.set()

    def close(self) -> None:
        """End every stream: the server ends."""
        self._closed = True
        for listener in self._listeners:
            listener.woken.set()
        if self._watch is not None:
            self._watch.cancel()

    async def _look_on(self) -> None:
        while self._listeners and not self._closed:
            begin = time.monotonic()
            try:
                told = await anyio.to_thread.run_sync(
                    self._look, list(self._listeners), abandon_on_cancel=True, limiter=self._thread
                )
            except VkTeamsError as error:
                log.debug("open pages are not told what is new: %s", error)
            except Exception:
                log.exception("open pages are not told what is new")
            else:
                for listener in told:
                    listener.news = True
                    listener.woken.set()
            await asyncio.sleep(max(self._interval, _SHARE * (time.monotonic() - begin)))
        self._counts = None

    def _look(self, listeners: list[Listener]) -> list[Listener]:
        """The listeners whose pages are old. Runs in a thread of its own."""
        counts = self._archive.counts_by_chat(datetime.now(UTC) - _LOOK_BACK)
        before = self._counts
        changed = counts.keys() if before is None else {c for c in counts if counts[c] != before.get(c)}
        # Nobody knows yet whom a chat concerns that was silent for long.
        fresh = before is None or not before.keys() >= counts.keys()
        now = time.monotonic()
        told = []
        for each in listeners:
            concerned = (fresh and changed) or (changed if each.chats is None else each.chats.intersection(changed))
            if each.woken.is_set() or not (concerned or now - each.checked > _RECHECK):
                continue
            seen = self._archive.seen_by(each.access)
            each.chats, each.checked = seen.visible_chats, now
            if today_page.mark(seen, today_page.chats(seen, each.since), each.since) != each.mark:
                told.append(each)
        self._counts = counts
        return told
