"""`vkteamsctl find` and `vkteamsctl open`: words without quotes, hits with numbers, and a hit in its conversation."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import ROOT
from tests.harness.talk import OPS, PETR, VERA, Talk
from vkteams_daemon.ctl import hits_view
from vkteams_daemon.search.results import Coverage, Hit, SearchResult

Ask = Callable[..., Any]
FORWARD = {
    "type": "forward",
    "payload": {"message": {
        "msgId": "77", "from": {"userId": VERA, "firstName": "Вера"}, "text": "касса не печатает чеки",
        "timestamp": 1763970000,
    }},
}  # fmt: skip

FILE = {"type": "file", "payload": {"fileId": "f", "caption": "чек.pdf"}}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vkteams" / "hits.json"


@pytest.fixture
def till(talk: Talk) -> Talk:
    """A question with an answer, a thread below it, and a forward with a file."""
    talk.say("1", "касса на складе не открывается со вторника")
    talk.say("2", "перезагрузил кассу, открылась", at=2, who=PETR, answers="1")
    talk.say("3", "чек из кассы выходит пустой", at=5, who=VERA, chat="9@chat.agent", below=(OPS, "1"))
    talk.say(
        "4", "", at=60, who=PETR, parts=(FORWARD, {"type": "file", "payload": {"fileId": "f", "caption": "чек.pdf"}})
    )
    return talk


def test_words_need_no_quotes_wherever_they_stand(ask: Ask, till: Talk) -> None:
    expected = [hit["msg_id"] for hit in ask("search", "hybrid", "касса чек")["hits"]]
    assert len(expected) >= 3
    for words in (
        ("find", "касса", "чек"), ("find", "касса чек"), ("find", "касса", "чек", "--limit", "10"),
        ("find", "--limit", "10", "касса", "чек"), ("--output", "json", "find", "касса", "чек"),
    ):  # fmt: skip
        assert [hit["msg_id"] for hit in ask(*words)["hits"]] == expected, words
    assert "3" not in [hit["msg_id"] for hit in ask("find", "касса", "-пустой")["hits"]]


def test_a_hit_shows_in_words_what_it_answers_forwards_and_where_it_stands(ask: Ask, till: Talk) -> None:
    out = ask("find", "касса", mode="table")
    assert re.search(r"(?m)^ 1  Эксплуатация · ", out)
    assert "Эксплуатация › thread “касса на складе не открывается со вторника” · Вера Лис · Tue 2026-11-24 08:05" in (
        " ".join(out.split())
    )
    assert "in answer to Анна Иванова, 2026-11-24 08:00: касса на складе не открывается" in (
        " ".join(out.replace("|", " ").split())
    )
    assert "forwarded from Вера" in out
    assert "касса** не печатает чеки" in out or "касса не печатает чеки" in out
    assert "@" not in out, "ids only with --ids"
    assert OPS in ask("find", "касса", "--ids", mode="table")


def test_open_shows_a_hit_by_its_number_in_its_conversation(ask: Ask, till: Talk, _cache: Path) -> None:
    order = [hit["msg_id"] for hit in ask("find", "касса")["hits"]]
    assert not _cache.exists(), "programs have ids"
    ask("find", "касса", mode="table")
    assert _cache.stat().st_mode & 0o777 == 0o600
    assert _cache.parent.stat().st_mode & 0o077 == 0
    assert "касса" not in _cache.read_text()
    number = order.index("2") + 1
    out = ask("open", str(number), mode="table")
    assert re.search(r"(?m)^> 08:02   Пётр → Анна Иванова: перезагрузил кассу", out)
    assert "касса на складе не открывается" in out
    assert "@" not in out
    assert ask("open", str(number))["conversations"][0]["matches"] == ["2"]
    below = ask("open", str(order.index("3") + 1), mode="table")
    assert below.startswith("Эксплуатация › thread “касса на складе не открывается со вторника”\n")
    assert "08:00 Анна Иванова (the thread hangs on this): касса" in below
    assert "08:05 Вера Лис: чек из кассы" in below
    ask("search", "text", "ничего", mode="table")
    assert ask("open", str(number))["conversations"][0]["matches"] == ["2"], "an empty answer keeps the numbers"
    assert "had no hit 99. Its hits are 1 to" in ask("open", "99", code=64)["error"]
    assert "is not a whole number from 1 on" in ask("open", "0", code=64)["error"]


def test_numbers_of_another_archive_or_of_no_search_open_nothing(
    ask: Ask, till: Talk, _cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no hit of this archive has a number yet. Search first" in ask("open", "1", code=69)["error"]
    ask("find", "касса", mode="table")
    whole = json.loads(_cache.read_text())
    for damaged in ("", "{", json.dumps(whole | {"value": [[1]]}), json.dumps(whole | {"archive": "other"})):
        _cache.write_text(damaged)
        assert "Search first" in ask("open", "1", code=69)["error"]
    _cache.unlink()
    _cache.parent.chmod(0o500)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    assert "касса" in ask("find", "касса", mode="table"), "where nothing can be kept, a search works"


def test_weak_hits_below_a_sure_one_fold_away(capsys: pytest.CaptureFixture[str]) -> None:
    from argparse import Namespace

    from vkteams_daemon.config import Config
    from vkteams_daemon.ctl.output import Screen

    def shown(scores: list[float], mode: Any = "hybrid", **view: bool) -> list[str]:
        when = till_start
        hits = [
            Hit(chat_id="1", chat_title="T", msg_id=str(n), user_id=None, author="A", sent_at=when, text=f"text {n}",
                snippet=f"text {n}", score=score, reply_to_msg_id=None)
            for n, score in enumerate(scores)
        ]  # fmt: skip
        result = SearchResult("q", mode, hits, Coverage(when, 0, ("m",)))
        hits_view.show(Screen(sys.stdout), result, Namespace(all=False, ids=False, explain=False, **view), Config())
        return capsys.readouterr().out.splitlines()

    from tests.harness.talk import START as till_start

    out = shown([0.9, 0.4, 0.05, 0.02])
    assert "2 weaker ones: --all" in out
    assert "    text 1" in out and "    text 2" not in out
    assert "1 weaker one: --all" in shown([0.9, 0.05])
    above = shown([0.05, 0.9, 0.04])
    assert "    text 0" in above and "1 weaker one: --all" in above
    assert not any("weaker" in line for line in shown([0.3, 0.01]) + shown([0.9, 0.8]) + shown([0.9, 0.01], "semantic"))


def test_lines_wrap_at_words_with_their_indent_and_a_terminal_has_a_pager(talk: Talk, tmp_path: Path) -> None:
    long = " ".join(f"слово{n} и ещё одно длинное продолжение" for n in range(40))
    talk.say("1", f"начало {long} https://example.com/{'x' * 100}")
    for n in range(2, 30):
        talk.say(str(n), f"начало строки {n}", at=n)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("VKTEAMS_")}
    environ |= {
        "DATABASE_URL": talk.url, "VKTEAMS_BOT_CONFIG": "/dev/null", "TERM": "xterm", "LC_ALL": "C.UTF-8",
        "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "NO_COLOR": "1",
    }  # fmt: skip
    command = [sys.executable, str(ROOT / "bin" / "vkteamsctl"), "open", "1"]
    subprocess.run([*command[:-2], "find", "начало", "слово1"], env=environ, check=True, capture_output=True)
    piped = subprocess.run(command, env=environ, text=True, capture_output=True, check=True).stdout.splitlines()
    assert max(len(line) for line in piped if "https" not in line) <= 80
    assert any(line.startswith(" " * 10) for line in piped)

    def on_terminal(**more: str) -> str:
        ours, theirs = pty.openpty()
        output = b""

        def read() -> None:
            nonlocal output
            try:
                while chunk := os.read(ours, 4096):
                    output += chunk
            except OSError:  # the end of a terminal is an error
                pass

        reader = threading.Thread(target=read)
        with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ | more) as process:
            os.close(theirs)
            reader.start()
        reader.join()
        os.close(ours)
        assert process.returncode == 0, output.decode()
        return output.decode()

    narrow = on_terminal(COLUMNS="50", LINES="10", PAGER="cat").splitlines()
    assert max(len(line) for line in narrow if "https" not in line) <= 50
    assert on_terminal(COLUMNS="80", LINES="10", PAGER="sed s/^/paged:/").startswith("paged:")
    assert "paged" not in on_terminal(COLUMNS="80", LINES="900", PAGER="sed s/^/paged:/")
    assert "начало" in on_terminal(COLUMNS="80", LINES="10", PAGER="/no/such/pager")
    assert "Traceback" not in on_terminal(COLUMNS="80", LINES="10", PAGER="true")
