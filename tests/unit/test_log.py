from __future__ import annotations

import errno
import json
import logging
import logging.handlers
import os
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.harness.waiting import until
from vkteams_daemon.config import Config
from vkteams_daemon.errors import CannotCreate
from vkteams_daemon.system import log as log_module
from vkteams_daemon.system.log import Log, LogFile

TOKEN = "001.0123456789.9876543210:1000000001"
log = logging.getLogger("vkteams_daemon.daemon.polling.poller")


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Log takes over the whole process's logging; the test process gets its own back."""
    root = logging.getLogger()
    kept = (root.handlers[:], root.level, logging.raiseExceptions)
    hooks = (sys.excepthook, sys.unraisablehook, threading.excepthook)
    descriptors = [os.dup(number) for number in (1, 2)]
    yield
    for handler in root.handlers:
        if handler not in kept[0]:
            handler.close()
    root.handlers[:], logging.raiseExceptions = kept[0], kept[2]
    root.setLevel(kept[1])
    logging.getLogger("psycopg").setLevel(logging.NOTSET)
    logging.captureWarnings(False)
    sys.excepthook, sys.unraisablehook, threading.excepthook = hooks
    for number, descriptor in zip((1, 2), descriptors, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)


def _config(tmp_path: Path, **options: Any) -> Config:
    sections: dict[str, dict[str, Any]] = {
        "daemon": {"log_file": str(tmp_path / "x.log")},
        "api": {"token": TOKEN, "proxy": "http://me:pr%40xyPass@proxy:3128"},
        "database": {"url": "postgresql://vk:dbPass%2Fword@db/archive"},
    }
    for name, value in options.items():
        section, key = name.split("__")
        sections.setdefault(section, {})[key] = value
    return msgspec.convert(sections, Config)


def _lines(tmp_path: Path) -> list[str]:
    return (tmp_path / "x.log").read_text(encoding="utf-8").splitlines()


def test_a_text_line_has_its_time_with_offset_process_level_and_place(tmp_path: Path) -> None:
    Log(_config(tmp_path), foreground=False)
    log.info("went %s", "well")
    moment, process, level, place, text = _lines(tmp_path)[0].split(" ", 4)
    assert datetime.fromisoformat(moment).utcoffset() is not None
    assert (process, level, place, text) == (f"vkteamsd[{os.getpid()}]", "INFO", "daemon.polling.poller:", "went well")
    assert stat.S_IMODE((tmp_path / "x.log").stat().st_mode) & 0o137 == 0


def test_no_message_can_look_like_a_line_of_ours(tmp_path: Path) -> None:
    Log(_config(tmp_path), foreground=False)
    log.info("title: %s", "a\n2026-01-01T00:00:00.000+00:00 vkteamsd[1] CRITICAL fake\x1b[2J\u2028")
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        log.exception("trouble")
    lines = _lines(tmp_path)
    assert lines[0].endswith(r"a\n2026-01-01T00:00:00.000+00:00 vkteamsd[1] CRITICAL fake\x1b[2J\u2028")
    assert all(line.startswith("  ") for line in lines[2:])
    assert lines[-1] == "  second"


def test_json_lines_are_objects_with_utc_times(tmp_path: Path) -> None:
    Log(_config(tmp_path, log__format="json"), foreground=False)
    log.warning("привет\n%s", "мир")
    log.error("half \ud83d a letter")
    try:
        raise ValueError(TOKEN)
    except ValueError:
        log.exception("trouble")
    first, second, third = map(json.loads, _lines(tmp_path))
    assert first["message"] == "привет\nмир"
    assert first["level"] == "warning"
    assert first["time"].endswith("Z")
    assert second["message"] == "half \ud83d a letter"
    assert third["exception"].endswith("ValueError: ***")


@pytest.mark.parametrize("format", ["text", "json"])
def test_no_secret_is_ever_written(tmp_path: Path, format: str) -> None:
    logs = Log(_config(tmp_path, log__format=format), foreground=False)
    secrets = [TOKEN, TOKEN.replace(":", "%3A"), TOKEN.replace(":", "%3a"), "dbPass/word", "dbPass%2Fword"]
    secrets += ["pr@xyPass", "pr%40xyPass"]
    for secret in secrets:
        log.error("plain %s", secret)
        log.error(f"GET /events/get?token={secret}&lastEventId=1")
        log.error("many %r", {"url": secret, "raw": secret.encode()})
        try:
            raise RuntimeError(secret)
        except RuntimeError as error:
            log.exception("caught", stack_info=True)
            try:
                raise KeyError(secret) from error
            except KeyError:
                log.error("chained", exc_info=True)
    logs.apply(_config(tmp_path, log__format=format, api__token="002.222:333"))
    log.error("old %s and new 002.222:333", TOKEN)
    text = (tmp_path / "x.log").read_text(encoding="utf-8")
    assert [secret for secret in [*secrets, "002.222:333"] if secret in text] == []
    assert "old *** and new ***" in text


def test_a_thread_that_fails_is_in_the_log(tmp_path: Path) -> None:
    Log(_config(tmp_path), foreground=False)

    def fail() -> None:
        raise RuntimeError(f"with {TOKEN}")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    assert "CRITICAL system.log: an exception that nobody caught: with ***" in _lines(tmp_path)[0]
    assert "in fail" in (tmp_path / "x.log").read_text()


def test_standard_error_of_libraries_is_in_the_log(tmp_path: Path) -> None:
    Log(_config(tmp_path), foreground=False)
    os.write(2, b"free(): invalid pointer\n")
    assert _lines(tmp_path) == ["free(): invalid pointer"]


def test_after_rotation_the_next_line_is_in_the_new_file(tmp_path: Path) -> None:
    logs = Log(_config(tmp_path), foreground=False)
    log.info("one")
    (tmp_path / "x.log").rename(tmp_path / "x.log.1")
    log.info("two")
    assert _lines(tmp_path)[0].endswith("two")
    (tmp_path / "x.log").rename(tmp_path / "x.log.2")
    (tmp_path / "x.log").touch()
    logs.reopen()
    log.info("three")
    os.write(2, b"four\n")
    assert _lines(tmp_path)[0].endswith("three")
    assert _lines(tmp_path)[1] == "four"


def test_log_counts_lost_lines_until_its_directory_is_back(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    directory.mkdir()
    logs = Log(_config(tmp_path, daemon__log_file=str(directory / "x.log")), foreground=False)
    log.info("one")
    directory.rename(tmp_path / "away")
    log.info("two")
    log.info("three")
    assert logs.lost == 2
    directory.mkdir()
    log.info("four")
    assert logs.lost == 0
    lines = [line for line in (directory / "x.log").read_text().splitlines() if line]
    assert lines[0].endswith("2 lines of the log could not be written before this one")
    assert lines[1].endswith("four")


def test_full_disk_loses_lines_and_garbles_none(tmp_path: Path) -> None:
    """/dev/full takes no byte; then there is room again."""
    path = tmp_path / "x.log"
    path.symlink_to("/dev/full")
    logs = Log(_config(tmp_path), foreground=False)
    for number in range(3):
        log.info("lost %d %s", number, "x" * 10_000)
    assert logs.lost == 3
    path.unlink()
    log.info("kept")
    lines = [line for line in path.read_text().splitlines() if line]
    assert len(lines) == 2
    assert lines[0].endswith("3 lines of the log could not be written before this one")
    assert lines[1].endswith("kept")


def test_link_in_a_directory_open_to_all_is_not_followed(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    (tmp_path / "x.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CannotCreate, match=r"x\.log: the log cannot be written: Too many levels of symbolic links"):
        Log(_config(tmp_path), foreground=False)
    assert not (tmp_path / "elsewhere").exists()


def test_debug_is_switched_on_and_off_again(tmp_path: Path) -> None:
    logs = Log(_config(tmp_path, log__level="warning"), foreground=False)
    log.info("no")
    assert logs.toggle_debug() == "debug"
    log.debug("yes")
    logs.apply(_config(tmp_path, log__level="error"))
    log.debug("still")
    assert logs.toggle_debug() == "error"
    log.warning("no")
    assert [line.rpartition(" ")[2] for line in _lines(tmp_path)] == ["yes", "still"]


@pytest.mark.parametrize("name", ["psycopg", "psycopg.pool"])
def test_warnings_of_the_driver_are_logged_only_at_debug(tmp_path: Path, name: str) -> None:
    logs = Log(_config(tmp_path), foreground=False)
    driver = logging.getLogger(name)
    for debug in (False, True, False):
        driver.warning("error connecting, at debug: %s", debug)
        logs.toggle_debug()
    driver.error("worse")
    said = [line.partition(f"{name}: ")[2] for line in _lines(tmp_path)]
    assert [line for line in said if line] == ["error connecting, at debug: True", "worse"]


def test_messages_that_cannot_be_formatted_are_shown_as_they_are(tmp_path: Path) -> None:
    Log(_config(tmp_path), foreground=False)
    log.info("%d events", "many")
    assert "%d events ('many',) (cannot be formatted: TypeError)" in _lines(tmp_path)[0]


def test_foreground_log_is_standard_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Log(_config(tmp_path, log__target="syslog"), foreground=True, program="vkteamsctl")
    log.info("hello")
    sys.stderr.flush()
    assert f" vkteamsctl[{os.getpid()}] INFO daemon.polling.poller: hello" in capfd.readouterr().err
    assert not (tmp_path / "x.log").exists()


def test_syslog_gets_ident_and_facility(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = tmp_path / "log"
    monkeypatch.setattr(log_module, "SYSLOG", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(address))
        logs = Log(_config(tmp_path, log__target="syslog"), foreground=False)
        assert logs.note == ""
        log.error("went\nwrong with %s", TOKEN)
        said = server.recv(65536).decode()
    assert said == rf"<27>vkteamsd[{os.getpid()}]: ERROR daemon.polling.poller: went\nwrong with ***"


def test_syslog_that_does_not_listen_never_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = tmp_path / "log"
    monkeypatch.setattr(log_module, "SYSLOG", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(address))
        logs = Log(_config(tmp_path, log__target="syslog"), foreground=False)
        for number in range(2000):
            log.info("line %d", number)
        assert logs.lost > 0


def test_log_is_the_file_and_says_so_where_syslog_cannot_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "SYSLOG", tmp_path / "nothing")
    logs = Log(_config(tmp_path, log__target="syslog"), foreground=False)
    assert logs.note.startswith("syslog cannot be reached")
    assert "No such file or directory" in logs.note
    assert logs.note in _lines(tmp_path)[0]


def test_logging_never_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Log(_config(tmp_path), foreground=False)

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(LogFile, "reopenIfNeeded", broken)
    thread = threading.Thread(target=log.info, args=("a line",))
    thread.start()
    until(lambda: not thread.is_alive())
    log.info("another")
