"""Every command, MCP tool and page of the product asks one server and a Citus cluster the same, and hears the same.

The lists are complete: what joins the product must be given its questions here. The tests that need a cluster are
skipped unless VKTEAMS_TEST_CITUS_URL names a coordinator (tests/harness/cluster.py).
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

import pytest

from tests.harness.cluster import needs_cluster
from tests.harness.daemon import ROOT
from tests.harness.mcp import Office, asked, embedded, told, with_client
from tests.harness.postgres import PostgresServer
from tests.harness.web import ADMIN, Answer, Page, give_rosters
from vkteams_daemon.ctl import command_lines
from vkteams_daemon.ctl.main import main
from vkteams_daemon.web.pictures import PICTURES

CHAT, OTHER, WHO = "681869378@chat.agent", "684120415@chat.agent", "k.semenova@corp.example"
MESSAGE, LAST = "7576322310174586465", "7579061043949683760"
SPAN = ("--since", "2026-11-18", "--until", "2026-11-25")
_OF_A_DAEMON = "it asks a daemon; tests/faults play daemons on the cluster"
_NOTHING = "it asks no archive"
_ELSEWHERE = "tests/integration/test_distributed.py has it"
_REFUSED = "it is refused on a cluster; tests/integration/test_distributed.py has the sentence"

COMMANDS: dict[str, str | tuple[tuple[str, ...], ...]] = {
    "find": (("сертификат",), ("хинкали", "--limit", "3")),
    "open": _NOTHING,
    "search hybrid": (("сертификат истекает",), ("что с почтой", "--chat-id", CHAT), ("договор", *SPAN)),
    "search semantic": (("обед в офисе",), ("сбой", "--user-id", WHO), ("диск", "--has", "link")),
    "search text": (
        ("сертификат",), ('"до завтра"', "--chat-id", OTHER), ("vpn", "--sort", "new"), ("сертефикат",),
        ("завтра", "--edited"), ("сертификат", "--context", "2"), ("ghbdtn",), ("дедлайн", "--limit", "50"),
    ),
    "context get": (
        ("--chat-id", CHAT, *SPAN), ("--context-type", "topic", "--query", "сертификат"),
        ("--context-type", "user-profile", "--user-id", WHO, "--timeframe", "3650d"), ("--around", MESSAGE),
    ),
    "context message": ((MESSAGE, "--versions"), (LAST, "--chat-id", OTHER)),
    "context chats": ((), ("--chat-id", CHAT), ("--since", "2026-11-24")),
    "context users": ((), ("--chat-id", CHAT), ("--since", "2026-11-24", "--limit", "2")),
    "database init": ((),),
    "database migrate": ((),),
    "database stats": ((), ("--chat-id", CHAT), ("--since", "2026-11-24")),
    "database export": (
        (), ("--chat-id", CHAT, *SPAN), ("--user-id", WHO, "--deleted"), ("--format", "csv"),
    ),
    "database backup": _REFUSED,
    "database restore": _REFUSED,
    "database verify": ((), ),
    "database quarantine": ((),),
    "database replay": ((), ("--all", "--yes")),
    "database cleanup": (
        ("--older-than", "3650d", "--dry-run"), ("--older-than", "1d", "--chat-id", "693938330@chat.agent", "--yes"),
    ),
    "database erase": (
        ("--user-id", WHO, "--dry-run"), ("--message", f"{CHAT}/7576350469208956807", "--yes"),
        ("--user-id", "n.whitfield@corp.example", "--yes"),
    ),
    "database hold": ((CHAT,), ()),
    "database lift": ((CHAT,),),
    "database roster": "it asks the Bot API; the daemons of tests/faults do it on the cluster",
    "database maintenance": (("--check",), ()),
    # To set it opens a gap, which every answer tells with the time: tests/integration/test_id_restart.py.
    "database cursor": ((),),
    "database gaps": ((), ("--all",)),
    "model list": ((),),
    "model install": _NOTHING,
    "model use": "it changes the configuration",
    "model add": "it changes the configuration",
    "model drop": "it changes the configuration",
    "model status": ((),),
    "model retry": ((),),
    "diagnostic health": ((),),
    "diagnostic access": (("p.petrov@corp.example",),),
    "diagnostic self": _NOTHING,
    "diagnostic events": ((), ("--chat-id", CHAT, "--limit", "5"), ("--type", "editedMessage")),
    "mcp serve": "test_tools_answer_alike",
    "web serve": "test_pages_answer_alike",
    **dict.fromkeys(("daemon start", "daemon stop", "daemon restart", "daemon reload"), _OF_A_DAEMON),
    **dict.fromkeys(("daemon status", "daemon stats", "daemon metrics", "daemon top"), _OF_A_DAEMON),
    **dict.fromkeys(("config init", "config install", "config show", "config check", "simulator run"), _NOTHING),
}  # fmt: skip

TOOLS: dict[str, tuple[dict[str, Any], ...]] = {
    "search": ({"query": "сертификат истекает"}, {"query": "почта", "chat_id": CHAT}, {"similar_to": MESSAGE}),
    "search_hybrid": ({"query": "когда обед"},),
    "search_semantic": ({"query": "еда"},),
    "search_text": ({"query": "сертификат", "limit": 20}, {"query": "vpn", "user_id": WHO}),
    "get_context": (
        {"chat_id": CHAT, "since": "2026-11-18"}, {"context_type": "topic", "query": "сертификат"},
        {"context_type": "user-profile", "user_id": WHO, "since": "2026-11-01"},
    ),
    "get_recent_messages": ({}, {"chat_id": OTHER, "limit": 5}, {"user_id": WHO, "format": "transcript"}),
    "get_message": ({"msg_id": MESSAGE}, {"msg_id": LAST, "chat_id": OTHER}),
    "count": ({"query": "сертификат"}, {"by": "person"}, {"by": "chat", "query": "завтра"}, {"by": "day"}),
    "get_database_stats": ({}, {"chat_id": CHAT}, {"since": "2026-11-24"}),
    "list_chats": ({}, {"since": "2026-11-24"}),
    "list_users": ({}, {"chat_id": CHAT}, {"limit": 2}),
    "daemon_status": ({},),
}  # fmt: skip

PAGES: dict[str, str | tuple[str, ...]] = {
    "/": ("/?q=сертификат", "/?q=почта&mode=semantic", "/?q=договор&sort=newest", "/?q="),
    "/c/{chat:path}": (f"/c/{CHAT}", f"/c/{OTHER}", "/c/nobody@chat.agent"),
    "/m/{chat}/{message:path}": (f"/m/{CHAT}/{MESSAGE}", f"/m/{OTHER}/{LAST}"),
    "/today": ("/today", "/today?since=2026-11-24"),
    "/today/live": "tests/web/test_live.py has it, on the cluster too; what it looks at is what /today shows",
    "/activity": ("/activity", f"/activity?chat={CHAT}&span=month"),
    "/activity/{picture}.svg": tuple(f"/activity/{name}.svg" for name in PICTURES),
    "/health": ("/health",),
    "/health/lag.svg": "it draws when each message arrived; `database stats` has the figures",
    "/settings": "it asks no archive",
    "/sign-out": "it asks no archive",
    "/static/{name}": "it asks no archive",
}
# What differs between two archives that were told the same: when each was told, how much room it takes.
_VOLATILE = re.compile(
    r"^before$|^dead$|^disk$|^tables$|octets|bytes|size|took|seconds|cursor|received_at|first_seen|deleted_at|applied_at|enqueued_at|updated_at|read_at"
    r"|tried_at|erased_at|held_at|lag|age|created_at|asked_at|identity|now|until|took_ms|timestamp"
)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S*$")
_SEEN_AT = re.compile(r'"seen_at": "[^"]*"')
_BEGAN = datetime.now(UTC) - timedelta(hours=1)


def test_every_command_has_its_questions() -> None:
    verbs = {f"{noun.name} {verb.name}" for noun in command_lines.nouns() for verb in noun.verbs}
    assert COMMANDS.keys() == verbs | {command.name for command in command_lines.shortcuts()}


def test_every_page_has_its_questions() -> None:
    tree = ast.parse((ROOT / "vkteams_daemon" / "web" / "application.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Route"]
    paths = {ast.literal_eval(call.args[0]) for call in calls}
    assert paths == PAGES.keys() | {"/sign-in", "/signed-in"}, "those two ask no archive"


def _plain(value: Any) -> Any:
    """An answer without what differs between two archives that were told the same."""
    if isinstance(value, str) and _TIME.match(value) and datetime.fromisoformat(value) > _BEGAN:
        return "now"
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items() if not _VOLATILE.search(name)}
    if isinstance(value, list | tuple):
        each = [_plain(each) for each in value]
        steps = bool(each) and isinstance(each[0], dict) and "what" in each[0]  # of maintenance, the largest first
        return sorted(each, key=str) if steps else each
    return round(value, 4) if isinstance(value, float) else value


Both = tuple[Office, Office]


@pytest.fixture(scope="module")
def offices(
    postgres_server: PostgresServer, cluster_url: str, tmp_path_factory: pytest.TempPathFactory, models_dir: Path,
    tiny_model_dir: Path,
) -> Iterator[Both]:  # fmt: skip
    """The built-in conversation on one server and on the cluster, with vectors and rosters."""
    with postgres_server.fresh() as url:
        made = []
        for name, each in (("one", url), ("cluster", cluster_url)):
            told(each)
            embedded(each, tiny_model_dir)
            give_rosters(each)
            office = Office(tmp_path_factory.mktemp(name), each, models_dir)
            office.configure(
                web={"trusted_proxies": ["127.0.0.1"], "administrators": [ADMIN]},
            )
            (office.directory / "state").mkdir()
            made.append(office)
        yield made[0], made[1]


def _answer(office: Office, words: tuple[str, ...]) -> Any:
    """The exit code, the data or the text, and the error of vkteamsctl."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, office.environ(), clear=True), contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):  # fmt: skip
        export = words[:2] == ("database", "export")
        code = main(["--config", str(office.file), *(() if export else ("--output", "json")), *words])
    if export:
        return code, sorted(_SEEN_AT.sub("", out.getvalue()).splitlines())
    answer = json.loads(out.getvalue() or "{}")
    return code, _plain(answer.get("data")), answer.get("error") or err.getvalue()


@needs_cluster
@pytest.mark.parametrize("command", [name for name, asked in COMMANDS.items() if not isinstance(asked, str)])
def test_commands_answer_alike(offices: Both, command: str) -> None:
    for arguments in COMMANDS[command]:
        answers = [_answer(office, (*command.split(), *arguments)) for office in offices]
        assert answers[1] == answers[0], arguments
        assert answers[0][0] in (0, 69), answers[0]


@needs_cluster
def test_tools_answer_alike(offices: Both) -> None:
    listed = with_client(offices[0], lambda client: client.list_tools())
    assert {tool.name for tool in listed.tools} == TOOLS.keys()
    for tool, questions in TOOLS.items():
        for arguments in questions:
            answers = [_plain(asked(office, tool, **arguments)) for office in offices]
            assert answers[1] == answers[0], (tool, arguments)


@needs_cluster
def test_pages_answer_alike(offices: Both) -> None:
    pages = [Page(office) for office in offices]
    try:
        for questions in PAGES.values():
            for path in questions if isinstance(questions, tuple) else ():
                answers = [page.get(quote(path, safe="/?=&:@"), ADMIN) for page in pages]
                assert answers[1].status == answers[0].status, path
                one, other = (_words(answer) for answer in answers)
                assert other == one, path
    finally:
        for page in pages:
            page.end()


def _words(answer: Answer) -> list[str]:
    """What a page or a picture says, without the minutes of this run: of a deletion they are when it was heard of."""
    this_run = {f"{datetime.now(UTC) - timedelta(minutes=minutes):%H:%M}" for minutes in range(30)}
    words = answer.words.split() if "<main" in answer.text else [answer.text]
    return [word for word in words if word.strip("().,") not in this_run]
