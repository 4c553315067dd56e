"""Backup, restore and verification: an archive comes back row for row, and what is damaged is refused whole."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.harness.batches import count_vectors
from tests.harness.postgres import PostgresServer
from tests.harness.talk import PETR, Talk
from tests.harness.temporary import SERVER_USER
from vkteams_daemon.config import Config
from vkteams_daemon.daemon.polling.acknowledged import AcknowledgedFile
from vkteams_daemon.errors import BackupDamaged, ConfigError
from vkteams_daemon.options import Database as DatabaseOptions
from vkteams_daemon.store import gaps
from vkteams_daemon.store.backup import client_programs
from vkteams_daemon.store.backup.container import BackupReader
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.ingest.writer import Writer

Ask = Callable[..., Any]
UNPACKED = Path(__file__).parents[2] / "build" / "package" / "programs" / "usr" / "bin"
TABLES = (
    "archive_identity", "bots", "chat_members", "chats", "embedding_models", "embedding_queue", "embeddings", "events",
    "message_versions", "messages", "users",
)  # fmt: skip


@pytest.fixture
def messages(talk: Talk) -> Talk:
    talk.say("1", "Сервер 'почты' молчит\\n\ttab", at=0)
    talk.say("2", "second", at=1, who=PETR, answers="1")
    talk.edit("2", "second, edited", at=2, who=PETR)
    talk.say("3", "taken back", at=3)
    talk.delete("3")
    talk.execute("INSERT INTO embedding_models (name, fingerprint, dims, state) VALUES ('tiny', 'f', 3, 'active')")
    talk.execute(
        "INSERT INTO embeddings (chat_id, msg_id, model_id, kind, chunk, text_hash, embedding)"
        " SELECT chat_id, msg_id, model_id, 'message', 0, '\\x00', '[1,2,3]' FROM messages, embedding_models"
        " WHERE deleted_at IS NULL"
    )
    count_vectors(talk.url)
    talk.execute("DELETE FROM embedding_queue")
    return talk


@pytest.fixture
def backup(messages: Talk, ask: Ask, tmp_path: Path) -> Path:
    """A backup of `messages`."""
    ask("database", "backup", str(tmp_path / "one.backup"))
    return tmp_path / "one.backup"


@pytest.fixture(scope="module")
def _backups() -> list[bytes]:
    return []


@pytest.fixture
def backup_file(_backups: list[bytes], request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a backup that is made once, for tests that need no archive beside it."""
    if not _backups:
        _backups.append(request.getfixturevalue("backup").read_bytes())
    (tmp_path / "copy.backup").write_bytes(_backups[0])
    return tmp_path / "copy.backup"


@pytest.fixture
def elsewhere(postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch, ask: Ask) -> Iterator[str]:
    """An empty database, which `ask` uses from now on."""
    with postgres_server.fresh(migrated=False) as url:
        monkeypatch.setenv("DATABASE_URL", url)
        yield url


def rows(url: str) -> dict[str, list[str]]:
    with psycopg.connect(url) as connection:
        return {
            table: sorted(row[0] for row in connection.execute(f"SELECT t::text FROM {table} t"))  # type: ignore[arg-type]
            for table in TABLES
        }


def test_archive_comes_back_row_for_row_with_a_gap(
    messages: Talk, backup: Path, ask: Ask, elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ask("database", "restore", str(backup))
    assert data["messages"] == 3
    assert rows(elsewhere) == rows(messages.url)
    assert [hit["msg_id"] for hit in ask("search", "text", "почта")["hits"]] == ["1"]
    (gap,) = ask("database", "gaps")["rows"]
    assert (gap["from_event_id"], gap["to_event_id"], gap["to_time"]) == (6, None, None)
    told = ask("search", "text", "second")["coverage"]["gaps"]
    assert any("may be missing: the archive was restored from a backup" in sentence for sentence in told)
    assert all("between" not in sentence for sentence in told), "nobody listens yet, so the end is not known"
    assert (
        "events of bot 1000000001 from 6 on may be missing: the archive"
        in ask("diagnostic", "health", code=69)["error"]
    )
    with Database(Config(database=DatabaseOptions(url=elsewhere))) as database:
        acknowledged = AcknowledgedFile(backup.parent, "1000000001")
        with database.connect() as connection:
            acknowledged.remember(gaps.archive_id(connection), gaps.Position(1, 9, moves=99, at=datetime.now(UTC)))
        writer = Writer(database.connect, "1000000001", acknowledged=acknowledged)
        assert writer.acquire()  # a daemon opens the archive: from now on nothing is missing
        writer.close()
    (gap,) = ask("database", "gaps")["rows"]  # what was acknowledged after the backup is this gap, and no second one
    assert (gap["from_event_id"], gap["to_event_id"], gap["to_time"] is None) == (6, 9, False)
    assert "events of bot 1000000001 up to 9 are missing" in ask("diagnostic", "health", code=69)["error"]
    assert all(not row["wrong"] for row in ask("database", "verify")["rows"])


def test_backup_is_for_its_owner_alone_and_holds_no_secret(
    backup: Path, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert backup.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("VKTEAMS_API_TOKEN", "001.0123456789.9876543210:1000000001")
    ask("database", "backup", str(tmp_path / "two.backup"))
    with tarfile.open(tmp_path / "two.backup") as tar:
        configuration = tar.extractfile("vkteamsd.toml")
        assert configuration
        text = configuration.read().decode()
    assert "9876543210" not in text
    assert "# token was set, and is a secret" in text
    assert not list(tmp_path.glob(".two*")), "no temporary file is left"


def test_password_is_not_on_the_command_line() -> None:
    command, environment = client_programs.command(Path("pg_dump"), "postgresql://me:hunter2@db/archive", "--x")
    assert "hunter2" not in " ".join(command)
    assert environment["PGPASSWORD"] == "hunter2"


def _changed(backup: Path, change: Callable[[list[tuple[str, bytes]]], None]) -> None:
    """Write the backup again with changed members."""
    with tarfile.open(backup) as tar:
        members = [(member.name, (tar.extractfile(member) or io.BytesIO()).read()) for member in tar]
    change(members)
    with tarfile.open(backup, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def _manifest(**fields: Any) -> Callable[[list[tuple[str, bytes]]], None]:
    def change(members: list[tuple[str, bytes]]) -> None:
        members[0] = (members[0][0], json.dumps(json.loads(members[0][1]) | fields).encode())

    return change


def _flip(members: list[tuple[str, bytes]]) -> None:
    content = bytearray(members[2][1])
    content[-20] ^= 1
    members[2] = (members[2][0], bytes(content))


@pytest.mark.parametrize(
    ("change", "code", "sentence"),
    [
        (lambda members: members.pop(), 65, "was cut off"),
        (lambda members: members.pop(2), 65, "damaged"),
        (_flip, 65, "damaged"),
        (lambda members: members.insert(2, ("../x", b"")), 65, "does not belong into a backup"),
        (lambda members: members.pop(0), 65, "is not a backup"),
        (_manifest(format=2), 65, "has format 2"),
        (_manifest(schema_version=999), 78, "newer than this program"),
        (_manifest(schema="other"), 78, "the backup is of schema other"),
        (_manifest(tables=None), 65, "is not a readable backup"),
    ],
    ids=["cut", "no dump", "flipped", "strange member", "no manifest", "format", "schema version", "schema", "tables"],
)
def test_damaged_backup_is_refused_whole(
    backup_file: Path, ask: Ask, elsewhere: str, change: Callable[..., None], code: int, sentence: str
) -> None:
    _changed(backup_file, change)
    assert sentence in ask("database", "restore", str(backup_file), code=code)["error"]
    with psycopg.connect(elsewhere) as connection:
        tables = [row[0] for row in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        counts = [connection.execute("SELECT count(*) FROM messages").fetchone()] if "messages" in tables else []
    assert counts in ([], [(0,)]), "nothing of the backup is there"


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_file_that_was_cut_is_refused(backup_file: Path, share: float) -> None:
    content = backup_file.read_bytes().rstrip(b"\0")
    with pytest.raises(BackupDamaged):
        for _ in BackupReader(io.BytesIO(content[: int(len(content) * share)]), "cut").parts():
            pass


def test_restore_needs_an_empty_archive_and_no_daemon(backup: Path, ask: Ask, messages: Talk, elsewhere: str) -> None:
    ask("database", "init")
    with psycopg.connect(elsewhere, application_name="vkteamsd"):
        assert "vkteamsd is connected" in ask("database", "restore", str(backup), code=75)["error"]
    ask("database", "restore", str(backup))
    assert "the archive is not empty" in ask("database", "restore", str(backup), code=78)["error"]
    assert rows(elsewhere) == rows(messages.url)


def test_files_that_cannot_be_read_or_written(backup: Path, ask: Ask, tmp_path: Path) -> None:
    assert "cannot be read" in ask("database", "restore", str(tmp_path / "none"), code=69)["error"]
    assert "cannot be written" in ask("database", "backup", str(tmp_path / "no" / "x"), code=73)["error"]
    assert "--keep needs a directory" in ask("database", "backup", str(backup), "--keep", "2", code=64)["error"]


def test_only_the_newest_backups_are_kept(messages: Talk, ask: Ask, tmp_path: Path) -> None:
    for day in range(1, 5):
        (tmp_path / f"vkteams-2026110{day}T031500Z.backup").touch()
    (tmp_path / "vkteams-mine.backup").touch()
    (tmp_path / "vkteams-20261101T031500Z.backup.txt").touch()
    removed = ask("database", "backup", str(tmp_path), "--keep", "3")["removed"]
    assert removed == ["vkteams-20261101T031500Z.backup", "vkteams-20261102T031500Z.backup"]
    assert (tmp_path / "vkteams-mine.backup").exists()
    assert (tmp_path / "vkteams-20261101T031500Z.backup.txt").exists()
    assert len(list(tmp_path.glob("vkteams-2026*Z.backup"))) == 3


def test_missing_pg_dump_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_programs, "_places", lambda name: iter(()))
    with pytest.raises(ConfigError, match="no pg_dump of PostgreSQL 16 or newer is installed"):
        client_programs.find("pg_dump", 16)


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("counts of events", "UPDATE bots SET events = events - 1"),
        ("counts of events by chat", "UPDATE bot_chat_counts SET last_at = last_at - interval '1 day'"),
        ("counts of events by chat", "DELETE FROM bot_chat_counts"),
        ("cursors", "UPDATE events SET generation = 7 WHERE event_id = 2"),
        ("cursors", "DELETE FROM bots"),
        (
            "messages",
            "DELETE FROM messages WHERE msg_id = '1';"
            " UPDATE chat_user_counts SET messages = messages - 1, first_at = NULL, last_at = NULL"
            "  WHERE user_id LIKE 'a.%';"
            " UPDATE chat_hour_counts SET messages = messages - 1;"
            " UPDATE chat_vector_counts SET (messages, vectors) = (messages - 1, vectors - 1)",
        ),
        ("chats", "DELETE FROM chats"),
        ("counts of people", "UPDATE chat_user_counts SET edited = edited + 1"),
        ("counts of hours", "DELETE FROM chat_hour_counts"),
        ("counts of vectors", "UPDATE chat_vector_counts SET vectors = vectors + 1"),
        ("counts of vectors", "DELETE FROM chat_vector_counts"),
        (
            "missing vectors",
            "DELETE FROM embeddings WHERE msg_id = '1';"
            " UPDATE chat_vector_counts SET (messages, vectors) = (messages - 1, vectors - 1)",
        ),
        ("old vectors", "UPDATE embeddings SET embedded_at = '2020-01-01' WHERE msg_id = '2'"),
        ("vectors without text", "UPDATE messages SET text = NULL WHERE msg_id = '2'"),
    ],
)
def test_verification_finds(messages: Talk, ask: Ask, name: str, harm: str) -> None:
    assert [row["wrong"] for row in ask("database", "verify")["rows"]] == [0] * 11
    messages.execute(harm)
    answer = ask("database", "verify", code=65)
    assert [row["name"] for row in answer["data"]["rows"] if row["wrong"]] == [name]
    assert name in answer["error"]


def test_verification_shows_how_far_it_is(messages: Talk, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[int, int]] = []
    monkeypatch.setattr("vkteams_daemon.ctl.progress.Bar.__call__", lambda bar, *counts: shown.append(counts))
    checks = ask("database", "verify")["rows"]
    assert shown == [(done, len(checks)) for done in range(len(checks))]


def test_backup_is_verified_in_a_server_of_its_own(
    messages: Talk, ask: Ask, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VKTEAMS_DAEMON_USER", SERVER_USER)
    data = ask("database", "verify", str(backup))
    assert [row["wrong"] for row in data["rows"]] == [0] * 11
    assert data["age"].endswith("seconds")
    assert datetime.now(UTC) - datetime.fromisoformat(data["created_at"]) < timedelta(minutes=5)
    messages.execute("DELETE FROM messages WHERE msg_id = '1'")
    bad = backup.with_name("bad.backup")
    ask("database", "backup", str(bad))
    assert "messages: 1 rows" in ask("database", "verify", str(bad), code=65)["error"]


def test_backup_goes_on_beside_a_writer(messages: Talk, ask: Ask, tmp_path: Path, elsewhere: str) -> None:
    """The backup holds one moment: its counts are those of its own tables."""
    messages.many([f"text {n}" for n in range(2000)])
    os.environ["DATABASE_URL"] = messages.url
    ask("database", "backup", str(tmp_path / "b"))
    os.environ["DATABASE_URL"] = elsewhere
    ask("database", "restore", str(tmp_path / "b"))
    assert rows(elsewhere) == rows(messages.url)


def test_program_that_ends_early_with_success_leaves_no_backup(
    messages: Talk, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages.many([f"{n} {'long text ' * 50}" for n in range(500)])
    (tmp_path / "age").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "age").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert "cannot be written" in ask("database", "backup", str(tmp_path / "b.age"), "--age", "x", code=73)["error"]
    assert not list(tmp_path.glob("*b.age*"))


@pytest.mark.skipif(not shutil.which("gpg"), reason="gpg is not installed")
def test_backup_for_a_gpg_key(
    messages: Talk, ask: Ask, open_tmp: Path, elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = open_tmp / "g"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    key = ["gpg", "--batch", "--passphrase", "", "--quick-gen-key", "backup@corp.example", "default", "default"]
    subprocess.run(key, check=True, capture_output=True)
    try:
        monkeypatch.setenv("DATABASE_URL", messages.url)
        file = ask("database", "backup", str(open_tmp), "--gpg", "backup@corp.example")["file"]
        assert file.endswith(".backup.gpg")
        assert "почты".encode() not in Path(file).read_bytes()
        error = ask("database", "backup", str(open_tmp), "--gpg", "nobody@x", code=78)["error"]
        assert error.startswith("gpg has failed: gpg: [stdin]: encryption failed: ")
        monkeypatch.setenv("DATABASE_URL", elsewhere)
        ask("database", "restore", file)
        assert rows(elsewhere) == rows(messages.url)
    finally:
        subprocess.run(["gpgconf", "--kill", "all"], check=False)


@pytest.mark.skipif(not (UNPACKED / "age").exists(), reason="`make package-test` unpacks age and runs this")
def test_backup_for_an_age_recipient(
    messages: Talk, ask: Ask, tmp_path: Path, elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{UNPACKED}:{os.environ['PATH']}")
    identity = tmp_path / "identity"
    done = subprocess.run(["age-keygen", "-o", identity], check=True, capture_output=True, text=True)
    recipient = done.stderr.rpartition(" ")[2].strip()
    monkeypatch.setenv("DATABASE_URL", messages.url)
    file = ask("database", "backup", str(tmp_path), "--age", recipient)["file"]
    assert file.endswith(".backup.age")
    error = ask("database", "backup", str(tmp_path), "--age", "nobody", code=78)["error"]
    assert error.startswith("age has failed: age: error: ")
    monkeypatch.setenv("DATABASE_URL", elsewhere)
    assert "Name the identity file" in ask("database", "restore", file, code=64)["error"]
    ask("database", "restore", file, "--identity", str(identity))
    assert rows(elsewhere) == rows(messages.url)
