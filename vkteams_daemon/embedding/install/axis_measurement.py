"""Measures a model's language axis, with texts of the samples and their translations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from vkteams_daemon.embedding.install import samples
from vkteams_daemon.embedding.language_axis import LanguageAxis
from vkteams_daemon.embedding.model import Vectors

_MIN_FOUND = 0.5  # the share of Russian texts beside which their own translation is the nearest
_DECIMALS = 5


def language_axis(embed: Callable[[Sequence[str]], Vectors]) -> LanguageAxis | None:
    """The axis; None for a model that does not read both languages.

    Args:
        embed: gives the vectors of messages, `(n, dims)`, rows of length 1.
    """
    # Translations say the same, so that nothing but the language is in the difference. What others say in an office
    # shows where along it messages lie.
    russian, english = (embed(texts) for texts in zip(*samples.TRANSLATIONS, strict=True))
    difference = russian.mean(axis=0) - english.mean(axis=0)
    length = float(np.linalg.norm(difference))
    if not length > 0:
        return None
    direction = difference / length
    russian, english = (vectors - np.outer(vectors @ direction, direction) for vectors in (russian, english))
    found = (russian @ english.T).argmax(axis=1) == np.arange(len(russian))
    if not found.mean() >= _MIN_FOUND:
        return None
    means = [float((embed(texts) @ direction).mean()) for texts in (samples.russian_texts(), samples.english_texts())]
    if not means[0] > means[1]:
        return None
    rounded = np.round(direction.astype(float), _DECIMALS)
    return LanguageAxis(tuple(rounded.tolist()), round(means[0], _DECIMALS), round(means[1], _DECIMALS))
