"""`vkteamsctl complete`: the names that the shells offer, at once, and nothing where the archive cannot be asked."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.harness.daemon import ROOT
from tests.harness.fork_server import python
from tests.harness.talk import OPS, Talk
from tests.harness.waiting import until


def _environ(home: Path, url: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH",) if name in os.environ}
    return kept | {
        "HOME": str(home), "PYTHONPATH": str(ROOT), "DATABASE_URL": url, "VKTEAMS_BOT_CONFIG": "/dev/null",
        "VKTEAMS_DAEMON_STATE_DIR": str(home / "state"), "LC_ALL": "C.UTF-8",
    }  # fmt: skip


def _complete(home: Path, url: str, kind: str) -> list[str]:
    done = subprocess.run(
        python(str(ROOT / "bin" / "vkteamsctl"), "complete", kind),
        env=_environ(home, url), text=True, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_chats_and_people_of_the_archive_are_offered(talk: Talk, tmp_path: Path) -> None:
    talk.say("1", "раз")
    talk.say("2", "два", at=1, chat="9@chat.agent", below=(OPS, "1"))
    assert until(lambda: _complete(tmp_path, talk.url, "chats"), 60, "the names that another process reads") == [
        "Эксплуатация"
    ]
    assert _complete(tmp_path, talk.url, "people") == ["Анна Иванова"]
    assert set(_complete(tmp_path, talk.url, "chat-ids")) == {OPS, "9@chat.agent"}
    file = tmp_path / ".cache" / "vkteams" / "names.json"
    assert file.stat().st_mode & 0o777 == 0o600


def test_an_archive_that_cannot_be_asked_offers_nothing_and_says_nothing(tmp_path: Path) -> None:
    assert _complete(tmp_path, "postgresql://nobody@127.0.0.1:9/none", "chats") == []
    # The bundled server does not run, and a completion does not start it.
    assert _complete(tmp_path, "", "people") == []
    assert not (tmp_path / "state").exists()


def test_models_and_instances_are_offered_without_an_archive(tmp_path: Path) -> None:
    (tmp_path / ".config" / "vkteams").mkdir(parents=True)
    (tmp_path / ".config" / "vkteams" / "sales.toml").touch()
    assert "sales" in _complete(tmp_path, "", "instances")
    assert "multilingual-e5-small" in _complete(tmp_path, "", "models")
