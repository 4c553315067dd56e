"""The audit's own files: one for each day (UTC) of a directory, and none that is older than the retention.

The page, the MCP server and others of them may write into one directory: a line is appended in one piece. Each of them
erases what is too old: when it starts, when a day begins, and once an hour while nobody asks.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from vkteams_daemon import plain_file
from vkteams_daemon.config import Config, parse_duration
from vkteams_daemon.errors import CannotCreate
from vkteams_daemon.serving.background_text import BackgroundText
from vkteams_daemon.system.user import Owner, daemon_user

log = logging.getLogger(__name__)

_NAME = "audit-{}.jsonl"
_NAMES = re.compile(r"audit-(\d{4}-\d{2}-\d{2})\.jsonl")
_MODE = 0o600  # the lines say who has asked what


class AuditFiles:
    """The file of the day, and what becomes of those before it.

    Args:
        directory: made where it is missing.
        retention: the age at which a day is erased; None keeps all.
        owner: whose the files are where root serves; None is the user of this process.
        clock: the time of the day.

    Raises:
        CannotCreate: this user may not write there.
    """

    def __init__(
        self,
        directory: Path,
        retention: timedelta | None,
        owner: Owner | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._directory = directory
        self._retention = retention
        self._acting = owner.acting if owner else contextlib.nullcontext
        self._clock = clock
        self._day: date | None = None
        self._file: int | None = None
        self._failed = False
        try:
            with self._acting():
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._open(clock().date())
        except OSError as error:
            raise CannotCreate(f"access.audit_dir: {directory} cannot be written: {error.strerror}") from error

    def put(self, content: bytes) -> int:
        """Append to the file of the day; returns how many bytes it took.

        Raises:
            OSError: it takes none.
        """
        try:
            today = self._clock().date()
            if today != self._day or self._file is None:
                self._open(today)
            assert self._file is not None
            taken = os.write(self._file, content)
        except OSError as error:
            if not self._failed:
                log.error("the audit cannot be written to %s: %s", self._directory, error.strerror)
            self._failed = True
            raise
        self._failed = False
        return taken

    def erase_old(self) -> None:
        """Erase the files of the days that are older than the retention."""
        if self._retention is None:
            return
        before = (self._clock() - self._retention).date()
        with contextlib.suppress(OSError), self._acting():
            for path in self._directory.iterdir():
                match = _NAMES.fullmatch(path.name)
                if match and date.fromisoformat(match[1]) < before:
                    path.unlink(missing_ok=True)
                    log.info("the audit of %s is older than access.audit_retention and was erased", match[1])

    def close(self) -> None:
        """Close the file of the day."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self, day: date) -> None:
        self.close()
        path = self._directory / _NAME.format(day)
        with self._acting():
            self._file = plain_file.open_plain(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, _MODE)
        self._day = day
        self.erase_old()


def open_audit(config: Config) -> BackgroundText | None:
    """The stream of the audit's own files; None where the audit goes to standard error.

    Raises:
        CannotCreate: the files cannot be written.
    """
    options = config.access
    if not options.audit_dir:
        return None
    retention = timedelta(seconds=parse_duration(options.audit_retention)) if options.audit_retention else None
    files = AuditFiles(Path(options.audit_dir), retention, daemon_user(config.daemon.user))
    return BackgroundText(files.put, _lost, "audit", idle=files.erase_old)


def _lost(lines: int) -> str:
    # The last line may have been cut in the middle.
    return "\n" + json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "lost": lines}) + "\n"
