"""The query encoders: of the active models, in the running daemon or loaded here and kept for the next questions."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vkteams_daemon.config import Config
from vkteams_daemon.embedding import query_socket
from vkteams_daemon.embedding.language_axis import QueryVector
from vkteams_daemon.errors import ModelAbsent, PermissionRefused
from vkteams_daemon.store.embedding_models import StoredModel

if TYPE_CHECKING:
    from vkteams_daemon.embedding.model import Model


@dataclass(frozen=True, slots=True)
class QueryEncoder:
    """A model's row in the archive, and its encoder.

    Attributes:
        stored: the row.
        vector: gives a query's vector.
    """

    stored: StoredModel
    vector: Callable[[str], QueryVector]


class QueryEncoderCache:
    """Finds the encoders of the active models: loaded here before, in the daemon, or loaded now.

    Safe for several threads.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._loaded: dict[str, Model] = {}  # by fingerprint

    def of(self, active: Sequence[StoredModel], *, required: bool) -> list[QueryEncoder]:
        """The encoders of the archive's vectors; one that is neither in the daemon nor installed here is left out.

        Args:
            active: the archive's active models; empty before it has vectors.
            required: whether it is an error that there is no encoder.

        Raises:
            ModelAbsent: an encoder is required, and no model is installed, or none of the active ones.
            PermissionRefused: one is required, the daemon gives none, and this user may not read the models.
        """
        try:
            if not active:
                _check_chosen(self._config)
            return self._encoders(active)
        except (ModelAbsent, PermissionRefused):
            if required:
                raise
            return []

    def forget(self) -> None:
        """Release the loaded models."""
        with self._lock:
            self._loaded = {}

    def _encoders(self, active: Sequence[StoredModel]) -> list[QueryEncoder]:
        fingerprints = {stored.fingerprint for stored in active}
        with self._lock:
            self._loaded = {known: model for known, model in self._loaded.items() if known in fingerprints}
            missing = fingerprints - self._loaded.keys()
        sockets = self._sockets() if missing else {}
        encoders = []
        closed: PermissionRefused | None = None
        for stored in active:
            if stored.fingerprint in missing and stored.fingerprint in sockets:
                ask = partial(self._ask, sockets[stored.fingerprint], stored)
                encoders.append(QueryEncoder(stored, ask))
                continue
            try:
                model = self._load(stored)
            except PermissionRefused as error:  # a reader has the models of the daemon alone
                closed = PermissionRefused(f"{error}, and no running daemon has them loaded", hint="Start vkteamsd.")
                continue
            if model:
                encoders.append(QueryEncoder(stored, model.query))
        if active and not encoders:
            raise closed or _absent(active)
        return encoders

    def _sockets(self) -> dict[str, Path]:
        """The query sockets of the daemons that run here, by the fingerprints of the models that they have loaded."""
        files = [query_socket.path(self._config, role) for role in ("embed", "all")]
        return {fingerprint: file for file in files for fingerprint in query_socket.loaded(file)}

    def _ask(self, file: Path, stored: StoredModel, text: str) -> QueryVector:
        """The vector that the daemon gives; if it gives none any more, the model is loaded here."""
        vector = query_socket.vector(file, stored.fingerprint, text)
        if vector is not None and len(vector.plain) == len(vector.level) == stored.dims:
            numbers = (*vector.plain, *vector.level, vector.share, vector.middle, vector.lift)
            if all(map(math.isfinite, numbers)) and abs(vector.share) < 1:
                return vector
        model = self._load(stored)
        if model is None:
            raise _absent([stored])
        return model.query(text)

    def _load(self, stored: StoredModel) -> Model | None:
        """The model, loaded here; None if it is not installed."""
        with self._lock:
            if stored.fingerprint not in self._loaded:
                from vkteams_daemon.embedding import catalogue
                from vkteams_daemon.embedding.model import Model

                directory = catalogue.find_fingerprint(self._config.models_dir, stored.fingerprint)
                if directory is None:
                    return None
                self._loaded[stored.fingerprint] = Model.load(directory)
            return self._loaded[stored.fingerprint]


def _absent(active: Sequence[StoredModel]) -> ModelAbsent:
    names = " and ".join(stored.name for stored in active)
    return ModelAbsent(
        f"the archive's vectors are of {names}, which is not installed here",
        hint=f"Install it: `vkteamsctl model install {active[0].name}`.",
    )


def _check_chosen(config: Config) -> None:
    """Check that a chosen model is installed, which will give the archive its vectors.

    Raises:
        ModelAbsent: no model is chosen, or a chosen one is not installed.
    """
    from vkteams_daemon.embedding import catalogue

    names = catalogue.chosen_names(config)
    if not names:
        raise ModelAbsent(
            "no embedding model is installed, so nothing can be found by meaning",
            hint="Install one: `vkteamsctl model install`, and restart vkteamsd.",
        )
    for name in names:
        catalogue.find_directory(config.models_dir, name)
