"""Installing a model: from a published encoder, or from a model that is installed elsewhere, to a model's directory."""

import contextlib
from collections.abc import Callable, Iterator

Report = Callable[[str], None]  # gets a line before each long step
Progress = Callable[[int, int], None]  # gets the bytes that have arrived, and all bytes
Download = Callable[[], contextlib.AbstractContextManager[Progress]]  # shows one download while it lasts


@contextlib.contextmanager
def _unseen() -> Iterator[Progress]:
    yield lambda done, total: None


unseen: Download = _unseen
"""Shows nothing of a download."""
