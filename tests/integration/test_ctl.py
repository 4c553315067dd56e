"""vkteamsctl as people and programs meet it: real processes, and an archive of a few messages."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.harness.ctl import KEYS
from tests.harness.daemon import ROOT, DaemonProcess
from tests.harness.embedding import ROOM, Chat
from tests.harness.fork_server import python
from tests.harness.postgres import PostgresServer
from tests.harness.samples import ARRIVAL, GROUP, body, event, message
from tests.harness.talk import DEV, OPS, PETR, VERA, Talk, moment
from vkteams_daemon.botapi.events import read
from vkteams_daemon.ctl.command_line import COMMANDS, NOUNS
from vkteams_daemon.embedding.model import Model
from vkteams_daemon.simulator import Simulator

Make = Callable[..., DaemonProcess]
HOSTILE = "сервер \x1b[2J\x1b]0;owned\x07 \u202eупал"


@pytest.fixture
def archive(database_url: str) -> Iterator[Chat]:
    """Three messages, one of them an attack on the terminal, one edit, one deletion, one event in quarantine."""
    chat = Chat(database_url)
    chat.writer.store(read(body(
        message(1, "Сервер упал ночью", chat=GROUP), message(2, HOSTILE, chat=GROUP), message(3, "ok", chat=GROUP),
        message(4, "обедать", chat={"chatId": "1@chat.agent"}),
        event(5, "editedMessage", {"msgId": "3", "chat": GROUP, "text": "совсем ok", "editedTimestamp": 1764000500}),
        event(6, "deletedMessage", {"msgId": "4", "chat": {"chatId": "1@chat.agent"}}),
        event(7, "newMessage", {"text": "no chat"}),
    ), ARRIVAL))  # fmt: skip
    yield chat
    chat.close()


# The command line


SCRIPT = str(ROOT / "bin" / "vkteamsctl")
PROGRAM = [sys.executable, SCRIPT]


def _environ(**more: str) -> dict[str, str]:
    ours = ("VKTEAMS_", "DATABASE_URL", "PYTHONUNBUFFERED")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return clean | {"PYTHONPATH": str(ROOT)} | more


def _run(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        python(SCRIPT, *words),
        env=_environ(**environ),
        cwd="/",
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ((), 64, "no command is named. See `vkteamsctl --help`."),
        (("nonsense",), 64, "NOUN: invalid choice: nonsense. Choose one of find, open, daemon, search, "),
        (("serach", "text", "x"), 64, "NOUN: invalid choice: serach. Did you mean search?"),
        (("stats",), 64, "Did you mean `vkteamsctl daemon stats` or `vkteamsctl database stats`?"),
        (("сбой", "оплаты"), 64, "To find words: `vkteamsctl find WORDS`."),
        (("search", "texxt", "x"), 64, "VERB: invalid choice: texxt. Did you mean text?"),
        (("search", "text", "сбой", "оплаты", "вчера"), 64, "unrecognized arguments: оплаты вчера. "
         "Quote the query: `vkteamsctl search text сбой оплаты вчера`."),
        (("search", "text", "x", "--sicne", "2h"), 64, "unrecognized arguments: --sicne 2h. Did you mean --since?"),
        (("find", "docker", "run", "--rm"), 64, "To look for a command line, quote it: `vkteamsctl find ls -la`."),
        (("search", "text", "x", "--sort", "newest"), 64, "Did you mean new?"),
        (("context", "get", "--user", "Анна", "Иванова"), 64, "Quote a value of several words: --user Анна Иванова."),
        (("find",), 64, "the query is empty. Write what to find, or a filter: --has file"),
        (("find", "сбой", "--user", "Анна", "Иванова"), 64, "Quote a value of several words: --user Анна Иванова."),
        (("find", "--since", "вчера", "18:00", "сбой"), 64,
         "--since: вчера goes on. Quote a value of several words: --since вчера 18:00."),
        (("find", "сбой", "--al"), 64, "Did you mean --all?"),
        (("open",), 64, "the following arguments are required: NUMBER"),
        (("daemon",), 64, "the following arguments are required: VERB. See `vkteamsctl daemon --help`."),
        (("daemon", "dance"), 64, "VERB: invalid choice: dance. Choose one of start, stop, "),
        (("--output", "xml", "daemon", "status"), 64, "--output: invalid choice: xml. Choose one of table, json, "),
        (("search", "text"), 64, "the following arguments are required: QUERY"),
        (("search", "text", "-тест"), 64, "required: QUERY. Put -- before a query that begins with -. See "),
        (("search", "text", "x", "--since", "soon"), 64, "--since: soon is not a time"),
        (("search", "text", "x", "--limit", "0"), 64, "--limit: 0 is not a whole number"),
        (("search", "text", " "), 64, "the query is empty"),
        (("config", "show", "--conf", "x"), 64, "unrecognized arguments: --conf x"),
        (("config", "show", "--config", "/no/such.toml"), 78, "/no/such.toml: cannot be read: No such file"),
        (("--config", "/no/such.toml", "daemon", "stop"), 78, "/no/such.toml: cannot be read: No such file"),
        (("--instance", "a/b", "config", "check"), 78, "--instance: a/b is not a name"),
    ],
)  # fmt: skip
def test_mistake_is_one_sentence_and_an_exit_code(words: tuple[str, ...], code: int, sentence: str) -> None:
    done = _run(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("vkteamsctl: ")
    assert sentence in done.stderr.replace("'", "")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ("search", "text", "x", "--chat-id"), ("search", "semantic"), ("context", "message"),
        ("database", "stats", "--chat-id"), ("diagnostic", "events", "--type"),
    ],
)  # fmt: skip
def test_arguments_that_are_not_utf_8_are_refused(words: tuple[str, ...], archive: Chat) -> None:
    done = _run(*words, "\udcff", DATABASE_URL=archive.url, VKTEAMS_BOT_CONFIG="/dev/null")
    assert done.returncode == 64
    assert re.fullmatch(r"vkteamsctl: (an argument|the query) is not UTF-8\n", done.stderr)


def test_mistake_in_json_has_the_envelope_too() -> None:
    done = _run("--output", "json", "daemon", "dance")
    answer = json.loads(done.stdout)
    assert list(answer) == KEYS
    assert (answer["success"], answer["data"], answer["command"]) == (False, None, "daemon")
    assert f"vkteamsctl: {answer['error']}\n" == done.stderr


def test_help_and_version_are_no_errors() -> None:
    assert re.fullmatch(r"vkteamsctl \d+\.\d+\.\d+\S*\n", _run("--version").stdout)
    done = _run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for noun, line in (COMMANDS | NOUNS).items():
        assert f"    {noun}" in done.stdout
        assert line in done.stdout
    assert _run("search", "text", "--help").returncode == 0


def test_options_may_stand_before_the_noun_or_after_the_verb() -> None:
    for words in (("--output", "json", "config", "check"), ("config", "check", "--output", "json")):
        done = _run(*words, HOME="/nonexistent", XDG_CONFIG_HOME="/nonexistent")
        assert json.loads(done.stdout)["command"] == "config check"


def test_traceback_is_printed_only_with_vkteams_debug() -> None:
    environ = {"DATABASE_URL": "postgresql://nobody:s3cret@127.0.0.1:9/none", "VKTEAMS_BOT_CONFIG": "/dev/null"}
    done = _run("database", "stats", **environ)
    assert done.returncode == 69
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    done = _run("database", "stats", **environ, VKTEAMS_DEBUG="1")
    assert done.returncode == 69
    assert "Traceback" in done.stderr
    assert "s3cret" not in done.stderr


def test_internal_error_is_one_sentence_without_secrets(
    ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vkteams_daemon.ctl.commands import config

    token = "001.1234567890.0987654321:42"
    monkeypatch.setenv("VKTEAMS_BOT_API_TOKEN", token)

    def broken(_: object) -> None:
        raise ZeroDivisionError(f"{token} and 001.1234567890.0987654321%3A42")

    monkeypatch.setattr(config.configuration, "masked", broken)
    answer = ask("config", "show", code=70)
    assert answer["error"].startswith(
        "internal error: ZeroDivisionError: *** and ***. This is a fault of the program. "
    )


def test_reader_that_goes_away_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    for words, sentence in (
        (("config", "show", "--template"), ""),
        (("--output", "json", "daemon", "dance"), "VERB: invalid choice"),
        (("--help",), ""),
    ):
        done = subprocess.run(
            [*PROGRAM, *words], env=_environ(), stdout=writing, stderr=subprocess.PIPE, text=True, check=False
        )
        assert done.returncode == 141 or words == ("--help",)
        assert done.stderr.count("\n") == bool(sentence)
        assert sentence in done.stderr
    os.close(writing)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_no_exit_code(closed: str) -> None:
    for words, code in ((("config", "show"), 0), (("--output", "json", "daemon", "dance"), 64)):
        command = ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", *PROGRAM, *words]
        done = subprocess.run(command, env=_environ(), cwd="/", text=True, capture_output=True, check=False)
        assert done.returncode == code
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [("config", "show"), ("--output", "json", "config", "show"), ("--help",)])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_full_disk_under_standard_output_is_an_error(words: tuple[str, ...], unbuffered: str) -> None:
    environ = _environ() | {"PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*PROGRAM, *words], env=environ, cwd="/", text=True, stdout=full, stderr=subprocess.PIPE, check=False
        )
    sentence = "vkteamsctl: standard output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (73, sentence)


def test_full_disk_under_standard_error_leaves_the_exit_code() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*PROGRAM, "daemon", "dance"], env=_environ(), cwd="/", stderr=full, check=False)
    assert done.returncode == 64


def test_ascii_terminal_gets_replacements_and_json_escapes(archive: Chat) -> None:
    environ = {"DATABASE_URL": archive.url, "VKTEAMS_BOT_CONFIG": "/dev/null", "PYTHONIOENCODING": "ascii"}
    done = _run("search", "text", "сервер", **environ)
    assert done.returncode == 0, done.stderr
    assert "message 1" in _run("search", "text", "сервер", "--ids", **environ).stdout
    done = _run("--output", "json", "search", "text", "сервер", **environ)
    assert "Сервер упал ночью" in [hit["text"] for hit in json.loads(done.stdout)["data"]["hits"]]


@pytest.mark.parametrize("colours", [True, False])
def test_texts_of_chats_never_control_the_terminal(archive: Chat, colours: bool) -> None:
    environ = _environ(DATABASE_URL=archive.url, VKTEAMS_BOT_CONFIG="/dev/null", TERM="xterm", LC_ALL="C.UTF-8")
    environ |= {} if colours else {"NO_COLOR": "1"}
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*PROGRAM, "search", "text", "сервер"],
        stdin=theirs, stdout=theirs, stderr=theirs, env=environ,
    ) as process:  # fmt: skip
        os.close(theirs)
        output = b""
        with contextlib.suppress(OSError):  # the end of a terminal is an error
            while chunk := os.read(ours, 4096):
                output += chunk
    os.close(ours)
    text = output.decode()
    assert process.returncode == 0
    assert "упал" in text
    assert "\u202e" not in text
    assert "\x07" not in text
    assert set(re.findall(r"\x1b.{0,3}", text)) <= ({"\x1b[1m", "\x1b[2m", "\x1b[33", "\x1b[0m"} if colours else set())
    assert ("\x1b[33m" in text) is colours


# Searching


def test_search_in_every_mode(ask: Callable[..., Any], archive: Chat) -> None:
    data = ask("search", "text", "сервера")
    assert {hit["msg_id"] for hit in data["hits"]} == {"1", "2"}
    assert data["hits"][0].keys() >= {
        "chat_id",
        "chat_title",
        "msg_id",
        "author",
        "sent_at",
        "text",
        "snippet",
        "score",
    }
    assert ask("search", "text", "сервера", "--limit", "1", mode="jsonl").count("\n") == 1
    assert set(ask("search", "text", "сервер", mode="quiet").splitlines()) == {f"{ROOM} 1", f"{ROOM} 2"}
    table = ask("search", "text", "сервер", mode="table")
    assert "Ops · Anna Ivanova · " in table
    assert "\x1b" not in table
    assert "2 hits" in table


def test_search_filters(ask: Callable[..., Any], archive: Chat) -> None:
    assert len(ask("search", "text", "сервер", "--chat-id", ROOM)["hits"]) == 2
    assert ask("search", "text", "сервер", "--chat-id", ROOM, "--chat-id", "x", code=69)["error"].startswith(
        "the archive has no chat x. "
    )
    assert ask("search", "text", "сервер", "--user-id", "nobody", code=69)["error"].startswith(
        "the archive has no user nobody. "
    )
    assert len(ask("search", "text", "сервер", "--since", "2025-11-24", "--until", "2025-11-24")["hits"]) == 2
    assert ask("search", "text", "сервер", "--until", "2025-11-23")["hits"] == []
    assert ask("search", "text", "сервер", "--since", "1h")["hits"] == []
    assert ask("search", "text", "обедать")["hits"] == [], "a deleted message is found by nobody"
    assert "1001 is too many" in ask("search", "text", "x", "--limit", "1001", code=64)["error"]


def test_search_by_words_and_meaning(ask: Callable[..., Any], archive: Chat) -> None:
    data = ask("search", "hybrid", "server упал", "--context", "1")
    assert data["showing"] == "Сервер упал"
    assert data["note"].startswith("These were found by their words alone")
    assert (data["hits"][0]["msg_id"], data["hits"][0]["legs"][0]["name"]) == ("1", "text")
    assert [message["msg_id"] for message in data["hits"][0]["context"]] == ["2"]
    table = ask("search", "hybrid", "server упал", "--context", "1", "--explain", "--recency", "1d", mode="table")
    assert table.startswith("showing results for: Сервер упал\n")
    assert re.search(r"text: place 1, score [\d.]+, 100% of the query\n", table)
    assert re.search(r"recency: place 1, score 0\.\d+\n", table)
    assert "\x1b" not in table and "\u202e" not in table
    assert "is not above zero" in ask("search", "hybrid", "x", "--recency", "0d", code=64)["error"]
    assert "51 is too many" in ask("search", "hybrid", "x", "--context", "51", code=64)["error"]


def test_search_page_by_page(ask: Callable[..., Any], archive: Chat) -> None:
    first = ask("search", "text", "сервер", "--limit", "1")
    second = ask("search", "text", "сервер", "--limit", "1", "--cursor", first["cursor"])
    assert {first["hits"][0]["msg_id"], second["hits"][0]["msg_id"]} == {"1", "2"}
    assert second["cursor"] is None
    shown = re.search(
        r"\nmore: --cursor ([0-9a-f]{6})\n$", ask("search", "text", "сервер", "--limit", "1", mode="table")
    )
    assert shown is not None, "short for people"
    by_name = ask("search", "text", "сервер", "--limit", "1", "--cursor", shown[1])
    assert [hit["msg_id"] for hit in by_name["hits"]] == [hit["msg_id"] for hit in second["hits"]]
    assert ask("search", "text", "сервер", "--limit", "1", "--cursor", "ffffff", code=64)
    assert "another question" in ask("search", "text", "упал", "--cursor", first["cursor"], code=64)["error"]


def test_search_by_meaning(
    ask: Callable[..., Any], archive: Chat, tiny_model_dir: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "model install" in ask("search", "semantic", "сервер", code=78)["error"]
    monkeypatch.setenv("VKTEAMS_EMBEDDING_MODELS_DIR", str(models_dir))
    model = Model.load(tiny_model_dir)
    archive.register(model)
    archive.execute(
        "INSERT INTO embedding_queue (chat_id, msg_id, model_id, kind) SELECT chat_id, msg_id, model_id, 'message'"
        " FROM messages, embedding_models WHERE deleted_at IS NULL ON CONFLICT DO NOTHING"
    )
    archive.embed(model)
    hits = ask("search", "semantic", "Сервер упал ночью")["hits"]
    assert hits[0]["msg_id"] == "1"
    assert hits[0]["score"] > 0.99
    assert len(hits) == 3


# The archive


def test_database_init_and_migrate(
    empty_database_url: str, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    ask("database", "stats", code=78)
    first = ask("database", "init")
    assert first["version"] == first["rows"][-1]["version"] >= 1
    assert ask("database", "init") == ask("database", "migrate") == first
    assert "the schema is version" in ask("database", "migrate", mode="table")


def test_database_stats(ask: Callable[..., Any], archive: Chat) -> None:
    data = ask("database", "stats")
    assert (data["events"], data["messages"], data["deleted"], data["quarantined"]) == (7, 4, 1, 1)
    assert ask("database", "stats", "--chat-id", ROOM)["messages"] == 3
    table = ask("database", "stats", mode="table")
    assert re.search(r"messages +4 \(1 edited, 1 deleted\)", table)
    assert "embedding_queue" in table


def test_database_quarantine(ask: Callable[..., Any], archive: Chat) -> None:
    data = ask("database", "quarantine")
    assert (data["total"], len(data["rows"])) == (1, 1)
    assert (data["rows"][0]["event_id"], data["rows"][0]["error"]) == (7, "newMessage without a chat")
    assert "newMessage without a chat" in ask("database", "quarantine", mode="table")
    assert ask("database", "quarantine", mode="quiet") == "1000000001 7\n"


def test_database_cursor(ask: Callable[..., Any], archive: Chat) -> None:
    (row,) = ask("database", "cursor")["rows"]
    assert (row["bot_id"], row["generation"], row["last_event_id"], row["highest_stored"]) == ("1000000001", 1, 7, 7)
    archive.writer.close()
    for change in (("--set", "3"), ("--restart",)):
        assert "not done: " in ask("database", "cursor", *change, code=64)["error"]
    assert ask("database", "cursor")["rows"][0]["last_event_id"] == 7
    assert ask("database", "cursor", "--set", "3", "--yes")["rows"][0]["last_event_id"] == 3
    (row,) = ask("database", "cursor", "--restart", "--yes")["rows"]
    assert (row["generation"], row["last_event_id"]) == (2, 0)
    assert "no bot 5" in ask("database", "cursor", "--bot", "5", "--set", "1", "--yes", code=69)["error"]
    assert "is not an event id" in ask("database", "cursor", "--set", "-1", code=64)["error"]


def test_cursor_is_not_changed_while_a_daemon_listens(ask: Callable[..., Any], archive: Chat) -> None:
    assert archive.writer.holds_lock
    done = threading.Event()

    def ping() -> None:
        """Show life as the daemon does: a holder that is silent for the patience is taken for a stopped one."""
        while not done.wait(0.5):
            archive.writer.ping()

    thread = threading.Thread(target=ping)
    thread.start()
    try:
        assert "a daemon listens" in ask("database", "cursor", "--restart", "--yes", code=75)["error"]
    finally:
        done.set()
        thread.join(30)


def test_diagnostic_events(ask: Callable[..., Any], archive: Chat) -> None:
    rows = ask("diagnostic", "events")["rows"]
    assert [row["event_id"] for row in rows] == [7, 6, 5, 4, 3, 2, 1]
    assert rows[-1]["payload"]["text"] == "Сервер упал ночью"
    assert [row["event_id"] for row in ask("diagnostic", "events", "--limit", "2")["rows"]] == [7, 6]
    assert [row["event_id"] for row in ask("diagnostic", "events", "--type", "editedMessage")["rows"]] == [5]
    assert [row["event_id"] for row in ask("diagnostic", "events", "--chat-id", "1@chat.agent")["rows"]] == [6, 4]
    assert "\x1b" not in ask("diagnostic", "events", mode="table")
    assert "no such event" in ask("diagnostic", "events", "--type", "x", mode="table")


# The configuration


def test_config_show(ask: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VKTEAMS_BOT_API_TOKEN", "001.1234567890.0987654321:42")
    data = ask("config", "show", "--pid-file", "/x/y.pid")
    assert "1234567890" not in str(data)
    rows = {row["option"]: (row["value"], row["source"]) for row in data["rows"]}
    assert rows["api.token"] == ("***", "environment")
    assert rows["database.url"] == ("***", "environment")
    assert rows["api.url"] == ("http://127.0.0.1:9", "file")
    assert rows["daemon.pid_file"] == ("/x/y.pid", "flag")
    assert rows["api.poll_time"] == (30, "default")
    assert (data["file"], data["paths"]["pid_file"]) == (str(tmp_path / "d.toml"), "/x/y.pid")
    monkeypatch.delenv("VKTEAMS_BOT_API_TOKEN")
    (tmp_path / "token").write_text("001.1234567890.0987654321:42")
    monkeypatch.setenv("VKTEAMS_API_TOKEN_FILE", str(tmp_path / "token"))
    rows = {row["option"]: (row["value"], row["source"]) for row in ask("config", "show")["rows"]}
    assert rows["api.token"] == ("***", "secret's own file")
    assert "1234567890" not in ask("config", "show", mode="table")


def test_template_is_the_packaged_configuration_file(ask: Callable[..., Any]) -> None:
    text = ask("config", "show", "--template", mode="table")
    assert text == (ROOT / "etc" / "vkteamsd.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)


def test_config_check(ask: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ask("config", "check")
    assert data["valid"] is True
    assert any("api.token is not set" in note for note in data["notes"])
    monkeypatch.setenv("VKTEAMS_API_POOL_TIME", "5")
    assert "$VKTEAMS_API_POOL_TIME: no option has this variable" in ask("config", "check")["notes"]
    (tmp_path / "d.toml").write_text("[api]\npoll_time = 0\n")
    answer = ask("config", "check", code=78)
    assert answer["error"] == f"api.poll_time: 0 is out of range: at least 1, at most 300 ({tmp_path}/d.toml, line 2)"


# Health


def test_health_where_everything_is_well(
    vkteamsd: Make, simulator: Simulator, database_url: str, models_dir: Path
) -> None:
    options = {"embedding.models_dir": str(models_dir)}
    daemon = vkteamsd(api_url=simulator.url, database_url=database_url, fake="ready", options=options).started()
    daemon.wait_state("listening")
    done = daemon.ctl("--output", "json", "diagnostic", "health")
    answer = json.loads(done.stdout)
    assert (done.returncode, done.stderr, answer["success"]) == (0, "", True), done.stderr
    data = answer["data"]
    assert list(data) == [
        "api_connection", "database", "vector_store", "gaps", "daemon", "retention", "spool", "model", "disk",
        "nobodys_chats", "problems",
    ]  # fmt: skip
    assert (data["api_connection"], data["database"], data["vector_store"], data["model"]) == ("ok", "ok", "off", "ok")
    assert data["daemon"].keys() == {"status", "uptime", "events_processed", "last_activity"}
    assert data["daemon"]["status"] == "running"
    assert data["disk"][0].keys() == {"path", "free", "total"}
    assert data["problems"] == []
    table = daemon.ctl("diagnostic", "health").stdout
    assert re.search(r"api_connection +ok\n", table)
    assert re.search(r"daemon +running, last activity ", table)


def test_health_where_nothing_is_well(vkteamsd: Make) -> None:
    daemon = vkteamsd(options={"embedding.models": ["absent"]})
    done = daemon.ctl("--output", "json", "diagnostic", "health")
    answer = json.loads(done.stdout)
    assert done.returncode == 69
    assert answer["success"] is False
    data = answer["data"]
    assert (data["api_connection"], data["database"], data["vector_store"], data["model"]) == ("failed",) * 4
    assert data["daemon"] == {"status": "not running", "uptime": None, "events_processed": None, "last_activity": None}
    assert [problem.partition(":")[0] for problem in data["problems"]] == ["api", "database", "daemon", "model"]
    assert done.stderr == f"vkteamsctl: {answer['error']}\n"
    assert daemon.options["api.token"] not in done.stdout + done.stderr


def test_health_tells_what_is_wrong_with_the_database_of_an_archive_that_runs(
    ask: Callable[..., Any], postgres_server: PostgresServer, database_url: str
) -> None:
    def health() -> dict[str, Any]:
        data: dict[str, Any] = ask("diagnostic", "health", code=69)["data"]
        return data

    assert health()["database"] == "ok"
    name = database_url.rpartition("/")[2]
    postgres_server.execute("GRANT CREATE ON SCHEMA public TO PUBLIC", database=name)
    data = health()
    assert data["database"] == "failed"
    [problem] = [problem for problem in data["problems"] if problem.startswith("database: ")]
    assert problem.startswith("database: other roles may create functions in schema public")
    postgres_server.execute(problem.split("`")[1], database=name)
    assert health()["database"] == "ok"


def test_what_a_person_may_see(talk: Talk, ask: Callable[..., Any]) -> None:
    talk.say("1", "before")
    talk.say("2", "after", at=10)
    talk.say("3", "elsewhere", chat=DEV)
    talk.execute("INSERT INTO rosters (chat_id, tried_at, read_at) VALUES (%s, now(), now())", OPS)
    talk.execute("INSERT INTO roster_members (chat_id, user_id, since, role) VALUES (%s, %s, %s, 'member')",
                 OPS, PETR, moment(5))  # fmt: skip
    data = ask("diagnostic", "access", PETR)
    assert [(row["chat_id"], row["messages"], len(row["periods"])) for row in data["rows"]] == [(OPS, 1, 1)]
    assert data["nobodys_chats"] == [{"chat_id": DEV, "reason": "its roster was never read"}]
    assert ask("diagnostic", "access", VERA)["rows"] == []
    table = ask("diagnostic", "access", PETR, mode="table")
    assert "since " in table and f"nobody sees {DEV}: its roster was never read" in table


def test_health_warns_of_a_full_disk(ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from vkteams_daemon.ctl.commands import diagnostic

    monkeypatch.setattr(diagnostic.shutil, "disk_usage", lambda path: (10**12, 10**12 - 2**20, 2**20))
    problems = ask("diagnostic", "health", code=69)["data"]["problems"]
    assert any(problem.startswith("disk: only 1.0 MiB are free for ") for problem in problems)


def test_diagnostic_self(vkteamsd: Make, simulator: Simulator) -> None:
    data = vkteamsd(api_url=simulator.url).answer("diagnostic", "self")
    assert (data["user_id"], data["nick"], data["url"]) == ("1000000001", "opsbot", simulator.url)
    done = vkteamsd(api_url=simulator.url, token="001.1111111111.2222222222:3").ctl("diagnostic", "self")
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith("vkteamsctl: the Bot API refused the token. ")
    assert "1111111111" not in done.stderr
    done = vkteamsd(token="").ctl("diagnostic", "self")
    assert (done.returncode, "api.token: it is not set" in done.stderr) == (78, True)


def test_diagnostics_never_poll(
    ask: Callable[..., Any], archive: Chat, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VKTEAMS_BOT_API_URL", simulator.url)
    ask("diagnostic", "events")
    ask("diagnostic", "health", code=69)
    assert [entry.kind for entry in simulator.log() if entry.kind == "poll"] == []
    with psycopg.connect(archive.url) as connection:
        assert connection.execute("SELECT last_event_id FROM bots").fetchone() == (7,)
