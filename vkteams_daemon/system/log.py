"""The log: a file that follows its own name, syslog, or standard error; text or JSON lines; no secret in any of them.

One event is one line. Control characters in a message are escaped and the lines of a traceback are indented, so that no
text from a chat or a server can look like a line of ours. A log that cannot be written never stops the daemon: lost
lines are counted, and a log file names their number as soon as it can be written again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import os
import stat
import sys
import threading
import traceback
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Any

from vkteams_daemon import plain_file
from vkteams_daemon.config import Config
from vkteams_daemon.errors import CannotCreate
from vkteams_daemon.system.redaction import Secrets
from vkteams_daemon.system.text import escape_controls

SYSLOG = Path("/dev/log")
_PACKAGE = "vkteams_daemon."
_DRIVER = "psycopg"

log = logging.getLogger(__name__)


class Log:
    """Takes over the logging of this process. Made once, after the daemon has detached.

    Args:
        config: `[log]`, the log file, and the secrets to mask.
        foreground: write to standard error, whatever `log.target` says.
        program: the name that stands in every line.

    Attributes:
        note: what the starter must tell the administrator (syslog cannot be reached), or "".

    Raises:
        CannotCreate: the log file cannot be written.
    """

    def __init__(self, config: Config, *, foreground: bool, program: str = "vkteamsd") -> None:
        self.note = ""
        self._program = program
        self.secrets = Secrets()
        self._debug = False
        self._level = config.log.level
        self._handler = self._make_handler(config, foreground)
        self.apply(config)
        root = logging.getLogger()
        for handler in list(root.handlers):
            root.removeHandler(handler)
        root.addHandler(self._handler)
        logging.raiseExceptions = False
        logging.captureWarnings(True)
        sys.excepthook = _log_uncaught
        sys.unraisablehook = lambda fault: _log_uncaught(fault.exc_type, fault.exc_value, fault.exc_traceback)
        threading.excepthook = lambda fault: _log_uncaught(fault.exc_type, fault.exc_value, fault.exc_traceback)
        if self.note:
            log.warning("%s", self.note)

    @property
    def lost(self) -> int:
        """The number of lines lost since the last one that was written."""
        return getattr(self._handler, "lost", 0)

    def apply(self, config: Config) -> None:
        """Apply the reloadable options of a configuration: level, format and new secrets."""
        self.secrets.learn(config)
        self._level = config.log.level
        formatter = _JsonFormatter if config.log.format == "json" else self._text_formatter
        self._handler.setFormatter(formatter(self.secrets, self._program))
        self._set_level()

    def toggle_debug(self) -> str:
        """Switch to debug, or back to the configured level; returns the level in force."""
        self._debug = not self._debug
        return self._set_level()

    def reopen(self) -> None:
        """Open the log file anew, so that the next line does not go into a file that was renamed."""
        if isinstance(self._handler, LogFile):
            self._handler.reopen()

    def _set_level(self) -> str:
        level = "debug" if self._debug else self._level
        logging.getLogger().setLevel(level.upper())
        # psycopg warns of every attempt of the pool to connect and of every error that ends a pipeline. Our own modules
        # log such a failure once.
        logging.getLogger(_DRIVER).setLevel(logging.DEBUG if level == "debug" else logging.ERROR)
        return level

    def _make_handler(self, config: Config, foreground: bool) -> logging.Handler:
        self._text_formatter: type[_Formatter] = _TextFormatter
        if foreground:
            return logging.StreamHandler(sys.stderr)
        if config.log.target == "syslog":
            try:
                handler = Syslog()
                self._text_formatter = _SyslogFormatter
                return handler
            except OSError as error:
                self.note = f"syslog cannot be reached at {SYSLOG} ({error.strerror}); the log is {config.log_file}"
        return LogFile(config.log_file, streams=True)


class LogFile(logging.handlers.WatchedFileHandler):
    """A log file with mode 0640, opened anew when another file has its name.

    Args:
        path: the file; its directory exists.
        streams: lead the process's standard output and error into the file too, for the messages of libraries and of
            the interpreter, a crash included.

    Attributes:
        lost: the number of lines lost since the last one that was written.

    Raises:
        CannotCreate: the file cannot be opened.
    """

    def __init__(self, path: Path, *, streams: bool = False) -> None:
        self.lost = 0
        self._streams = streams
        try:
            super().__init__(path, encoding="utf-8")
        except OSError as error:
            raise CannotCreate(f"{path}: the log cannot be written: {error.strerror}") from error

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record. A failure is counted and never raised."""
        try:
            if self.lost:
                self._report_lost()
            super().emit(record)
        except Exception:  # noqa: BLE001  what the caller does matters more than its log line
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Count the lost line, and close the stream together with what it could not write."""
        self.lost += 1
        self._close_stream()

    def reopen(self) -> None:
        """Close the file; the next line opens the file that has its name then."""
        with self._locked():
            self._close_stream()

    def _locked(self) -> Any:
        return self.lock if self.lock is not None else contextlib.nullcontext()

    def _close_stream(self) -> None:
        stream, self.stream = self.stream, None
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.close()

    def _report_lost(self) -> None:
        message = "%d lines of the log could not be written before this one"
        record = log.makeRecord(log.name, logging.ERROR, __file__, 0, message, (self.lost,), None)
        self.stream = self.stream or self._open()
        # The last line may have been cut in the middle.
        self.stream.write(f"\n{self.format(record)}\n")
        self.stream.flush()
        self.lost = 0

    def _open(self) -> TextIOWrapper:
        path = Path(self.baseFilename)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        if stat.S_IMODE(path.parent.stat().st_mode) & 0o022:
            flags |= os.O_NOFOLLOW  # another user could have made a link there
        descriptor = plain_file.open_plain(path, flags, 0o640)  # the reader of a FIFO could stop the daemon
        if self._streams:
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
        return os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace")


class Syslog(logging.handlers.SysLogHandler):
    """The system's log, facility daemon. A line that it does not take at once is lost: the daemon never waits for it.

    Attributes:
        lost: the number of lost lines.

    Raises:
        OSError: no program listens at its socket.
    """

    def __init__(self) -> None:
        self.lost = 0
        super().__init__(str(SYSLOG), facility=self.LOG_DAEMON)
        self.ident = f"vkteamsd[{os.getpid()}]: "
        self.append_nul = False
        getattr(self, "socket").close()  # noqa: B009
        self._connect_unixsocket(str(SYSLOG))  # the base class does not raise when this fails

    def handleError(self, record: logging.LogRecord) -> None:
        """Count the lost line."""
        self.lost += 1

    def _connect_unixsocket(self, address: str) -> None:
        super()._connect_unixsocket(address)  # type: ignore[misc]
        getattr(self, "socket").setblocking(False)  # noqa: B009  the stubs do not know it


class _Formatter(logging.Formatter):
    """The parts of a record as text without secrets."""

    def __init__(self, secrets: Secrets, program: str) -> None:
        super().__init__()
        self._secrets = secrets
        self._program = program

    def message(self, record: logging.LogRecord) -> str:
        """The record's message. One whose arguments do not fit its format is shown together with them, not lost."""
        try:
            text = record.getMessage()
        except Exception as error:  # noqa: BLE001  an argument's __str__ may raise anything
            text = f"{record.msg} {record.args!r} (cannot be formatted: {type(error).__name__})"
        return self._secrets.hide(text)

    def traceback_text(self, record: logging.LogRecord) -> str:
        """The traceback and the stack of a record, or ""."""
        parts = []
        if record.exc_info and record.exc_info[1] is not None:
            parts.append("".join(traceback.format_exception(record.exc_info[1])).rstrip())
        elif record.exc_text:
            parts.append(record.exc_text)
        if record.stack_info:
            parts.append(record.stack_info)
        return self._secrets.hide("\n".join(parts))


class _TextFormatter(_Formatter):
    """`2026-11-24T08:52:01.123+03:00 vkteamsd[812] INFO daemon.polling.poller: message`, local time with its offset."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).astimezone().isoformat(timespec="milliseconds")
        return f"{moment} {self._program}[{record.process}] {self.body(record)}"

    def body(self, record: logging.LogRecord) -> str:
        """Level, logger and message; a traceback on indented lines below."""
        line = f"{record.levelname} {record.name.removeprefix(_PACKAGE)}: {escape_controls(self.message(record))}"
        lines = self.traceback_text(record).splitlines()
        return "\n  ".join([line, *(escape_controls(text) for text in lines)])


class _SyslogFormatter(_TextFormatter):
    """A text line without time and process, which syslog adds; a traceback's lines are joined by ` | `."""

    def format(self, record: logging.LogRecord) -> str:
        return self.body(record).replace("\n  ", " | ")


class _JsonFormatter(_Formatter):
    """One JSON object a line, times in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name.removeprefix(_PACKAGE),
            "pid": record.process,
            "thread": record.threadName,
            "message": self.message(record),
        }
        exception = self.traceback_text(record)
        if exception:
            fields["exception"] = exception
        return json.dumps(fields, ensure_ascii=False)


def _log_uncaught(kind: type[BaseException], value: BaseException | None, trace: TracebackType | None) -> None:
    if value is not None and not issubclass(kind, SystemExit):
        log.critical("an exception that nobody caught: %s", value, exc_info=(kind, value, trace))
