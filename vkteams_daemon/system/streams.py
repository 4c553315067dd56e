"""Standard input, output and error, which whoever starts a program may have closed, or led to a disk that is full."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

from vkteams_daemon.errors import CannotCreate


def open_streams() -> None:
    """Give the process standard streams where it was started without: a pipe must not become descriptor 0, 1 or 2."""
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


def say(text: str) -> None:
    """Say it on standard output, now; the help of argparse takes a full disk for success.

    Raises:
        BrokenPipeError: whoever read it has gone.
        CannotCreate: it takes no more.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise refused(sys.stdout, error) from error


def complain(text: str) -> None:
    """Say it on standard error; where that takes nothing, the exit code has to say it."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        silence(sys.stderr)


def silence(stream: TextIO) -> None:
    """Nothing more is tried on this stream, not even by the interpreter when it flushes it at exit."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def refused(stream: TextIO, error: OSError) -> CannotCreate:
    """The error to raise where standard output took no more; it is silent from then on."""
    silence(stream)
    return CannotCreate(f"standard output cannot be written: {error.strerror}")
