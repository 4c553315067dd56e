"""Shows a long answer through the person's pager: PAGER, otherwise less, if it is installed."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess

_LESS = ["less", "-FRX"]  # quits if it fits on the screen, shows colours, leaves the text on the screen


def page(text: str) -> bool:
    """Show the text through the pager and wait until the person has read it; False if nothing was shown.

    A text that fits on the terminal needs no pager, and `PAGER=` or `PAGER=cat` wants none.
    """
    if text.count("\n") < shutil.get_terminal_size().lines or os.environ.get("TERM") == "dumb":
        return False
    try:
        command = shlex.split(os.environ.get("PAGER", "")) if "PAGER" in os.environ else _LESS
    except ValueError:  # a quote without its end
        return False
    if not command or command == ["cat"] or not shutil.which(command[0]):
        return False
    # less shows the colours of a text only if it is told to; a person's own LESS stands.
    environ = {"LESS": "FRX", **os.environ}
    try:
        with subprocess.Popen(command, stdin=subprocess.PIPE, env=environ) as process:
            assert process.stdin
            with contextlib.suppress(BrokenPipeError):  # the person has seen enough
                process.stdin.write(text.encode("utf-8", "replace"))
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            while True:
                try:
                    process.wait()
                    break
                except KeyboardInterrupt:
                    continue  # Ctrl-C is for the pager
    except OSError:
        return False
    return True
