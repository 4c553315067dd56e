"""What only looks like a file is never waited for, and told in one sentence, whichever of our files it stands for."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vkteams_daemon import config, plain_file
from vkteams_daemon.daemon import status
from vkteams_daemon.daemon.polling import spool
from vkteams_daemon.daemon.polling.acknowledged import AcknowledgedFile
from vkteams_daemon.daemon.polling.spool import Spool
from vkteams_daemon.daemon.process.pidfile import PidFile
from vkteams_daemon.embedding import model_info
from vkteams_daemon.errors import VkTeamsError
from vkteams_daemon.mcp import tokens
from vkteams_daemon.serving import issuer
from vkteams_daemon.system.log import LogFile
from vkteams_daemon.web import session

PACKAGE = Path(config.__file__).parent
# Who may open files otherwise: what the kernel shows, what the package brings, a new file, the command line's file.
OPENERS = {
    "plain_file.py", "ctl/commands/complete.py", "ctl/commands/config_init.py", "ctl/commands/config_install.py",
    "ctl/commands/daemon/systemd.py", "ctl/commands/database/backup.py", "daemon/polling/event_printer.py",
    "daemon/polling/spool.py", "daemon/process/pidfile.py", "daemon/process/pidfile_holder.py", "daemon/status.py",
    "embedding/install/blocks.py", "embedding/install/encoder.py", "embedding/install/installer.py",
    "embedding/query_socket.py", "embedding/unigram.py", "embedding/install/sources.py", "mcp/stdio.py",
    "simulator/script.py",
    "store/bundled/cluster.py", "store/bundled/programs.py", "store/schema.py", "system/files.py", "system/memory.py",
    "system/processes.py", "system/streams.py", "web/language.py", "web/session.py",
    "web/static_files.py",
}  # fmt: skip


_SENTENCES = "it is (a FIFO|a socket|a device) and not a file|not a plain file|symbolic link|other users may read"


def fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


def listening_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
        path.chmod(0o600)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _tells(call: Callable[[Path], Any]) -> Callable[[Path, pytest.LogCaptureFixture], str]:
    """What the error says, or the log."""

    def told(path: Path, caplog: pytest.LogCaptureFixture) -> str:
        try:
            call(path)
        except (VkTeamsError, OSError) as error:
            return f"{error} {getattr(error, 'hint', '')}"
        return caplog.text

    return told


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "configuration": ("vkteamsd.toml", lambda path: config.load(str(path), environ={})),
    "token file": ("token", lambda path: config.load(None, environ={
        "VKTEAMS_BOT_CONFIG": "/dev/null", "VKTEAMS_API_TOKEN_FILE": str(path)})),
    "credential": ("token", lambda path: config.load(None, environ={
        "VKTEAMS_BOT_CONFIG": "/dev/null", "CREDENTIALS_DIRECTORY": str(path.parent)})),
    "tokens file": ("tokens.toml", tokens.read_tokens),
    "users file": ("users.toml", lambda path: issuer._read_users(str(path))),
    "key of the page": ("web.key", session.read_key),
    "status file": ("vkteamsd.status.json", status.read),
    "PID file": ("vkteamsd.pid", lambda path: PidFile(path).acquire()),
    "log": ("vkteamsd.log", LogFile),
    "acknowledged": ("1.acknowledged", lambda path: AcknowledgedFile(path.parent, "1")),
    "spool": ("1.spool", lambda path: Spool(path.parent, "1", max_bytes=1000)),
    "spool beside the daemon": ("1.spool", lambda path: list(spool.read_waiting(path.parent))),
    "model": ("model.toml", lambda path: model_info.read(path.parent)),
}  # fmt: skip


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", [fifo, listening_socket, device])
@pytest.mark.parametrize("what", READERS)
def test_what_is_no_file_is_told_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str, kind: Callable[[Path], None]
) -> None:
    name, call = READERS[what]
    path = tmp_path / name
    kind(path)
    if (what, kind) == ("log", device):
        return  # a log may go to a terminal
    told = _tells(call)(path, caplog)
    assert str(path) in told
    assert re.search(_SENTENCES, told), told


def test_a_file_is_read_while_null_is_empty_and_a_log_may_be_a_device(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"\xef\xbb\xbftext")
    assert plain_file.read_text(file) == "text"
    assert plain_file.read(Path("/dev/null")) == b""
    os.close(plain_file.open_plain(Path("/dev/full"), os.O_WRONLY))
    for flags in (os.O_RDONLY, os.O_RDWR):
        with pytest.raises(OSError, match="it is a device and not a file"):
            plain_file.open_plain(Path("/dev/zero"), flags)
    with pytest.raises(IsADirectoryError):
        plain_file.read(tmp_path)


def test_a_fifo_with_a_writer_is_refused_as_well(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = threading.Thread(target=lambda: os.close(os.open(path, os.O_WRONLY)))
    writer.start()
    writer.join(20)
    with pytest.raises(OSError, match="it is a FIFO and not a file"):
        plain_file.read(path)
    os.close(reading)


def test_nobody_else_opens_files_that_may_be_something_else() -> None:
    opens = re.compile(r"\.read_text\(|\.read_bytes\(|\bos\.open\(|\.open\(\"|(?<!def )(?<![\w.])open\(")
    found = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        if opens.search(file.read_text(encoding="utf-8").replace("plain_file.read_text(", ""))
    }
    assert found == OPENERS, "open files with plain_file, or say here why not"
