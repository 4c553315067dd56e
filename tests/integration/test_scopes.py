"""A client's answers do not depend on what it may not see: the same bytes over the archive with and without that.

One archive holds what every client of this file may see. Copies of it get other chats, an older time, or both. Every
tool, resource and prompt of the server is asked over the archive and over its copy. The tools are listed by the server:
a new one is asked as well, and a new argument needs values here.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import random
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import msgspec
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp.types import ElicitResult

from tests.harness.cluster import on_cluster
from tests.harness.mcp import embedded
from tests.harness.postgres import PostgresServer
from tests.harness.scale import drawn, scaled
from tests.harness.talk import ANNA, DEV, OPS, PETR, VERA, Talk
from vkteams_daemon.access import TOOLS, Access
from vkteams_daemon.config import Config
from vkteams_daemon.daemon import status as status_file
from vkteams_daemon.mcp.archive_reader import Reader
from vkteams_daemon.mcp.server import Server
from vkteams_daemon.options import Access as AccessOptions
from vkteams_daemon.options import Daemon as DaemonOptions
from vkteams_daemon.options import Database as DatabaseOptions
from vkteams_daemon.options import Embedding as EmbeddingOptions
from vkteams_daemon.options import Web as WebOptions
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.serving.audit import Audit
from vkteams_daemon.store import embedding_models, vector_counts, vector_index
from vkteams_daemon.store.words.lexicon import CUT
from vkteams_daemon.system.redaction import Secrets
from vkteams_daemon.web.application import Application
from vkteams_daemon.web.session import Session, Sessions
from vkteams_daemon.web.visitor import Admission

THREAD, LONE_THREAD, OLD_THREAD = "693000001@chat.agent", "693000002@chat.agent", "693000003@chat.agent"
LEFT, OLD_ROSTER, REFUSED, NO_BOT, ORPHAN, GONE, UNREAD = (f"69400000{n}@chat.agent" for n in range(7))
SECRET = "vault Kx93hunter парольница"
SINCE = datetime(2026, 11, 1, tzinfo=UTC)
OLD = -60 * 24 * 60  # minutes: before SINCE
CHATS = frozenset({OPS, PETR, LONE_THREAD})

QUERIES = (
    "backup", f'backup "{SECRET}"', 'backup "vault Kx93hunteq"', "backup парольница", "backup порольница",
    "gfhjkmybwf OR сервер", "Kx93hunter", "the",
)  # fmt: skip
VALUES: dict[str, tuple[Any, ...]] = {
    "query": QUERIES,
    "chat_id": (OPS, DEV, OLD_THREAD, PETR, VERA, "1@chat.agent", "all"),
    "user_id": (ANNA, PETR, VERA, "nobody@corp.example", "TWO@corp.example"),
    "chat": ("Экспл", "Hidden", "Development", "Dev", OPS),
    "user": ("Анна", "Vera", "Вера", "Renamed", "nobody", "Gtnh", "p.petrov"),
    "has": (["file"], ["mention"]),
    "mentions": ("Анна", "Вера", "nobody"),
    "edited": (True,),
    "sort": ("new",),
    "msg_id": ("m1", "m3", "m5", "t1", "d1", "h1", "o1", "none"),
    "context_type": ("recent", "topic", "user-profile", "around"),
    "timeframe": ("3000d",),
    "since": ("2026-11-10", "2026-01-01"),
    "until": ("2026-11-24",),
    "limit": (2,),
    "context": (3,),
    "explain": (True,),
    "cursor": (),
    "max_tokens": (300,),
    "timezone": ("Asia/Tokyo", "nowhere"),
    "format": ("transcript",),
    "mode": ("semantic", "text"),
    "similar_to": ("m1", "h1", "o1", "none"),
    "reply_to_user": ("Анна", "Вера", "nobody"),
    "by": ("person", "chat", "day"),
}
_SAMPLE = 1  # questions
USUAL = {"query": QUERIES[0], "msg_id": "m1", "explain": True}


def _visible(talk: Talk) -> None:
    talk.say("m1", "the backup of the server is on the vault", at=0)
    talk.say("m2", "где backup и пароль от сервера?", at=1, who=PETR, answers="o2")
    talk.say("m3", "спроси Анну про backup", at=2, who=PETR, answers="m1")
    talk.say("m4", "Kx93hunteq is the other one", at=3)
    talk.say("m5", "сервер перезапущен", at=4, answers="o1")
    talk.say("m6", "the server is up", at=5)
    talk.edit("m6", "the server is up again", at=6)
    talk.say("m7", "removed", at=7)
    talk.delete("m7")
    talk.say("t1", "in the thread about the backup", at=8, chat=THREAD, below=(OPS, "m1"))
    talk.say("t2", "in a thread of a chat that is not in the scope", at=9, chat=LONE_THREAD, below=(DEV, "h1"))
    talk.say("p1", "a bot's word to Petr", at=10, who=ANNA, chat=PETR)
    talk.say("same", "the same id in two chats", at=11)
    talk.say("m8", "backup without a vector", at=15)
    talk.event("newMessage", msgId={"unreadable": 1}, chat={"chatId": OPS, "type": "group"})


def _hidden_chats(talk: Talk) -> None:
    for n in range(8):
        talk.say(f"h{n}", f"backup: {SECRET} {n}", at=n, who=VERA, chat=DEV, parts=({"type": "file", "payload": {}},))
    talk.say("same", "the same id in two chats", at=12, chat=DEV)
    talk.say("d1", "a thread in a hidden chat", at=13, chat="693000009@chat.agent", below=(DEV, "h1"))
    talk.say("v1", "a word to Vera alone", at=14, who=VERA, chat=VERA)
    renamed = {"userId": ANNA, "firstName": "Renamed", "lastName": "Elsewhere", "nick": "hidden"}
    titled = {"chatId": DEV, "type": "group", "title": "Hidden title"}
    talk.event("newMessage", msgId="h9", timestamp=1_795_000_000, text="renamed", chat=titled, **{"from": renamed})
    talk.say("h10", "Пётр speaks here", at=30, who=PETR, chat=DEV)
    talk.edit("h1", f"{SECRET} edited", at=31, who=VERA, chat=DEV)
    talk.delete("h2", chat=DEV)
    talk.event("newMessage", msgId={"unreadable": 2}, chat={"chatId": DEV, "type": "group"})
    talk.event("newMessage", msgId={"unreadable": 3})
    for user in ("Two@corp.example", "two@corp.example"):
        talk.say(f"of {user}", "an id in two spellings", at=32, who=user, chat=DEV)
    talk.execute("UPDATE messages SET search_version = 0 WHERE msg_id = 'h3'")
    talk.execute("UPDATE messages SET search = search || %s::tsvector WHERE msg_id = 'h4'", f"'{CUT}':1")
    _gap(talk, DEV, "2026-11-24", "2026-11-25")


def _hidden_times(talk: Talk) -> None:
    # o2 answers o1: m2 and m5 belong together by messages that the client may not see.
    talk.say("o1", f"{SECRET} of old", at=OLD, who=VERA)
    talk.say("o2", "backup парольница", at=OLD + 1, answers="o1")
    talk.say("o3", "in an old thread", at=OLD + 2, who=VERA, chat=OLD_THREAD, below=(OPS, "m1"))
    talk.say("v1", "a chat that was silent since", at=OLD + 3, who=VERA, chat=VERA)
    talk.edit("o1", f"{SECRET} edited today", at=20, who=VERA)
    talk.delete("o2")
    talk.say("ho", "the chat of the thread, before that", at=OLD + 4, who=VERA, chat=DEV)
    talk.event("newMessage", msgId={"unreadable": 4}, chat={"chatId": OPS}, timestamp=1_700_000_000)
    talk.execute("UPDATE events SET chat_id = %s WHERE error IS NOT NULL AND occurred_at < '2024-01-01'", OPS)
    _gap(talk, OPS, "2026-09-24", "2026-09-25")


def _rosters_of_hidden_chats(talk: Talk) -> None:
    """Chats in whose rosters Petr stands, or stood, and which he may not see."""
    for n, chat in enumerate((LEFT, OLD_ROSTER, REFUSED, NO_BOT, GONE, UNREAD)):
        talk.say(f"r{n}", f"backup: {SECRET} of a roster", at=n, who=VERA, chat=chat)
        talk.say(f"rt{n}", f"backup: {SECRET} in its thread", at=n, who=VERA, chat=f"69500000{n}@chat.agent",
                 below=(chat, f"r{n}"))  # fmt: skip
    talk.event(
        "newMessage", msgId="orphan", timestamp=int(SINCE.timestamp()) + 1, text=f"backup: {SECRET} of an orphan",
        chat={"chatId": ORPHAN, "type": "group"}, parent_topic={"messageId": "gone", "type": "message"},
        **{"from": {"userId": VERA}},
    )  # fmt: skip
    for chat in (DEV, LEFT, OLD_ROSTER, REFUSED, NO_BOT, ORPHAN, GONE):
        _roster(talk, chat, {PETR: (None, None), VERA: (None, None)})
    talk.execute("UPDATE roster_members SET until = now() WHERE chat_id = ANY(%s) AND user_id = %s", [LEFT, DEV], PETR)
    talk.execute("UPDATE rosters SET read_at = now() - interval '73 hours' WHERE chat_id = %s", OLD_ROSTER)
    talk.execute("UPDATE rosters SET refused = 'Permission denied' WHERE chat_id = %s", REFUSED)
    left = "INSERT INTO chat_members (chat_id, user_id, left_at) VALUES (%s, %s, now() + interval '1 minute')"
    talk.execute(left, NO_BOT, "1000000001")
    talk.execute(left, GONE, PETR)


def _gap(talk: Talk, chat: str, begin: str, end: str) -> None:
    """A gap of this chat between two days."""
    talk.execute("INSERT INTO gaps (bot_id, chat_ids, from_event_id, to_event_id, from_time, to_time, reason)"
                 " VALUES ('1000000001', %s, 1, 2, %s, %s, 'hidden')", [chat], begin, end)  # fmt: skip


def _roster(talk: Talk, chat: str, members: dict[str, tuple[datetime | None, datetime | None]]) -> None:
    """A roster that has just been read; of each member since when, and until when."""
    talk.execute("INSERT INTO rosters (chat_id, tried_at, read_at) VALUES (%s, now(), now())", chat)
    for user, (since, until) in members.items():
        talk.execute("INSERT INTO roster_members (chat_id, user_id, since, until, role)"
                     " VALUES (%s, %s, coalesce(%s, '-infinity'::timestamptz), %s, 'member')",
                     chat, user, since, until)  # fmt: skip


class Archives:
    """The archive of what is visible, and its copies with more in them; each with a configuration of its own."""

    def __init__(self, server: PostgresServer, directory: Path, models_dir: Path, model_dir: Path) -> None:
        self._server, self._directory, self._models_dir, self._model_dir = server, directory, models_dir, model_dir
        self.names = {"visible": server.create_database()}
        self._fill("visible", _visible)
        self.names["nothing"] = server.create_database()
        self._fill("nothing")
        for name, fills in {
            "chats": [_hidden_chats], "times": [_hidden_times], "both": [_hidden_times, _hidden_chats],
            "members": [_hidden_times, _hidden_chats, _rosters_of_hidden_chats],
        }.items():  # fmt: skip
            self.names[name] = server.create_database(template=self.names["visible"])
            self._fill(name, *fills)

    def config(self, name: str) -> Config:
        """The configuration of this archive."""
        directory = self._directory / name
        url = self._server.url(self.names[name])
        return Config(
            database=DatabaseOptions(url=url, distributed=on_cluster(url)),
            daemon=DaemonOptions(runtime_dir=str(directory), state_dir=str(directory / "state")),
            embedding=EmbeddingOptions(models_dir=str(self._models_dir)),
        )

    def close(self) -> None:
        """Drop the databases."""
        for name in self.names.values():
            self._server.drop_database(name)

    def _fill(self, name: str, *fills: Callable[[Talk], None]) -> None:
        url = self._server.url(self.names[name])
        talk = Talk(url)
        talk._number = 1000 * len(self.names)
        try:
            for fill in fills:
                fill(talk)
            embedded(url, self._model_dir)
            # One visible message waits for its vector.
            talk.execute("DELETE FROM embeddings WHERE msg_id = 'm8'")
            with talk.connection() as connection:
                vector_counts.recount(connection, OPS)
            talk.execute("INSERT INTO embedding_queue (chat_id, msg_id, model_id, kind, enqueued_at)"
                         " SELECT chat_id, msg_id, 1, 'message', sent_at FROM messages"
                         " WHERE msg_id = 'm8'")  # fmt: skip
            if name == "visible":
                # Petr came at SINCE, and Vera left then.
                _roster(talk, OPS, {PETR: (SINCE, None), ANNA: (None, None), VERA: (None, SINCE)})
            elif name != "nothing":
                talk.say("w1", f"waits: {SECRET}", at=OLD if name == "times" else 16, who=VERA, chat=VERA)
                with talk.connection() as connection:
                    (active,) = embedding_models.active_models(connection)
                    vector_index.ensure_index(connection, active.model_id, active.dims)
            talk.execute("DELETE FROM words")
            talk.execute("INSERT INTO words SELECT word, ndoc FROM ts_stat('SELECT search FROM messages')")
            talk.execute("INSERT INTO words_counted (messages, counted_at) SELECT count(*), now() FROM messages"
                         " ON CONFLICT (only_row) DO UPDATE SET messages = excluded.messages")  # fmt: skip
            talk.execute("ANALYZE")
        finally:
            talk.close()
        status = status_file.new("1.0", "all")
        status.events.saved = status.events.received = len(talk.written)
        status.events.last_event_at = status.api.last_poll_at = datetime.now(UTC)
        (self._directory / name).mkdir()
        status_file.write(status, self._directory / name / "vkteamsd.status.json")


@pytest.fixture(scope="module")
def archives(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory, models_dir: Path, tiny_model_dir: Path
) -> Iterator[Archives]:
    """The archives; for reading only."""
    with ExitStack() as stack:
        made = Archives(postgres_server, tmp_path_factory.mktemp("scopes"), models_dir, tiny_model_dir)
        stack.callback(made.close)
        yield made


def _questions(arguments: dict[str, Any], required: list[str]) -> Iterator[dict[str, Any]]:
    """Arguments for a tool: each value of each argument beside the usual ones."""
    unknown = arguments.keys() - VALUES.keys()
    assert not unknown, f"VALUES has no value of {unknown}"
    required = [*required, *(["query"] if "similar_to" in arguments else [])]
    usual = {name: value for name, value in USUAL.items() if name in required or (name == "explain" in arguments)}
    yield usual
    for name in arguments:
        for value in VALUES[name]:
            asked = usual | {name: value} | ({"query": "backup"} if value == "topic" else {})
            yield {key: entry for key, entry in asked.items() if (name, key) != ("similar_to", "query")}
    if "query" in arguments:
        yield usual | {"query": QUERIES[1], "chat_id": "all"} | ({"limit": 1} if "limit" in arguments else {})
    if "msg_id" in arguments:
        yield from (usual | {"msg_id": m, "chat_id": chat} for m in ("m1", "h1", "o1", "none") for chat in (OPS, DEV))
    if "context_type" in arguments:
        yield from ({"user_id": user, "context_type": "user-profile"} for user in VALUES["user_id"])


async def _answers(config: Config, access: Access, capsys: Any, seed: int | None = None) -> dict[str, Any]:
    """The answer to every question, without the time of this run.

    With a seed, the first question to each tool and a few others that the seed chooses.
    """
    asked: list[Any] = []
    chance = random.Random(seed)

    async def choose(_: Any, params: Any) -> ElicitResult:
        asked.append(params.model_dump(mode="json"))
        return ElicitResult(action="decline")

    reader = Reader(config, access)
    answers: dict[str, Any] = {}
    try:
        async with Client(Server(reader, Audit(Secrets(), "stdio")), elicitation_callback=choose) as client:
            for tool in (await client.list_tools()).tools:
                required = tool.input_schema.get("required", [])
                first, *others = _questions(tool.input_schema["properties"], required)
                if seed is not None:
                    others = chance.sample(others, min(len(others), _SAMPLE))
                for arguments in (first, *others):
                    cursor: dict[str, Any] = {}
                    for page in range(2 if "limit" in arguments else 1):
                        answer = await client.call_tool(tool.name, arguments | cursor)
                        text = answer.content[0].text  # type: ignore[union-attr]
                        answers[f"{tool.name} {arguments} page {page}"] = (answer.is_error, _masked(text))
                        cursor = {"cursor": (answer.structured_content or {}).get("cursor")}
                        if not cursor["cursor"]:
                            break
            answers["resources"] = (await client.list_resources()).model_dump_json()
            uris = [f"vkteams://chat/{chat}" for chat in (*CHATS, DEV, THREAD, VERA, "1@chat.agent")]
            uris += [f"{uri}/message/{msg_id}" for uri in uris[:5] for msg_id in ("m1", "t1", "h1", "o1", "none")]
            for uri in uris:
                try:
                    answers[uri] = _masked((await client.read_resource(uri)).model_dump_json())
                except MCPError as error:
                    answers[uri] = str(error)
            for prompt in (await client.list_prompts()).prompts:
                for chat, day in itertools.product((None, OPS, DEV, VERA), ("2026-11-24", "2026-09-25")):
                    arguments = {name: value for name, value in (("chat_id", chat), ("day", day)) if value}
                    try:
                        answers[f"{prompt.name} {arguments}"] = _masked(
                            (await client.get_prompt(prompt.name, arguments)).model_dump_json()
                        )
                    except MCPError as error:
                        answers[f"{prompt.name} {arguments}"] = str(error)
    finally:
        reader.close()
        capsys.readouterr()
    return answers | {"asked": asked}


def _masked(text: str) -> str:
    """Without the moment at which a first page was asked for, and the age of files."""

    def opened(match: re.Match[str]) -> str:
        value = json.loads(base64.urlsafe_b64decode(match[2] + "=" * (-len(match[2]) % 4)))
        if isinstance(value, list) and len(value) == 5:
            value[1] = "asked at"
        return f"{match[1]}{json.dumps(value)}"

    text = re.sub(r'(\\?"cursor\\?":\\?")([\w-]+)', opened, text)
    text = re.sub(r'\\?"now\\?":\\?"[^"\\]*\\?",|now: [^\n"\\]*', "", text)
    text = re.sub(r"since (?:\w{3} )?\d{4}-\d\d-\d\d \d\d:\d\d [A-Z]{3,}", "since", text)
    return re.sub(r'"age":[\d.]+', '"age"', text)


# Who asks: the archive with what they may see alone, the one with more, and their access.
ASKERS = {
    "chats": ("visible", "chats", Access("x", chats=CHATS)),
    "member": ("visible", "members", Access("x", user=PETR)),
    "outsider": ("nothing", "members", Access("x", user="nobody@corp.example")),
    "chats, since and tools": (
        "visible", "both",
        Access("x", CHATS - {PETR}, frozenset(TOOLS) - {"search_semantic", "get_recent_messages"}, SINCE),
    ),
    "since": ("visible", "times", Access("x", since=SINCE)),
    "member, chats and since": (
        "visible", "members", Access("x", CHATS, since=datetime(2026, 11, 24, 8, 3, tzinfo=UTC), user=PETR),
    ),
    "former member": ("nothing", "visible", Access("x", user=VERA)),
}  # fmt: skip


@drawn("askers from whom something is hidden", ASKERS, quick=3)
def test_what_is_hidden_changes_no_byte(archives: Archives, name: str, capsys: Any) -> None:
    without, archive, access = ASKERS[name]
    size = scaled("questions to each tool about what is hidden, others each time", full=1000, quick=_SAMPLE)
    seed = random.getrandbits(32) if size == _SAMPLE else None
    less = asyncio.run(_answers(archives.config(without), access, capsys, seed))
    whole = asyncio.run(_answers(archives.config(archive), access, capsys, seed))
    assert less.keys() == whole.keys(), less.keys() ^ whole.keys()
    differences = [(key, less[key], whole[key]) for key in less if less[key] != whole[key]]
    assert not differences, json.dumps(differences[:5], ensure_ascii=False, indent=1)
    assert "Hidden title" not in json.dumps(whole)


PATHS = [
    "/",
    *(f"/?q={quote(query)}" for query in QUERIES),
    *(f"/?q=backup&{name}={quote(value)}" for name, value in (
        ("who", "Анна"), ("who", "Вера"), ("who", "Renamed"), ("chat", "Экспл"), ("chat", "Hidden"), ("chat", DEV),
        ("when", "2026-09-25"), ("when", "24.11.2026"), ("has", "file"), ("sort", "new"), ("n", "1"),
    )),
    "/?who=p.petrov", "/?chat=Dev", "/?when=2026-11-24",
    *(f"/c/{chat}{place}"
      for chat in (OPS, DEV, THREAD, LONE_THREAD, OLD_THREAD, ORPHAN, LEFT, PETR, VERA, "1@chat.agent")
      for place in ("", "?day=2026-01-01", "?before=m3", "?after=o1")),
    *(f"/m/{chat}/{msg_id}" for chat in (OPS, DEV, THREAD) for msg_id in ("m1", "m2", "m5", "t1", "h1", "o1", "none")),
    "/activity?days=365", *(f"/activity?days=90&chat={quote(chat)}" for chat in ("Экспл", DEV, "Hidden", THREAD, VERA)),
    *(f"/activity/{name}.svg?days=365" for name in ("days", "hours", "chats", "people", "answers")),
    "/health", f"/today?since={(datetime.now(UTC) - timedelta(days=30)).isoformat(timespec='seconds')[:19]}",
]  # fmt: skip


async def _pages(config: Config, user: str, capsys: Any) -> dict[str, tuple[int, str]]:
    """Each address of the page as this person gets it."""
    web = WebOptions(trusted_proxies=("192.0.2.1",))
    session = Session("the same for every archive")
    sessions = Sessions(b"k" * 32)
    headers = {"host": "127.0.0.1", "x-forwarded-user": user, "cookie": f"vkteams={sessions.write(session)}"}
    answers: dict[str, tuple[int, str]] = {}
    with Archive(config) as archive:
        config = msgspec.structs.replace(config, web=web)
        audit = Audit(Secrets(), "http", face="web")
        asgi = Application(config, archive, Admission(web), sessions, audit, "127.0.0.1").asgi
        for address in PATHS:
            path, _, query = address.partition("?")
            said: list[Any] = []

            async def receive() -> Any:
                return {"type": "http.request", "body": b"", "more_body": False}

            async def send(message: Any, said: list[Any] = said) -> None:
                said.append(message)

            scope = {
                "type": "http", "method": "GET", "path": unquote(path), "query_string": query.encode(),
                "scheme": "http",
                "headers": [(name.encode(), value.encode()) for name, value in headers.items()], "root_path": "",
                "client": ("192.0.2.1", 1), "server": ("127.0.0.1", 80), "http_version": "1.1",
            }  # fmt: skip
            await asgi(scope, receive, send)
            body = b"".join(message.get("body", b"") for message in said)
            answers[address] = (said[0]["status"], body.decode())
    capsys.readouterr()
    return answers


@drawn("visitors from whom something is hidden", ["member", "outsider"], quick=1)
def test_what_is_hidden_changes_no_byte_of_the_page(archives: Archives, name: str, capsys: Any) -> None:
    without, user = ("visible", PETR) if name == "member" else ("nothing", "nobody@corp.example")
    less = asyncio.run(_pages(archives.config(without), user, capsys))
    whole = asyncio.run(_pages(archives.config("members"), user, capsys))
    differences = [(path, less[path], whole[path]) for path in less if less[path] != whole[path]]
    assert not differences, json.dumps(differences[:3], ensure_ascii=False, indent=1)
    assert {status for status, _ in whole.values()} == {200, 404}
    assert ("the server is up again" in whole["/?q=the"][1]) == (user == PETR)
    assert (whole[f"/m/{OPS}/m1"][0] == 200) == (user == PETR)


def test_a_member_sees_what_was_said_since_they_came(archives: Archives, capsys: Any) -> None:
    """Otherwise the test above would compare empty answers."""
    answers = json.dumps(asyncio.run(_answers(archives.config("members"), Access("x", user=PETR), capsys, 1)))
    assert "the server is up again" in answers and "in the thread about" in answers
    assert "a bot's word to Petr" in answers and "a word to Vera alone" not in answers and "of old" not in answers


def test_the_whole_history_is_shown_where_the_administrator_wants_that(archives: Archives) -> None:
    config = msgspec.structs.replace(archives.config("members"), access=AccessOptions(history="whole"))
    with Archive(config) as archive:
        seen = archive.seen_by(Access("x", user=PETR))
        assert "o1" in {message.msg_id for message in seen.latest(limit=100)}
        assert seen.visible_chats == {OPS, PETR, THREAD, OLD_THREAD}


def test_a_private_chat_that_a_token_names_may_be_typed_in_any_case(archives: Archives) -> None:
    with Archive(archives.config("visible")) as archive:
        assert archive.seen_by(Access("x", chats=frozenset({PETR.title()}))).visible_chats == {PETR}
        assert archive.named_chat(PETR.title(), threads=False) == [PETR]


def test_each_chat_that_is_nobodys_says_why(archives: Archives) -> None:
    with Archive(archives.config("members")) as archive:
        reasons = {chat.chat_id: chat.reason for chat in archive.nobodys_chats()}
    assert reasons == {
        OLD_ROSTER: "its roster is too old", REFUSED: "its roster is refused: Permission denied",
        NO_BOT: "a bot has left it", ORPHAN: "its parent is unknown", UNREAD: "its roster was never read",
    }  # fmt: skip


def test_the_copies_differ_for_a_client_that_may_see_everything(archives: Archives, capsys: Any) -> None:
    """Otherwise the test above would compare an archive with itself."""
    access = Access("x")
    without, *wholes = (
        asyncio.run(_answers(archives.config(name), access, capsys, 1)) for name in ("visible", "chats", "times")
    )
    for whole in wholes:
        changed = {key.split()[0] for key in without if without[key] != whole.get(key)}
        assert changed >= set(TOOLS) - {"get_message", "get_context"}, changed
