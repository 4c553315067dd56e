"""The collector of reference cycles: when it runs, and what it examines.

What a program imports stays until its end, and an answer of the Bot API becomes tens of thousands of objects without a
cycle. Python's defaults examine all of them again and again: that takes a tenth of every start, and an eighth of the
time in which an answer is stored.
"""

from __future__ import annotations

import gc

_THRESHOLD = 200_000  # new objects; an answer of 10,000 events makes fewer. Python's default is 700


def collect_rarely() -> None:
    """Collect only when many new objects are there."""
    gc.set_threshold(_THRESHOLD, 20, 20)


def exempt_present() -> None:
    """Exempt every present object from collection, also from the one at the end of the process."""
    gc.freeze()
