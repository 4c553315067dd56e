"""Standard error that never blocks: neither its reader nor the disk behind it stops the server or breaks a call."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import NoReturn

from vkteams_daemon.serving.background_text import BackgroundText


class StandardError(BackgroundText):
    """A text stream; a thread of its own writes the text to descriptor 2."""

    def __init__(self) -> None:
        super().__init__(partial(os.write, 2), _lost, "standard-error")

    def fileno(self) -> int:
        """The descriptor."""
        return 2


def _lost(lines: int) -> str:
    # The last line may have been cut in the middle.
    return f"\n{lines} lines were lost here, because standard error took no more\n"


def end_process(code: int) -> NoReturn:
    """End the process at once: threads that wait for something would keep it alive. What was logged is written."""
    if isinstance(sys.stderr, StandardError):
        sys.stderr.end()
    os._exit(code)
