"""The examples of docs/library.md run as they are, and the names they import are the documented ones."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import vkteams_daemon
from tests.harness.daemon import TOKEN
from tests.harness.waiting import until
from vkteams_daemon import Archive
from vkteams_daemon.simulator import Simulator

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs" / "library.md").read_text(encoding="utf-8")
CLIENT, ARCHIVE, SERVICE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def environ(simulator: Simulator, database_url: str, tmp_path: Path) -> dict[str, str]:
    """The environment that the examples need."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "VKTEAMS_DAEMON_STATE_DIR": str(tmp_path),
        "PYTHONPATH": str(PROJECT),
        "PYTHONIOENCODING": "utf-8",
        "VKTEAMS_BOT_API_URL": simulator.url,
        "VKTEAMS_BOT_API_TOKEN": TOKEN,
        "DATABASE_URL": database_url,
    }


def _spawn(example: str, environ: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", example], env=environ, text=True, cwd="/",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def _run(example: str, environ: dict[str, str]) -> str:
    with _spawn(example, environ) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    return output


def test_client_example_talks_to_the_api(environ: dict[str, str]) -> None:
    output = _run(CLIENT, environ)
    assert re.search(r"^this is \S+, 1000000001$", output, re.MULTILINE)
    assert "sent as message " in output


def test_service_example_archives_and_archive_example_answers(environ: dict[str, str], simulator: Simulator) -> None:
    with _spawn(SERVICE, environ) as process:
        try:
            assert process.stdout and process.stdout.readline() == "listening\n"
            simulator.say("1@chat.agent", "olga@corp.example", "the printer is on fire")
            with Archive(environ["DATABASE_URL"]) as archive:
                until(lambda: archive.statistics().messages == 1, 30, "the message in the archive")
        finally:
            process.send_signal(signal.SIGTERM)
            rest = process.stdout.read() if process.stdout else ""
    assert process.returncode == 0, rest
    output = _run(ARCHIVE, environ)
    assert "the printer is on fire" in output and "1 messages in the archive" in output


def test_public_names_are_imported_lazily() -> None:
    for name in ("Archive", "BotClient", "Service"):
        assert name in vkteams_daemon.__all__ and name in dir(vkteams_daemon) and f"| `{name}` |" in PAGE
        assert getattr(vkteams_daemon, name).__name__ == name
    with pytest.raises(AttributeError, match="Nothing"):
        _ = vkteams_daemon.Nothing
    heavy = "import sys, vkteams_daemon; sys.exit(any(m in sys.modules for m in ('requests', 'psycopg', 'numpy')))"
    subprocess.run([sys.executable, "-c", heavy], check=True, env={"PYTHONPATH": str(PROJECT)})
    assert (PROJECT / "vkteams_daemon" / "py.typed").exists()
