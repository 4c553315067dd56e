"""`vkteamsctl config init`: with options alone, and on a terminal that asks until the answers are right."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.daemon import ROOT
from tests.harness.fork_server import python
from tests.harness.simulator import Simulator
from vkteams_daemon import config as configuration
from vkteams_daemon.ctl.commands import config_readers
from vkteams_daemon.ctl.main import main
from vkteams_daemon.secret_exposure import exposed_files

SCRIPT = str(ROOT / "bin" / "vkteamsctl")


@pytest.fixture
def environ(open_tmp: Path) -> dict[str, str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("VKTEAMS_", "PG", "DATABASE"))}
    return environ | {"XDG_CONFIG_HOME": str(open_tmp / "config"), "HOME": str(open_tmp)}


def run(environ: dict[str, str], *words: str, stdin: str = "", code: int = 0) -> str:
    done = subprocess.run(
        python(SCRIPT, "config", "init", *words), env=environ, input=stdin, text=True, capture_output=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if code else done.stdout


def test_options_alone_write_a_configuration_that_the_daemon_takes(
    environ: dict[str, str], open_tmp: Path, simulator: Simulator, database_url: str
) -> None:
    file = open_tmp / "etc" / "vkteamsd.toml"
    out = run(
        environ, "--file", str(file), "--url", simulator.url, "--token-from", "-", "--database-url", database_url,
        "--chat-id", "1@chat.agent", "--chat-id", "2@chat.agent", "--retention", "52w", stdin=f"{simulator.token}\n",
    )  # fmt: skip
    assert "the token is of the bot" in out
    config = configuration.load(file, environ={})
    assert (config.api.url, config.api.token, config.database.url) == (simulator.url, simulator.token, database_url)
    assert (config.storage.chat_ids, config.storage.retention) == (("1@chat.agent", "2@chat.agent"), "52w")
    assert simulator.token not in file.read_text(), "the token has a file of its own"
    assert exposed_files(config, {}) == []
    # The system's user need not exist here, and root starts nothing without it.
    allowed = environ | {"VKTEAMS_DAEMON_ALLOW_ROOT": "true"}
    check = subprocess.run(python(SCRIPT, "--config", str(file), "config", "check"), env=allowed, check=False)
    assert check.returncode == 0
    assert run(environ, "--file", str(file), "--token-from", "-", code=73).count("exists already") == 1


def test_password_of_the_database_goes_into_a_file_of_its_own(environ: dict[str, str], open_tmp: Path) -> None:
    file = open_tmp / "v.toml"
    url = "postgresql://me:hunter2@db/archive"
    run(environ, "--file", str(file), "--token-from", "-", "--database-url", url, "--untried", stdin="1:2")
    assert "hunter2" not in file.read_text()
    assert "chat_ids" not in file.read_text(), "a default stands in no file"
    config = configuration.load(file, environ={})
    assert (config.database.url, config.api.token) == (url, "1:2")
    for path in open_tmp.glob("v*"):
        assert path.stat().st_mode & 0o027 == 0


@pytest.mark.parametrize(
    ("words", "stdin", "code", "sentence"),
    [
        ((), "", 64, "--token-from is needed"),
        (("--token-from", "-"), "\n", 78, "the bot's token is empty"),
        (("--token-from", "/nowhere/token"), "", 64, "/nowhere/token cannot be read"),
        (("--token-from", "-", "--retention", "1y", "--untried"), "1:2", 78, "storage.retention: '1y' is not days"),
        (("--token-from", "-", "--url", "ftp://x"), "1:2", 78, "is not an http:// or https:// URL"),
        (("--token-from", "-", "--url", "http://127.0.0.1:9"), "1:2", 69, "the connection is refused"),
    ],
)
def test_wrong_answers_write_nothing(
    environ: dict[str, str], open_tmp: Path, words: tuple[str, ...], stdin: str, code: int, sentence: str
) -> None:
    file = open_tmp / "etc" / "v.toml"
    assert sentence in run(environ, "--file", str(file), *words, stdin=stdin, code=code)
    assert not file.parent.exists()


def test_configuration_as_the_package_installs_it_is_replaced_and_no_other(
    environ: dict[str, str], open_tmp: Path
) -> None:
    file = open_tmp / "vkteamsd.toml"
    words = ("--file", str(file), "--token-from", "-", "--untried")
    shipped = (ROOT / "debian" / "vkteamsd.toml").read_text().replace("/etc/vkteams", str(open_tmp))
    file.write_text(f"{shipped}\n[search]\nlimit = 7\n")
    assert "exists already" in run(environ, *words, stdin="1:2", code=73)
    file.write_text(shipped)
    run(environ, *words, stdin="1:2")
    assert "exists already" in run(environ, *words, stdin="1:2", code=73)
    run(environ, *words, "--overwrite", "--retention", "52w", stdin="3:4")
    config = configuration.load(file, environ={})
    assert (config.api.token, config.storage.retention) == ("3:4", "52w")


def test_wrong_token_and_database_write_nothing(environ: dict[str, str], open_tmp: Path, simulator: Simulator) -> None:
    common = ("--file", str(open_tmp / "v.toml"), "--url", simulator.url, "--token-from", "-")
    assert "the Bot API refused the token" in run(environ, *common, stdin="001.1.1:1", code=78)
    database = ("--database-url", "postgresql://nobody@127.0.0.1:9/nothing")
    assert "refused" in run(environ, *common, *database, stdin=simulator.token, code=69)
    assert not (open_tmp / "v.toml").exists()


def test_root_writes_the_configuration_of_the_readers(
    open_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (open_tmp / "token").write_text("1:2")
    system = open_tmp / "etc"
    monkeypatch.setattr(config_readers, "SYSTEM_DIRECTORY", system)
    monkeypatch.setattr(config_readers, "readers_group", os.getgid)
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    def init(name: str, *words: str, code: int = 0) -> str:
        token = ("--token-from", str(open_tmp / "token"), "--untried")
        assert main(["config", "init", "--file", str(open_tmp / name), *token, *words]) == code
        return "".join(capsys.readouterr())

    own = ("--database-url", "postgresql:///vkteams", "--read-url", "postgresql:///vkteams?user=archive_reader")
    readers = system / "readers" / "vkteamsd.toml"
    assert f"written: {readers}" in init("etc/vkteamsd.toml")
    assert configuration.load(readers, environ={}).database.read_url == ""
    assert "--read-url is of a PostgreSQL of your own" in init("a/vkteamsd.toml", *own[2:], code=78)
    init("etc/vkteamsd.toml", *own, "--overwrite")
    read = configuration.load(readers, environ={})
    assert (read.database.read_url, read.database.url, read.api.token) == (own[3], "", "")
    assert (readers.stat().st_mode & 0o777, readers.parent.stat().st_mode & 0o777) == (0o640, 0o750)
    readers.with_name("sales.toml").write_text("[search]\nlimit = 7\n")
    assert "sales.toml exists already" in init("etc/sales.toml", *own, code=73)
    assert not (system / "sales.toml").exists()
    assert "readers" not in init("etc/sales.toml"), "what somebody wrote there stays"
    assert "readers" not in init("elsewhere/vkteamsd.toml"), "no reader would find it"
    monkeypatch.setattr(config_readers, "readers_group", lambda: None)
    assert "there is no group vkteams-readers" in init("b/vkteamsd.toml", *own, code=78)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "--read-url is for root" in init("b/vkteamsd.toml", *own, code=64)


def test_terminal_asks_until_the_answers_are_right(
    environ: dict[str, str], open_tmp: Path, simulator: Simulator, database_url: str
) -> None:
    master, slave = pty.openpty()
    file = open_tmp / "v.toml"
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "config", "init", "--file", str(file)],
        env=environ, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    shown, read = "", 0
    try:
        for expected, answer in (
            ("URL of the Bot API", simulator.url),
            ("the bot's token, from @metabot: ", "001.1.1:1"),
            ("the Bot API refused the token", None),
            ("the bot's token, from @metabot: ", simulator.token),
            ("URL of your own PostgreSQL (empty: the bundled one): ", "postgresql://nobody@127.0.0.1:9/nothing"),
            ("refused", None),
            ("URL of your own PostgreSQL (empty: the bundled one): ", database_url),
            ("only these chats", ""),
            ("(empty: never): ", "a year"),
            ("is not days or weeks", None),
            ("(empty: never): ", "365d"),
            (f"written: {file}", None),
        ):
            while expected not in shown[read:]:
                assert select.select([master], [], [], 30)[0], f"{expected!r} does not come: {shown}"
                with contextlib.suppress(OSError):  # the end of the process closes the terminal
                    shown += os.read(master, 4096).decode(errors="replace")
            read = shown.index(expected, read) + len(expected)
            if answer is not None:
                os.write(master, f"{answer}\n".encode())
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert simulator.token not in shown, "the token is not shown"
    config = configuration.load(file, environ={})
    assert (config.api.token, config.storage.retention) == (simulator.token, "365d")
