"""The model that a question is put to: the one whose vectors the archive has, loaded once and kept warm."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vkteams_daemon.config import Config
from vkteams_daemon.errors import ModelAbsent
from vkteams_daemon.store.models import StoredModel

if TYPE_CHECKING:
    from vkteams_daemon.embedding.model import Model


@dataclass(frozen=True, slots=True)
class QueryEncoder:
    """A loaded model, and the archive's row of it."""

    model: Model
    stored: StoredModel


class QueryEncoderCache:
    """Loads the archive's model at the first question, and again when the archive has switched to another.

    Safe for several threads.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._model: tuple[str, Model] | None = None

    def of(self, active: StoredModel | None, *, required: bool) -> QueryEncoder | None:
        """The model of the archive's vectors; None where there are none yet.

        Args:
            active: the archive's model.
            required: whether a model that is not installed is an error; otherwise it is None, too.

        Raises:
            ModelAbsent: it is required, and none is installed, or not the archive's.
        """
        try:
            model = self._loaded(active)
        except ModelAbsent:
            if required:
                raise
            return None
        return QueryEncoder(model, active) if active else None

    def forget(self) -> None:
        """Let the model go."""
        with self._lock:
            self._model = None

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
