"""How often Python looks for reference cycles in a process that lives for years and makes hardly any."""

from __future__ import annotations

import gc

_NEW = 200_000  # objects, more than an answer of 10,000 events becomes; Python's own threshold is 700


def look_seldom() -> None:
    """Leave what is there by now alone, and look through what comes later only when there is much of it.

    An answer of the Bot API becomes tens of thousands of objects without a cycle among them, and all of them would be
    looked through several times while they are stored: an eighth of the time that storing takes.
    """
    gc.freeze()
    gc.set_threshold(_NEW, 20, 20)
