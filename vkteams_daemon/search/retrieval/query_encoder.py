"""The query encoder: the active model, loaded once and kept for the next questions."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vkteams_daemon.config import Config
from vkteams_daemon.errors import ModelAbsent
from vkteams_daemon.store.embedding_models import StoredModel

if TYPE_CHECKING:
    from vkteams_daemon.embedding.model import Model


@dataclass(frozen=True, slots=True)
class QueryEncoder:
    """A loaded model, and its row in the archive."""

    model: Model
    stored: StoredModel


class QueryEncoderCache:
    """Loads the active model at the first question, and another one after the archive has switched.

    Safe for several threads.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._loaded: tuple[str, Model] | None = None

    def of(self, active: StoredModel | None, *, required: bool) -> QueryEncoder | None:
        """The encoder of the archive's vectors; None if there are no vectors yet.

        Args:
            active: the archive's active model.
            required: whether a model that is not installed is an error; otherwise the answer is None.

        Raises:
            ModelAbsent: the encoder is required, and no model is installed, or not the active one.
        """
        try:
            model = self._load(active)
        except ModelAbsent:
            if required:
                raise
            return None
        return QueryEncoder(model, active) if active else None

    def forget(self) -> None:
        """Release the loaded model."""
        with self._lock:
            self._loaded = None

    def _load(self, active: StoredModel | None) -> Model:
        with self._lock:
            if self._loaded is None or (active and self._loaded[0] != active.fingerprint):
                from vkteams_daemon.embedding.model import Model

                model = Model.load(_directory(self._config, active))
                self._loaded = (model.fingerprint, model)
            return self._loaded[1]


def _directory(config: Config, active: StoredModel | None) -> Path:
    """The directory of the active model; before the archive has vectors, that of the chosen model."""
    from vkteams_daemon.embedding import catalogue

    if active is None:
        name = catalogue.chosen_name(config)
        if name is None:
            raise ModelAbsent(
                "no embedding model is installed, so nothing can be found by meaning",
                hint="Install one: `vkteamsctl model install all-MiniLM-L6-v2`, and restart vkteamsd.",
            )
        return catalogue.find_directory(config.models_dir, name)
    for model in catalogue.installed_models(config.models_dir):
        if model.fingerprint == active.fingerprint:
            return model.directory
    raise ModelAbsent(
        f"the archive's vectors are of the model {active.name}, which is not installed here",
        hint=f"Install it: `vkteamsctl model install {active.name}`.",
    )
