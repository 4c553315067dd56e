"""Standard input, output and error: a program may be started with one of them closed, or with a full disk behind it."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

from vkteams_daemon.errors import CannotCreate


def open_streams() -> None:
    """Open /dev/null as each standard stream that the process was started without.

    Otherwise the next pipe or file that is opened becomes descriptor 0, 1 or 2.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "r" if descriptor == 0 else "w", closefd=False))


def write_stdout(text: str) -> None:
    """Write the text to standard output and flush it. (argparse prints its help without noticing a full disk.)

    Raises:
        BrokenPipeError: the reader has gone.
        CannotCreate: standard output takes no more.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise stdout_lost(error) from error


def write_stderr(text: str) -> None:
    """Write the text to standard error and flush it; if that fails, only the exit code tells of the error."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        silence(sys.stderr)


def silence(stream: TextIO) -> None:
    """Lead the stream to /dev/null, so that even the interpreter's last flush at exit does not fail."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def stdout_lost(error: OSError) -> CannotCreate:
    """Silence standard output, which takes no more; returns the error to raise."""
    silence(sys.stdout)
    return CannotCreate(f"standard output cannot be written: {error.strerror}")
