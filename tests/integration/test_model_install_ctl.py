"""`vkteamsctl model`: list, install, use, status."""

from __future__ import annotations

import json
import os
import pwd
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.harness.models import NAME, write_encoder
from vkteams_daemon.config import Config
from vkteams_daemon.ctl.commands import model as model_commands
from vkteams_daemon.ctl.main import main
from vkteams_daemon.embedding import catalogue, model_info
from vkteams_daemon.embedding.catalogue import CATALOGUE
from vkteams_daemon.options import Database as DatabaseOptions
from vkteams_daemon.store import embedding_models
from vkteams_daemon.store.database import Database
from vkteams_daemon.system import user


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory of its own, and nothing of this machine's configuration."""
    monkeypatch.setenv("VKTEAMS_DAEMON_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("VKTEAMS_DAEMON_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("VKTEAMS_BOT_CONFIG", str(tmp_path / "vkteamsd.toml"))
    for name in ("DATABASE_URL", "VKTEAMS_DATABASE_URL", "VKTEAMS_EMBEDDING_MODELS", "VKTEAMS_EMBEDDING_MODELS_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VKTEAMS_DAEMON_ALLOW_ROOT", "1")
    (tmp_path / "vkteamsd.toml").write_text("")
    return tmp_path / "state" / "models"


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return write_encoder(tmp_path / NAME)


def ask(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    """The JSON answer."""
    assert main(["--output", "json", "model", *words]) == code
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert answer["command"] == f"model {words[0]}"
    return answer


def test_every_verb_answers_without_a_model(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    rows = ask(capsys, "list")["data"]["rows"]
    assert [row["name"] for row in rows] == list(CATALOGUE)
    assert [row["name"] for row in rows if row["recommended"]] == list(catalogue.DEFAULT_MODELS)
    assert not any(row["installed"] or row["chosen"] for row in rows)
    assert ask(capsys, "status")["data"] == {
        "state": "off", "models": [], "archive": None, "parked": None, "archive_error": "there is no archive yet",
    }  # fmt: skip
    assert main(["model", "status"]) == 0
    assert "`vkteamsctl model install`" in capsys.readouterr().out
    assert main(["model", "list"]) == 0
    shown = capsys.readouterr().out
    assert "recommended for Russian and English" in shown and "knows no Russian paraphrase" in shown
    assert not home.parent.exists()  # asking makes nothing


@pytest.mark.skipif(os.geteuid() != 0, reason="is about root")
def test_root_without_a_user_for_the_daemon_installs_nothing(
    capsys: pytest.CaptureFixture[str], home: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VKTEAMS_DAEMON_ALLOW_ROOT")
    monkeypatch.setattr(user, "DEFAULT_USER", "_vkteams_of_no_system")
    refused = ask(capsys, "install", str(encoder), "--precision", "fp32", code=77)
    assert "adduser" in refused["error"]
    assert not home.parent.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="is about root")
def test_state_directory_made_by_root_belongs_to_the_daemons_user(
    capsys: pytest.CaptureFixture[str], home: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VKTEAMS_DAEMON_USER", "nobody")
    ask(capsys, "install", str(encoder), "--precision", "fp32")
    state = home.parent.stat()
    assert (state.st_uid, stat.S_IMODE(state.st_mode)) == (pwd.getpwnam("nobody").pw_uid, 0o750)
    assert (home / NAME).stat().st_uid == 0
    assert (home / NAME / "model.toml").stat().st_mode & stat.S_IROTH


def test_install_use_and_status(capsys: pytest.CaptureFixture[str], home: Path, encoder: Path, tmp_path: Path) -> None:
    first = ask(capsys, "install", str(encoder), "--precision", "int8")["data"]["models"][0]
    assert first["name"] == NAME and first["chosen"] and first["precision"] == "int8"
    second = write_encoder(tmp_path / "second", seed=2)
    assert ask(capsys, "install", str(second), "--precision", "fp32")["data"]["models"][0]["chosen"] is False

    rows = {row["name"]: row for row in ask(capsys, "list")["data"]["rows"]}
    assert rows[NAME]["chosen"] and not rows["second"]["chosen"]
    assert rows["second"]["installed"] and rows["second"]["precision"] == "fp32"
    assert rows["second"]["note"] == f"from {second}"

    used = ask(capsys, "use", "second")["data"]
    assert used["names"] == used["effective"] == ["second"]
    status = ask(capsys, "status")["data"]
    assert status["state"] == "ok" and [model["name"] for model in status["models"]] == ["second"]
    assert status["models"][0]["fingerprint"] == model_info.read(home / "second").fingerprint

    assert main(["model", "use", NAME]) == 0
    assert "until `vkteamsctl daemon restart`" in capsys.readouterr().out
    assert main(["--output", "quiet", "model", "list"]) == 0
    assert capsys.readouterr().out.split() == ["second", NAME]


def test_models_are_added_and_dropped(
    capsys: pytest.CaptureFixture[str], home: Path, encoder: Path, tmp_path: Path
) -> None:
    ask(capsys, "install", str(encoder), "--precision", "fp32")
    ask(capsys, "install", str(write_encoder(tmp_path / "second", seed=2)), "--precision", "fp32")
    assert ask(capsys, "add", "second")["data"]["effective"] == [NAME, "second"]
    assert ask(capsys, "add", "second")["data"]["effective"] == [NAME, "second"]
    assert [model["name"] for model in ask(capsys, "status")["data"]["models"]] == [NAME, "second"]
    assert {row["name"] for row in ask(capsys, "list")["data"]["rows"] if row["chosen"]} == {NAME, "second"}
    assert main(["model", "status"]) == 0
    shown = capsys.readouterr().out
    assert NAME in shown and "second" in shown
    assert "absent" in ask(capsys, "add", "absent", code=78)["error"]
    assert ask(capsys, "drop", NAME)["data"]["effective"] == ["second"]
    assert f"{NAME}: is not in use (second in use)" in ask(capsys, "drop", NAME, code=64)["error"]
    assert "is the only model in use" in ask(capsys, "drop", "second", code=64)["error"]
    assert ask(capsys, "use", "second", NAME)["data"]["names"] == ["second", NAME]


def test_install_without_a_name_installs_the_default_set_and_leaves_a_choice_alone(
    capsys: pytest.CaptureFixture[str], home: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = write_encoder(tmp_path / "second", seed=2)
    monkeypatch.setattr(model_commands, "DEFAULT_MODELS", (str(encoder), str(second)))
    rows = ask(capsys, "install", "--precision", "fp32")["data"]["models"]
    assert [(row["name"], row["chosen"]) for row in rows] == [(NAME, True), ("second", True)]
    ask(capsys, "use", "second")
    ask(capsys, "install", str(write_encoder(tmp_path / "third", seed=3)), "--precision", "fp32")
    ask(capsys, "use", "third")
    rows = ask(capsys, "install", "--precision", "fp32")["data"]["models"]
    assert [row["chosen"] for row in rows] == [False, False], "someone has chosen another one"


def test_configured_model_overrides_the_chosen_one(
    capsys: pytest.CaptureFixture[str], encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(capsys, "install", str(encoder), "--precision", "fp32")
    monkeypatch.setenv("VKTEAMS_EMBEDDING_MODELS", "other")
    assert ask(capsys, "use", NAME)["data"]["effective"] == ["other"]
    assert main(["model", "use", NAME]) == 0
    assert "embedding.models in the configuration has other" in capsys.readouterr().out
    error = ask(capsys, "status", code=78)["error"]
    assert error.startswith("the model 'other' is not installed in") and "vkteamsctl model install" in error


def test_errors_are_one_sentence_with_their_exit_code(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    for words, code, sentence in (
        (("use", "absent"), 78, "the model 'absent' is not installed"),
        (("install", "absent"), 64, "absent: is neither a model of the catalogue nor a directory nor a wheel"),
        (("install", "x", "--precision", "int4"), 64, "--precision: invalid choice"),
    ):
        assert main(["model", *words]) == code
        streams = capsys.readouterr()
        assert streams.out == "" and streams.err.startswith(f"vkteamsctl: {sentence}")
        assert streams.err.count("\n") == 1


def test_status_reports_a_changed_file(capsys: pytest.CaptureFixture[str], home: Path, encoder: Path) -> None:
    ask(capsys, "install", str(encoder), "--precision", "fp32")
    file = home / NAME / model_info.ONNX
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "is not the file that was installed" in ask(capsys, "status", code=78)["error"]


def test_status_counts_the_vectors_of_the_archive(
    capsys: pytest.CaptureFixture[str], home: Path, encoder: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (info,) = ask(capsys, "install", str(encoder), "--precision", "fp32")["data"]["models"]
    monkeypatch.setenv("DATABASE_URL", database_url)
    assert ask(capsys, "status")["data"]["archive"] == []
    database = Database(Config(database=DatabaseOptions(url=database_url)))
    database.open(migrate=False)
    try:
        with database.connection() as connection:
            stored = embedding_models.register(connection, NAME, info["fingerprint"], info["dims"])
            connection.execute(
                "INSERT INTO embedding_queue (chat_id, msg_id, model_id, kind, attempts, not_before, last_error)"
                " VALUES ('room', 'm1', %s, 'message', 5, 'infinity', 'RuntimeError: bad tensor')",
                (stored.model_id,),
            )
    finally:
        database.close()
    data = ask(capsys, "status")["data"]
    (row,), (parked,) = data["archive"], data["parked"]
    assert (row["name"], row["state"], row["messages"], row["queued"], row["parked"]) == (NAME, "active", 0, 0, 1)
    assert (parked["msg_id"], parked["error"]) == ("m1", "RuntimeError: bad tensor")
    assert main(["model", "status"]) == 0
    shown = capsys.readouterr().out
    assert "bad tensor" in shown and "vkteamsctl model retry" in shown
    assert ask(capsys, "retry")["data"] == {"retried": 1}
    data = ask(capsys, "status")["data"]
    assert data["parked"] == [] and (data["archive"][0]["queued"], data["archive"][0]["parked"]) == (1, 0)
    assert ask(capsys, "retry")["data"] == {"retried": 0}
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none?connect_timeout=1")
    data = ask(capsys, "status")["data"]
    assert data["state"] == "ok" and data["archive"] is None and data["archive_error"]
