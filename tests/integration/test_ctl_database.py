"""`vkteamsctl database export`, `cleanup` and `maintenance`, as people and programs call them."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.harness.batches import batch, edited, new
from tests.harness.daemon import ROOT
from tests.harness.talk import ANNA, DEV, OPS, PETR, Talk
from vkteams_daemon.ctl.commands.database import export, spool_wait
from vkteams_daemon.daemon.polling.spool import Spool

Ask = Callable[..., Any]


@pytest.fixture
def messages(talk: Talk) -> Talk:
    talk.say("1", "one, with a file", parts=({"type": "file", "payload": {"fileId": "f"}},))
    talk.say("2", 'two "quoted"\nlines', at=1, who=PETR, answers="1")
    talk.edit("2", 'two, "quoted"\nlines', at=2, who=PETR)
    talk.say("3", "=HYPERLINK(A1)", at=3, chat=DEV, who=PETR)
    talk.say("4", "taken back", at=4)
    talk.delete("4")
    talk.say("5", "a day later", at=24 * 60)
    talk.say("21", "below", at=5, chat="5@chat.agent", below=(OPS, "1"))
    return talk


def test_json_lines_of_a_person_hold_everything_about_the_person(messages: Talk, ask: Ask) -> None:
    person = {"userId": PETR, "firstName": "Пётр"}
    messages.event("newChatMembers", chat={"chatId": OPS}, newMembers=[person], addedBy={"userId": ANNA})
    messages.event("callbackQuery", queryId="q", callbackData="yes", message={"msgId": "1"}, **{"from": person})
    messages.say("50", f"@[{PETR}] ?", at=6, parts=({"type": "mention", "payload": person},))
    messages.delete("3", chat=DEV)
    messages.execute("INSERT INTO roster_members VALUES (%s, %s, '-infinity', NULL, 'admin')", OPS, PETR)
    rows = _lines(ask("database", "export", "--user-id", PETR, mode="table"))
    kinds = [row["kind"] for row in rows]
    assert kinds == ["message", "message", "name", "version", "membership", "roster", "event", "mention"]
    by_kind = {row["kind"]: row for row in rows}
    assert by_kind["message"]["deleted_at"] and by_kind["message"]["msg_id"] == "3"
    assert by_kind["name"]["first_name"] == "Пётр"
    assert by_kind["version"]["text"].startswith("two ")
    assert by_kind["membership"]["added_by"] == ANNA and by_kind["roster"]["role"] == "admin"
    assert by_kind["event"]["payload"]["callbackData"] == "yes"
    assert by_kind["mention"]["msg_id"] == "50"
    elsewhere = _lines(ask("database", "export", "--user-id", PETR, "--chat-id", DEV, mode="table"))
    assert [row["kind"] for row in elsewhere] == ["message", "name"]


def test_unknown_person_is_an_error(messages: Talk, ask: Ask) -> None:
    error = ask("database", "export", "--user-id", "nobody", code=69, mode="table")
    assert "the archive has no user nobody" in error


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_lines_have_every_column_and_no_deleted_message(messages: Talk, ask: Ask) -> None:
    rows = _lines(ask("database", "export", mode="table"))
    assert [row["msg_id"] for row in rows] == ["1", "2", "3", "21", "5"]
    one, two = rows[:2]
    assert one["parts"] == [{"type": "file", "payload": {"fileId": "f"}}]
    assert (two["text"], two["reply_to_msg_id"], two["version"]) == ('two, "quoted"\nlines', "1", 2)
    assert (two["author"], two["chat_title"], two["sent_at"]) == ("Пётр", "Эксплуатация", "2026-11-24T08:01:00Z")
    assert two["edited_at"] == "2026-11-24T08:02:00Z"
    assert "taken back" not in json.dumps(rows)
    whole = _lines(ask("database", "export", "--deleted", mode="table"))
    assert [row["msg_id"] for row in whole if row["deleted_at"]] == ["4"]
    assert len(whole) == 6


@pytest.mark.parametrize(
    ("words", "msg_ids"),
    [
        (("--chat-id", DEV), ["3"]),
        (("--chat-id", OPS), ["1", "2", "21", "5"]),
        (("--user-id", ANNA), ["1", "4", "21", "5"]),
        (("--user-id", ANNA.upper()), ["1", "4", "21", "5"]),
        (("--since", "2026-11-24T08:01Z", "--until", "2026-11-24T08:05Z"), ["2", "3"]),
        (("--since", "2026-11-25"), ["5"]),
    ],
)
def test_export_filters(messages: Talk, ask: Ask, words: tuple[str, ...], msg_ids: list[str]) -> None:
    rows = _lines(ask("database", "export", *words, mode="table"))
    assert [row["msg_id"] for row in rows if row.get("kind", "message") == "message"] == msg_ids


def test_csv_has_text_without_formulas(messages: Talk, ask: Ask) -> None:
    rows = list(csv.DictReader(io.StringIO(ask("database", "export", "--format", "csv", mode="table"))))
    assert [row["text"] for row in rows] == [
        "one, with a file", 'two, "quoted"\nlines', "'=HYPERLINK(A1)", "below", "a day later",
    ]  # fmt: skip
    assert (rows[0]["parts"], rows[0]["edited_at"], rows[1]["reply_to_msg_id"]) == ("file", "", "1")


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\t=1", "\n=1", "\x00=1", "＝1", "＠a"])
def test_no_cell_is_a_formula(text: str) -> None:
    assert export.csv_cell(text).startswith("'")


def test_excel_csv_keeps_letters_ids_and_lines(talk: Talk, ask: Ask, tmp_path: Path) -> None:
    """As Excel reads it: UTF-8 by its byte order mark, and no cell that is a formula or a long number."""
    long_id = "7646120981573042176"
    dangers = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "7646120981573042177", "007"]
    talk.say(long_id, "почта\nне работает")
    for n, text in enumerate(dangers, 1):
        talk.say(str(n), text)
    file = tmp_path / "out.csv"
    ask("database", "export", "--format", "excel-csv", "--file", str(file))
    content = file.read_bytes()
    assert content.startswith(b"\xef\xbb\xbfchat_id,")
    assert content.count(b"\r\n") == len(dangers) + 2, "a line of names, and one for each message"
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    by_id = {row["msg_id"]: row for row in rows}
    assert by_id[f"'{long_id}"]["text"] == "почта\nне работает"
    cells = [cell for row in rows for cell in row.values()]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert not [cell for cell in cells if cell.isdigit() and (len(cell) > 11 or cell.startswith("0"))]
    assert {by_id[str(n)]["text"][:1] for n in range(1, len(dangers) + 1)} == {"'"}


def test_plain_cells_stay_plain() -> None:
    assert [export.csv_cell(value) for value in (None, "a=1", "", 7)] == ["", "a=1", "", "7"]
    assert export.csv_cell([{"type": "file"}, "x", {"type": "=x"}]) == "file, =x"


def test_exported_file_appears_only_when_complete(
    messages: Talk, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "out.jsonl"
    before = os.umask(0o027)
    try:
        assert ask("database", "export", "--file", str(file)) == {"messages": 5, "file": str(file)}
    finally:
        os.umask(before)
    assert len(_lines(file.read_text())) == 5
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert "exists already" in ask("database", "export", "--file", str(file), code=64, mode="table")
    ask("database", "export", "--file", str(file), "--overwrite", "--chat-id", DEV, mode="table")
    assert len(_lines(file.read_text())) == 1

    def broken(*_: Any) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(export, "json_line", broken)
    ask("database", "export", "--file", str(file), "--overwrite", code=70, mode="table")
    ask("database", "export", "--file", str(tmp_path / "other"), code=70, mode="table")
    assert len(_lines(file.read_text())) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.toml", "out.jsonl"]


def test_unusable_destination_is_refused(messages: Talk, ask: Ask, tmp_path: Path) -> None:
    assert "is not an ordinary file" in ask(
        "database", "export", "--file", "/dev/null", "--overwrite", code=64, mode="table"
    )
    error = ask("database", "export", "--file", str(tmp_path / "no" / "where"), code=73, mode="table")
    assert "cannot be written: No such file or directory" in error
    error = ask("database", "export", code=64)
    assert "standard output cannot hold both" in error["error"]


@pytest.mark.parametrize("format", ["jsonl", "csv", "excel-csv"])
def test_full_disk_is_an_error(talk: Talk, database_url: str, format: str) -> None:
    talk.say("1", "long " * 10_000)  # more than is written at once
    command = [sys.executable, str(ROOT / "bin" / "vkteamsctl"), "database", "export", "--format", format]
    environ = os.environ | {"PYTHONPATH": str(ROOT), "DATABASE_URL": database_url, "VKTEAMS_BOT_CONFIG": "/dev/null"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, env=environ, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    sentence = "vkteamsctl: standard output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (73, sentence)


def test_export_has_no_control_characters(talk: Talk, ask: Ask) -> None:
    talk.say("1", "a\x1b[2Jb\u202ec")
    assert "\x1b" not in ask("database", "export", mode="table")
    assert "\x1b" not in ask("database", "export", "--format", "csv", mode="table")


# Cleanup


@pytest.fixture
def aged(database_url: str) -> Talk:
    """A message of 400 days ago and one of today."""
    talk = Talk(database_url, datetime.now(UTC) - timedelta(days=400))
    talk.say("1", "old")
    talk.say("2", "old elsewhere", chat=DEV)
    talk.say("3", "new", at=399 * 24 * 60)
    talk.writer.close()
    return talk


def test_cleanup_counts_needs_yes_and_erases(aged: Talk, ask: Ask) -> None:
    data = ask("database", "cleanup", "--older-than", "365d", "--dry-run")
    assert (data["dry_run"], data["found"]["messages"]) == (True, 2)
    output = ask("database", "cleanup", "--older-than", "365d", "--dry-run", mode="table")
    assert "2 messages with 0 earlier texts, 0 vectors and what their events say, and what 0 events say that" in output
    output = ask("database", "cleanup", "--older-than", "365d", code=64, mode="table")
    assert "2 messages" in output
    assert "Add --yes" in output
    assert aged.rows("SELECT count(*) FROM messages") == [(3,)]
    done = ask("database", "cleanup", "--older-than", "365d", "--chat-id", DEV, "--yes")["done"]
    assert done["messages"] == 1
    output = ask("database", "cleanup", "--older-than", "52w", "--yes", mode="table")
    assert "1 messages from before" in output
    assert "are erased, with what their events said; 0 other events were emptied" in output
    assert aged.rows("SELECT msg_id FROM messages") == [("3",)]


def test_cleanup_waits_for_what_is_in_the_spool(
    aged: Talk, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would come into the archive after the erasure. A spool without anything so old is no matter."""
    directory = tmp_path / "state"
    spool = Spool(directory, "1", max_bytes=1 << 20)
    spool.append(batch(new(1), new(2, chat=DEV), edited(3, "1", "old", chat=DEV)), 1, 0)
    aside = directory / "2.spool.aside-20260101T000000"
    aside.touch()
    os.utime(aside, (0, 0))
    command = ("database", "cleanup", "--older-than")
    assert ask(*command, "1d", "--dry-run")["spool"] == {"events": 3, "expired": 3}
    assert "2 of 3 events in the daemon's spool" in ask(*command, "1d", "--chat-id", DEV, "--dry-run", mode="table")
    monkeypatch.setattr(spool_wait, "_WAIT", 0.0)
    output = ask(*command, "1d", "--chat-id", DEV, "--yes", code=69, mode="table")
    assert f"2 of 3 events in the spool in {directory} are from before" in output
    assert aged.rows("SELECT count(*) FROM messages") == [(3,)]
    assert ask(*command, "1000w", "--yes")["spool"] == {"events": 3, "expired": 0}
    assert not aside.exists(), "as retention does"

    def store(seconds: float) -> None:
        """The daemon stores them, while the command waits."""
        while spool.next_batch():
            spool.discard_batch()

    monkeypatch.setattr(spool_wait, "_WAIT", 60.0)
    monkeypatch.setattr(spool_wait.time, "sleep", store)
    assert ask(*command, "365d", "--yes")["done"]["messages"] == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "--older-than"),
        (("--older-than", "long"), "is not a span of time"),
        (("--older-than", "999999w"), "is not a span of time"),
    ],
)
def test_cleanup_needs_an_age(ask: Ask, words: tuple[str, ...], sentence: str) -> None:
    assert sentence in ask("database", "cleanup", *words, code=64, mode="table")


# Erasure of people and messages, and holds


def test_erase_asks_counts_erases_and_says_what_it_cannot_reach(messages: Talk, ask: Ask) -> None:
    command = ("database", "erase", "--user-id", PETR)
    assert "2 messages with 1 earlier texts" in ask(*command, code=64, mode="table")
    counted = ask(*command, "--dry-run")
    assert counted["dry_run"] and counted["done"]["messages"] == 2
    assert len(messages.rows("SELECT FROM messages")) == 6
    data = ask(*command, "--ignore", "--yes")
    assert data["done"] == counted["done"] and data["ignored"]
    assert any("e-mail address" in line for line in data["unreached"])
    assert [row[0] for row in messages.rows("SELECT msg_id FROM messages ORDER BY 1")] == ["1", "21", "4", "5"]
    (person,) = ask("database", "erase")["rows"]
    assert person["user_id"] == PETR and person["ignored"]
    assert PETR in ask("database", "erase", mode="table")
    assert ask(*command, "--no-ignore") == {"user_ids": [PETR], "ignored": False}
    assert ask("database", "erase", "--message", f"{OPS}/1", f"{OPS}/5", "--yes")["done"]["messages"] == 2


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("--ignore",), 64, "need a --user-id"),
        (("--user-id", PETR, "--ignore", "--no-ignore"), 64, "--no-ignore erases nothing"),
        (("--message", "12"), 64, "12 is no message"),
        (("--user-id", "x", "--yes"), 69, "knows nobody with the id x"),
        (("--user-id", PETR, "--no-ignore"), 69, "is not ignored"),
    ],
)
def test_erase_refuses(messages: Talk, ask: Ask, words: tuple[str, ...], code: int, sentence: str) -> None:
    assert sentence in ask("database", "erase", *words, code=code, mode="table")


def test_erase_waits_for_what_is_in_the_spool(
    messages: Talk, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "state"
    spool = Spool(directory, "1", max_bytes=1 << 20)
    spool.append(batch(new(1), edited(3, "1", "old", chat=DEV)), 1, 0)
    aside = directory / "2.spool.aside-20260101T000000"
    aside.touch()
    user_id = messages.written[0].user_id
    monkeypatch.setattr(spool_wait, "_WAIT", 0.0)
    error = ask("database", "erase", "--user-id", str(user_id), "--yes", code=69, mode="table")
    assert f"2 of 2 events in the spool in {directory} are about them" in error
    assert len(messages.rows("SELECT FROM messages")) == 6
    data = ask("database", "erase", "--user-id", PETR, "--yes")
    assert any(str(aside) in line for line in data["unreached"])


def test_holds_are_listed_with_who_and_when(messages: Talk, ask: Ask) -> None:
    assert ask("database", "hold", mode="table").strip() == "no chat is held"
    (row,) = ask("database", "hold", OPS)["rows"]
    assert row["chat_id"] == OPS and row["held_by"] and row["held_at"]
    assert "holds keep 5 further messages" in ask(
        "database", "cleanup", "--older-than", "1d", "--dry-run", mode="table"
    )
    data = ask("database", "erase", "--user-id", PETR, "--yes")
    assert (data["done"]["messages"], data["done"]["held"]) == (1, 1)
    assert ask("database", "lift", OPS) == {"lifted": [OPS]}
    assert ask("database", "hold")["rows"] == []
    assert ask("database", "hold", "--all")["rows"][0]["lifted_by"]
    assert "is not held" in ask("database", "lift", OPS, code=69, mode="table")
    assert "has no chat nowhere" in ask("database", "hold", "nowhere", code=69, mode="table")


# Maintenance


def test_maintenance_reports_its_steps(talk: Talk, ask: Ask) -> None:
    talk.say("1", "one")
    talk.execute("INSERT INTO embedding_models (name, fingerprint, dims, state) VALUES ('old', 'f', 2, 'retired')")
    talk.execute("INSERT INTO embeddings SELECT chat_id, msg_id, 1, 'message', 0, 'h', '[1,0]' FROM messages")
    assert "model old: retired" in ask("database", "maintenance", "--check", mode="table")
    assert ask("database", "maintenance", "--check")["need"]["retired"] == ["old"]
    data = ask("database", "maintenance")
    assert data["rows"][0]["what"] == "remains of old deleted"
    assert data["size_after"] > 0
    assert "messages vacuumed and analysed" in ask("database", "maintenance", mode="table")
    assert ask("database", "maintenance", "--check")["need"]["retired"] == []
