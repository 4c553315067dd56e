"""The language axis of a model, and a query's vector that is level with messages of both languages.

A multilingual model puts two messages of one language nearer together than a message and its translation. Among
thousands of Russian messages, a Russian question would never reach the English message that answers it. The axis is the
direction from the model's vectors of English texts to those of their Russian translations. Without its part along the
axis, a query's vector is as near to one language as to the other on average; it finds the candidates. Their order comes
from the plain cosines, and those of the other language are lifted by what the languages differ: so the messages of
one language keep the order that the model gives them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LanguageAxis:
    """The axis of a model that reads Russian and English.

    Attributes:
        direction: `(dims,)`, of length 1.
        russian: the mean of Russian messages along it.
        english: the mean of English messages along it, which is smaller.
    """

    direction: tuple[float, ...]
    russian: float
    english: float


@dataclass(frozen=True, slots=True)
class QueryVector:
    """A query's vector, and how cosines with it are lifted.

    Attributes:
        plain: `(dims,)`, of length 1; zeros if the model knows no token of the query.
        level: `plain` without its part along the axis, of length 1; finds candidates. Without an axis it is `plain`.
        share: the part of `plain` along the axis.
        middle: where along the axis one language ends and the other begins.
        lift: what the cosine of a message in the other language gains; 0 without an axis.
    """

    plain: Sequence[float]
    level: Sequence[float]
    share: float = 0.0
    middle: float = 0.0
    lift: float = 0.0

    def cosine(self, plain: float, level: float) -> float:
        """The cosine of a message with the query, lifted if the message is in the other language.

        Args:
            plain: the cosine of its vector with `plain`.
            level: the cosine of its vector with `level`.
        """
        if not self.lift:
            return plain
        along = (plain - math.sqrt(1 - self.share**2) * level) / self.share
        same_language = (along > self.middle) == (self.share > 0)
        return plain if same_language else min(plain + self.lift, 1.0)


def query_vector(plain: Sequence[float], axis: LanguageAxis | None) -> QueryVector:
    """The query of this vector, by a model with this axis, or without one.

    Args:
        plain: `(dims,)`, of length 1, or zeros.
        axis: of the model.
    """
    share = math.fsum(a * b for a, b in zip(plain, axis.direction, strict=True)) if axis else 0.0
    if axis is None or not 0 < abs(share) < 1:
        return QueryVector(plain, plain)
    length = math.sqrt(1 - share**2)
    level = [(number - share * along) / length for number, along in zip(plain, axis.direction, strict=True)]
    middle = (axis.russian + axis.english) / 2
    return QueryVector(plain, level, share, middle, abs(share) * (axis.russian - axis.english))
