"""The thread that answers at the query socket: the vectors of a query, by the models that the workers have loaded.

It answers one request after the other, so that it takes at most one core from the workers. It drops a client that
stays silent. If anything fails here, the client loads the model itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vkteams_daemon.daemon.watch import Pulse
from vkteams_daemon.embedding.query_socket import QueryAnswer, QueryRequest, receive, send, short_path

if TYPE_CHECKING:
    from vkteams_daemon.embedding.model import Model

log = logging.getLogger(__name__)

MODE = 0o660  # connecting needs the right to write; the status file beside it has 0640
WAITING = 16  # connections that the system keeps until their turn
CLIENT_LIMIT = 0.5  # seconds that a client may take for its request, and for taking the answer
ANSWER_LIMIT = 30.0  # seconds after which an answer is overdue
ACCEPT_INTERVAL = 0.5  # seconds; the longest time until a stop is noticed
RETRY_INTERVAL = 10.0  # seconds until the socket is made again if it could not be made, or was removed


class QueryServer:
    """The query socket of this process.

    Args:
        file: where the socket is made.
        models: gives the loaded models by their fingerprints.
        group: the number of the group that may connect, besides the daemon's user; None for the user's own.
        pulse: of the thread.

    Attributes:
        pulse: as given.
    """

    def __init__(
        self,
        file: Path,
        models: Callable[[], Mapping[str, Model]],
        *,
        group: int | None = None,
        pulse: Pulse | None = None,
    ) -> None:
        self._file = file
        self._models = models
        self._group = group
        self.pulse = pulse or Pulse("query")

    def run(self, stopping: threading.Event) -> None:
        """Answer until `stopping` is set; the socket is removed then."""
        while not stopping.is_set():
            try:
                with self._listen() as listener:
                    self._answer_all(listener, stopping)
            except OSError as error:
                log.info("searches load the models themselves: %s cannot be used: %s", self._file, error)
                stopping.wait(RETRY_INTERVAL)
        with contextlib.suppress(OSError):
            self._file.unlink()

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with contextlib.suppress(FileNotFoundError):
                self._file.unlink()  # of a process that was killed: this one holds the PID file
            with short_path(self._file) as address:
                listener.bind(address)  # nobody can connect before `listen`
            if self._group is not None:
                os.chown(self._file, -1, self._group)
            self._file.chmod(MODE)
            listener.listen(WAITING)
            listener.settimeout(ACCEPT_INTERVAL)
        except BaseException:
            listener.close()
            raise
        return listener

    def _answer_all(self, listener: socket.socket, stopping: threading.Event) -> None:
        while not stopping.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                if not self._file.exists():
                    return  # somebody has removed it: it is made again
                continue
            self.pulse.busy(ANSWER_LIMIT)
            with connection:
                connection.settimeout(CLIENT_LIMIT)
                try:
                    send(connection, self._answer(receive(connection, QueryRequest)))
                except (OSError, ValueError) as error:
                    log.debug("a client at the query socket: %s", error)
            self.pulse.idle()

    def _answer(self, request: QueryRequest) -> QueryAnswer:
        models = self._models()
        answer = QueryAnswer(list(models))
        if request.text and (model := models.get(request.fingerprint)):
            try:
                answer.vector = model.query(request.text)
            except Exception as error:  # noqa: BLE001 - the client loads the model itself, and the workers see to theirs
                log.debug("a query has no vector: %s: %s", type(error).__name__, error)
        return answer
