"""The progress of a long command: a bar on standard error, if that is a terminal."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class Bar:
    """A bar for a `with` block; each call of it shows how much is done.

    Args:
        title: what is going on, in a word.
        unit: what is counted.
    """

    def __init__(self, title: str, unit: str) -> None:
        self._title = title
        self._unit = unit
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> Bar:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )  # fmt: skip

            counts = [DownloadColumn()] if self._unit == "bytes" else [MofNCompleteColumn(), TextColumn(self._unit)]
            self._progress = Progress(
                TextColumn("{task.description}"), BarColumn(), *counts, TimeRemainingColumn(),
                console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self._progress.start()
            self._task = self._progress.add_task(self._title, total=None)
        return self

    def __call__(self, done: int, total: int) -> None:
        """Show that so many of the total are done."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=total)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
