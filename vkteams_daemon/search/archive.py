"""The archive as a library: every question that vkteamsctl and agents ask goes through `Archive`.

Each answer is read in one read-only transaction, so that hits, names and coverage belong together, and is cancelled
after `[search] timeout`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psycopg

from vkteams_daemon.config import Config
from vkteams_daemon.errors import ModelAbsent, NotFound, StoreError
from vkteams_daemon.options import Database as DatabaseOptions
from vkteams_daemon.search import stats
from vkteams_daemon.search.hit import Hit, Ranked, hits
from vkteams_daemon.search.semantic import search_semantic
from vkteams_daemon.search.text import search_text
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.models import StoredModel, active_model

if TYPE_CHECKING:
    from vkteams_daemon.embedding.model import Model


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to one question: the hits, best first, and what the archive knows at all."""

    query: str
    mode: Literal["text", "semantic"]
    hits: list[Hit]
    coverage: stats.Coverage


class Archive:
    """The archive behind a configuration or a DSN; opened by the first question, to be closed (a context manager).

    Safe for several threads. The model is loaded by the first semantic search, and again when the archive has
    switched to another.

    Args:
        source: a configuration (without a database URL: the bundled PostgreSQL), or a postgresql:// URL or conninfo.
    """

    def __init__(self, source: Config | str) -> None:
        self._config = source if isinstance(source, Config) else Config(database=DatabaseOptions(url=source))
        self._database = Database(self._config, application="vkteams-search")
        self._opened = False
        self._lock = threading.Lock()
        self._model: tuple[str, Model] | None = None

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and forget the model."""
        with self._lock:
            self._database.close()
            self._opened, self._model = False, None

    def search_text(
        self,
        query: str,
        *,
        chat_ids: Collection[str] | None = None,
        user_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> Found:
        """The messages that hold the query's words; see `search.text.search_text` for the arguments."""
        most = self._limit(limit)
        with self._reading() as connection:
            found = search_text(
                connection, query, chat_ids=chat_ids, user_id=user_id, since=since, until=until, limit=most
            )
            return Found(query, "text", found, self._coverage(connection, chat_ids))

    def search_semantic(
        self,
        query: str,
        *,
        chat_ids: Collection[str] | None = None,
        user_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> Found:
        """The messages that mean what the query means; see `search.semantic.search_semantic` for the arguments.

        Raises:
            ModelAbsent: no model is installed, or not the one whose vectors the archive has.
        """
        most = self._limit(limit)
        with self._reading() as connection:
            active = active_model(connection)
        model = self._loaded(active)
        vector = model.embed_texts([query], query=True)[0]
        with self._reading() as connection:
            found: list[Hit] = []
            if active:
                found = search_semantic(
                    connection, vector, active.model_id, active.dims,
                    chat_ids=chat_ids, user_id=user_id, since=since, until=until, limit=most,
                )  # fmt: skip
            return Found(query, "semantic", found, self._coverage(connection, chat_ids))

    def message(self, chat_id: str, msg_id: str) -> Hit:
        """One message.

        Raises:
            NotFound: the archive has no such message, or it was deleted.
        """
        with self._reading() as connection:
            found = hits(connection, [Ranked(chat_id, msg_id, 1.0)])
        if not found:
            raise NotFound(f"the archive has no message {msg_id} in chat {chat_id}")
        return found[0]

    def statistics(self, *, chat_id: str | None = None, since: datetime | None = None) -> stats.Statistics:
        """The archive in numbers."""
        with self._reading() as connection:
            return stats.statistics(connection, chat_id=chat_id, since=since)

    def _limit(self, limit: int | None) -> int:
        return self._config.search.limit if limit is None else limit

    def _coverage(self, connection: psycopg.Connection[Any], chat_ids: Collection[str] | None) -> stats.Coverage:
        return stats.coverage(connection, None if chat_ids is None else sorted(chat_ids))

    @contextlib.contextmanager
    def _reading(self) -> Iterator[psycopg.Connection[Any]]:
        with self._lock:
            if not self._opened:
                self._database.open(migrate=False)
                self._opened = True
        timeout = self._config.search.timeout
        with self._database.connection() as connection, _plain_timeout(timeout), connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            # Compiling a statement takes longer than any of ours runs.
            connection.execute(
                "SELECT set_config('statement_timeout', %s, true), set_config('jit', 'off', true)",
                (str(max(1, int(timeout * 1000))),),
            )
            yield connection

    def _loaded(self, active: StoredModel | None) -> Model:
        with self._lock:
            if self._model is None or (active and self._model[0] != active.fingerprint):
                from vkteams_daemon.embedding.model import Model

                model = Model.load(_directory(self._config, active))
                self._model = (model.fingerprint, model)
            return self._model[1]


def _directory(config: Config, active: StoredModel | None) -> Path:
    """Where the model lies whose vectors the archive has; before there are any, the chosen one."""
    from vkteams_daemon.embedding import catalogue

    if active is None:
        name = catalogue.chosen(config)
        if name is None:
            raise ModelAbsent(
                "no embedding model is installed, so nothing can be found by meaning",
                hint="Install one: `vkteamsctl model install all-MiniLM-L6-v2`, and restart vkteamsd.",
            )
        return catalogue.find(config.models_dir, name)
    for model in catalogue.installed(config.models_dir):
        if model.fingerprint == active.fingerprint:
            return model.directory
    raise ModelAbsent(
        f"the archive's vectors are of the model {active.name}, which is not installed here",
        hint=f"Install it: `vkteamsctl model install {active.name}`.",
    )


@contextlib.contextmanager
def _plain_timeout(seconds: float) -> Iterator[None]:
    try:
        yield
    except psycopg.errors.QueryCanceled:
        raise StoreError(
            f"the search was cancelled after {seconds:g} s", hint="Narrow it, or raise search.timeout."
        ) from None
