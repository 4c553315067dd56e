"""The targets of the fuzzer: each takes any bytes, and raises an exception if the product does something wrong.

A target needs no fuzzer: `tests/fuzz/test_found.py` calls it with the seeds and with everything that was ever found.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import io
import itertools
import json
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from mcp import Client
from msgspec import Struct

from tests.harness.hostile import FRAGMENTS
from tests.harness.samples import ARRIVAL, SAMPLES, event
from vkteams_daemon import config as configuration
from vkteams_daemon import times
from vkteams_daemon.access import Access
from vkteams_daemon.botapi import events as api
from vkteams_daemon.botapi.events import Event
from vkteams_daemon.daemon.polling import spool as spool_module
from vkteams_daemon.daemon.polling.acknowledged import AcknowledgedFile
from vkteams_daemon.daemon.polling.spool import Spool, SpoolRefused
from vkteams_daemon.errors import ApiError, ConfigError, PermissionRefused, UsageError, VkTeamsError
from vkteams_daemon.mcp.archive_reader import Reader
from vkteams_daemon.mcp.server import CLIENT_KEYS, Server
from vkteams_daemon.mcp.tools import pagination
from vkteams_daemon.options import options
from vkteams_daemon.search import cursor as paging
from vkteams_daemon.search.retrieval import query as queries
from vkteams_daemon.search.spelling import keyboard
from vkteams_daemon.secret_exposure import exposed_files
from vkteams_daemon.serving.audit import Audit
from vkteams_daemon.store import database_url
from vkteams_daemon.store.derive.message_fold import fold_all, new_message
from vkteams_daemon.store.ingest import event_rows
from vkteams_daemon.store.ingest.writer import Writer
from vkteams_daemon.store.rebuild import replay
from vkteams_daemon.system import text as texts
from vkteams_daemon.system.redaction import Secrets
from vkteams_daemon.system.slot_file import SlotFile

BOT = "1000000001"

Check = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a target works.

    Attributes:
        directory: an empty directory.
        url: an empty archive; "" for a target that needs none.
    """

    directory: Path
    url: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """A target.

    Attributes:
        open: gives the function that is called with the bytes.
        seeds: bytes to begin with.
        words: pieces that the fuzzer may put in.
        archive: whether it needs a database.
    """

    open: Callable[[Place], contextlib.AbstractContextManager[Check]]
    seeds: Callable[[], Sequence[bytes]]
    words: Callable[[], Sequence[bytes]] = tuple
    archive: bool = False


class Bytes:
    """Takes values off the beginning of the bytes; when they have run out, all that comes is zero or empty."""

    def __init__(self, data: bytes) -> None:
        self.rest = data

    def byte(self) -> int:
        return self.take(1)[0] if self.rest else 0

    def number(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def take(self, count: int) -> bytes:
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken

    def text(self) -> str:
        """A text of up to 255 bytes of UTF-8."""
        return self.take(self.byte()).decode("utf-8", "replace")


# Events


def check_events(data: bytes) -> list[Event]:
    """Read bytes as an answer, and check every event of it; the events."""
    try:
        events = api.read(data, ARRIVAL)
    except ApiError:
        return []
    for one in events:
        _check_event(one)
    sources = b'{"events":[' + b",".join(map(event_rows.source_bytes, events)) + b"]}"
    if not any(one.error for one in events):  # otherwise the spool tries it, and perhaps does not take the answer
        assert api.read(sources, ARRIVAL) == events, "the spool would not bring back the same events"
    event_rows.deduplicate(events)
    return events


def _check_event(one: Event) -> None:
    assert one.event_id and -(2**63) <= one.event_id < 2**63
    assert one.json or (one.raw and one.error), "nothing is left of it"
    assert one.raw or not one.error, "it is quarantined without its bytes"
    if one.json:
        value = json.loads(one.json, parse_constant=_no_constant)
        _check_storable(value)
        if one.payload is not None:
            assert json.loads(one.payload) == value["payload"]
    _check_storable([one.type, one.chat_id, one.user_id, one.subject, one.error])
    _check_storable(one.facts)
    assert all(len(key or "") <= 255 for key in (one.chat_id, one.user_id, one.subject))
    if one.facts.message:
        message = fold_all(new_message(one.facts.message), [one.facts.message], erase=False)
        assert message.row[:2] == (one.chat_id, one.facts.message.msg_id)
        json.dumps([message.format, message.parts, message.forward, message.thread], ensure_ascii=False).encode()


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def _check_storable(value: Any) -> None:
    """Every text within this value can be stored in PostgreSQL."""
    if isinstance(value, str):
        assert "\0" not in value
        value.encode()
    elif isinstance(value, dict):
        for name, entry in value.items():
            _check_storable(name)
            _check_storable(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            _check_storable(entry)
    elif isinstance(value, Struct):
        for name in value.__struct_fields__:
            _check_storable(getattr(value, name))


@contextlib.contextmanager
def _answers(place: Place) -> Iterator[Check]:
    yield lambda data: [check_events(body) for body in (data, b'{"events":[' + data + b"]}")]


def _answer_seeds() -> list[bytes]:
    whole = [json.dumps(event(n, *sample), ensure_ascii=False).encode() for n, sample in enumerate(SAMPLES.values(), 1)]
    strange = [
        b'{"eventId":1,"type":"newMessage","payload":{"msgId":"1","chat":{"chatId":"c"},"text":' + fragment + b"}}"
        for fragment in FRAGMENTS.values()
        if len(fragment) < 500
    ]
    return [*whole, *strange, b",".join(whole[:3]), b'{"ok":true,"events":[' + b",".join(whole[3:6]) + b"]}"]


def _answer_words() -> list[bytes]:
    keys: set[str] = set()

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            keys.update(value)
            value = list(value.values())
        if isinstance(value, list):
            for entry in value:
                collect(entry)

    collect([payload for _, payload in SAMPLES.values()])
    kinds = {kind for kind, _ in SAMPLES.values()}
    names = [f'"{name}"'.encode() for name in sorted(keys | kinds | {"events", "eventId", "type", "payload"})]
    return names + [fragment for fragment in FRAGMENTS.values() if len(fragment) < 40]


@contextlib.contextmanager
def _storing(place: Place) -> Iterator[Check]:
    """Stores what was read. Every event is in the table afterwards, and a replay finds nothing to change."""
    connect = functools.partial(psycopg.connect, place.url, autocommit=True)
    writer = Writer(connect, BOT)
    seconds = itertools.count()
    with connect() as connection:

        def rows(table: str) -> list[Any]:
            return connection.execute(f"SELECT t::text FROM {table} AS t ORDER BY 1".encode()).fetchall()

        def begin() -> None:
            connection.execute(f"TRUNCATE events, bots, {', '.join(_DERIVED)} CASCADE".encode())
            writer.erase = not writer.erase
            assert writer.acquire()

        def end() -> None:
            before = {table: rows(table) for table in _DERIVED}
            replay.quarantined(connection, erase=writer.erase)
            replay.everything(connection, erase=writer.erase)
            after = {table: rows(table) for table in _DERIVED}
            assert before == after, "a replay changes rows"

        def check(data: bytes) -> None:
            at = ARRIVAL + timedelta(seconds=next(seconds))
            for body in (data, b'{"events":[' + data + b"]}"):
                with contextlib.suppress(ApiError):
                    store(api.read(body, at))

        def store(events: list[Event]) -> None:
            if not events:
                return
            result = writer.store(events)
            assert result.saved + result.duplicate <= len(events)
            keys = [key for one in events for key in (one.event_id, event_rows.hash_key(one))]
            found = connection.execute("SELECT event_id FROM events WHERE event_id = ANY(%s)", (keys,)).fetchall()
            there = {row[0] for row in found}
            for one in events:
                assert one.event_id in there or event_rows.hash_key(one) in there, "it is not stored"
            if next(counter) % 50 == 0:
                end()
                begin()

        counter = itertools.count(1)
        begin()
        try:
            yield check
            end()
        finally:
            writer.close()


_DERIVED = ("messages", "message_versions", "chats", "users", "chat_members")


# Configuration


@contextlib.contextmanager
def _configuration(place: Place) -> Iterator[Check]:
    """A file, and after a line `%%` variables of the environment."""
    file = place.directory / "vkteamsd.toml"
    variables = {option.variable for option in options()} | {"DATABASE_URL", "CREDENTIALS_DIRECTORY"}

    def check(data: bytes) -> None:
        content, _, lines = data.partition(b"\n%%\n")
        file.write_bytes(content)
        environ = {}
        for line in os.fsdecode(lines).split("\n"):
            name, _, value = line.partition("=")
            if name in variables and "\0" not in value:
                environ[name] = value
        try:
            config = configuration.load(file, environ=environ)
        except (ConfigError, PermissionRefused) as error:
            _check_sentence(error)
            return
        shown = repr(config)
        if len(config.api.token) > 6:
            assert config.api.token not in shown
        json.dumps(configuration.masked(config)).encode()
        exposed_files(config, environ=environ)
        configuration.merge_reloadable(config, configuration.Config())
        if config.database.url:
            with contextlib.suppress(ConfigError):
                database_url.parse(config.database.url)

    yield check


def _check_sentence(error: VkTeamsError) -> None:
    """The error can be printed: one line of text."""
    sentence = f"{error}. {error.hint}"
    sentence.encode("utf-8", "surrogateescape")
    assert "\n" not in sentence, sentence


def _configuration_seeds() -> list[bytes]:
    lines: dict[str, list[str]] = {}
    every = configuration.masked(configuration.Config())
    for section, keys in every.items():
        lines[section] = [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
    seeds = ["\n".join(part) for part in lines.values()]
    seeds += [f"{line}" for part in lines.values() for line in ("\n".join([part[0], other]) for other in part[1:])]
    seeds += [
        'api = { token = "001.0123456789.0123456789:1000000001" }',
        'api.token = "x"\n[api]\nurl = "y"',
        "[[api]]",
    ]
    seeds += [f"\n%%\n{option.variable}=1" for option in options()]
    return [seed.encode() for seed in seeds]


def _configuration_words() -> list[bytes]:
    names = {part for option in options() for part in (option.section, option.key, option.variable)}
    more = ["inf", "nan", "1e400", "9223372036854775808", '""', "'''", "\\u0000", "1979-05-27", "%%", "true", "[", "]"]
    return [word.encode() for word in (*sorted(names), *more)]


# The spool


@contextlib.contextmanager
def _spool(place: Place) -> Iterator[Check]:
    """A file that is a spool with torn, damaged and foreign pieces. Every whole record comes out of it."""

    def check(data: bytes) -> None:
        for left in place.directory.iterdir():
            left.unlink()
        path = place.directory / f"{BOT}.spool"
        content = spool_bytes(data)
        path.write_bytes(content)
        events, own = whole_records(content)
        try:
            spool = Spool(place.directory, BOT, max_bytes=1 << 20)
        except SpoolRefused:
            raise AssertionError("the spool cannot be opened") from None
        try:
            aside = list(place.directory.glob("*.aside-*"))
            if not own:
                # It is no spool of this bot: nothing of it may be lost, unless it is the beginning of a torn one.
                assert not spool.waiting
                if len(content) > 12:
                    assert [one.read_bytes() for one in aside] == [content], "a foreign file is lost"
                return
            last = spool.last_event_id
            if events and last is not None:
                answer = api.read(json.dumps({"events": [event(last + 1, *_MESSAGE)]}).encode(), ARRIVAL)
                if last < api.MAX_EVENT_ID:
                    spool.append(answer, 1, last)
                    events += answer
                spool.close()
                spool = Spool(place.directory, BOT, max_bytes=1 << 20)
            assert _drained(spool) == events, "other events than the whole records hold"
            assert not path.exists()
        finally:
            spool.close()

    yield check


_MESSAGE = SAMPLES["a private message"]


def _drained(spool: Spool) -> list[Event]:
    events: list[Event] = []
    while (batch := spool.next_batch()) is not None:
        events += batch.events
        spool.discard_batch()
    return events


def record(content: bytes) -> bytes:
    """A record with this content, its length and its checksum: written here once more, so that the format stays."""
    length = struct.pack(">I", len(content))
    return b"\x89vks" + length + struct.pack(">I", zlib.crc32(length + content)) + content


def whole_records(content: bytes) -> tuple[list[Event], bool]:
    """The events of every whole record, and whether the first record says that it is this bot's spool."""
    events: list[Event] = []
    at, own = 0, False
    while at + 12 <= len(content):
        length, checksum = struct.unpack_from(">II", content, at + 4)
        body = content[at + 12 : at + 12 + length]
        whole = content[at : at + 4] == b"\x89vks" and 0 < length == len(body)
        if not whole or zlib.crc32(content[at + 4 : at + 8] + body) != checksum:
            if at == 0:
                return [], False
            at += 1
            continue
        line, _, answer = body.partition(b"\n")
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError, ApiError):
            fields = json.loads(line)
            if at == 0:
                own = fields["bot"] == BOT and fields["format"] == 1
                datetime.fromisoformat(fields["since"])
            elif own:
                received_at = datetime.fromisoformat(fields["received_at"])
                assert received_at.tzinfo
                events += api.read(answer, received_at)
        at += 12 + length
    return events, own


def spool_bytes(data: bytes) -> bytes:
    """The file that these bytes describe: a valid head or another one, then pieces, then cuts and flipped bits."""
    if data[:1] == b"\xff":
        return data[1:]
    given, content, last = Bytes(data), bytearray(), b""
    head = {"format": 1, "bot": BOT, "since": "2026-11-24T12:00:00Z"}
    kind = given.byte() % 8
    if kind == 1:
        head["bot"] = given.text()
    elif kind == 2:
        head["format"] = given.byte()
    if kind != 3:
        content += record(json.dumps(head).encode() + b"\n")
    event_id = 0
    while given.rest:
        kind = given.byte() % 8
        if kind <= 2:
            count = 1 + given.byte() % 3
            said = [given.text() for _ in range(count)]
            items = [event(event_id + n, "newMessage", _MESSAGE[1] | {"text": text}) for n, text in enumerate(said, 1)]
            line = {"generation": 1 + kind // 2, "after": event_id, "last_event_id": event_id + count, "events": count,
                    "received_at": "2026-11-24T12:00:00.250000Z"}  # fmt: skip
            event_id += count
            last = record(json.dumps(line).encode() + b"\n" + json.dumps({"events": items}).encode())
            content += last
        elif kind == 3:
            content += given.take(given.byte())
        elif kind == 4:
            content += record(given.take(given.byte()) or b"\n")
        elif kind == 5 and content:
            place = given.number() % len(content)
            content[place] ^= 1 << given.byte() % 8
        elif kind == 6:
            del content[max(0, len(content) - given.byte()) :]
        else:
            content += last
    return bytes(content)


def _spool_seeds() -> list[bytes]:
    one = b"\x00\x01\x05hello\x02bb"
    return [b"", one, b"\x00" + one * 3, one + b"\x06\x09", one * 2 + b"\x05\x00\x40\x03" + one, b"\x01\x03abc" + one,
            b"\x02\x02" + one, b"\x03" + one, one + b"\x03\x04\x89vks" + one, one + b"\x04\x03{}\n" + one,
            b"\xff\x89vks",
            one + b"\x07" + b"\x02" + one[1:], one + b"\x06\xff", one + b"\x03\x10" + b"\0" * 16 + one]  # fmt: skip


# What the daemon remembers of its cursors


@contextlib.contextmanager
def _acknowledged(place: Place) -> Iterator[Check]:
    def check(data: bytes) -> None:
        file = AcknowledgedFile(place.directory, BOT)
        if data[:1] == b"\xff":
            file.path.write_bytes(data[1:])
        else:
            SlotFile(file.path, 0o640).write(data)
        again = AcknowledgedFile(place.directory, BOT)
        again.unsaved()
        if again.spooled:
            again.spool_lost(again.spooled)
        again.forget_unsaved()
        again.position("1")

    yield check


def _acknowledged_seeds() -> list[bytes]:
    position = {"generation": 1, "last_event_id": 7, "moves": 3, "at": "2026-11-24T12:00:00Z"}
    missing = {"reason": "x", "from_event_id": 1, "to_event_id": 2, "from_time": None, "chat_ids": ["c"]}
    whole = {"archives": {"1": position}, "spooled": missing, "unsaved": [missing]}
    contents = [json.dumps(whole).encode(), b"{}", b"", b"[]", b"\xfe"]
    return [*contents, b"\xff", b"\xff" + b"\x89vk2" + bytes(8) + b"\0\0\0\2" + bytes(4) + b"{}"]


# Cursors and texts of clients


@contextlib.contextmanager
def _cursors(place: Place) -> Iterator[Check]:
    """A cursor is read or refused; one that was read is written as the same one again."""

    def check(data: bytes) -> None:
        raw, coded = (
            data[1:].decode("utf-8", "surrogateescape"),
            base64.urlsafe_b64encode(data[1:]).decode().rstrip("="),
        )
        text = raw if data[:1] == b"\xff" else coded
        with contextlib.suppress(UsageError):
            cursor = paging.parse(text, "q")
            assert paging.parse(cursor.text, "q") == cursor
            _check_storable(cursor)
            assert cursor.asked_at.tzinfo and cursor.rest([]) == []
        with contextlib.suppress(UsageError):
            place_ = pagination.parse_message_cursor(text)
            assert pagination.parse_message_cursor(pagination.message_cursor(*place_)) == place_
            _check_storable(place_)
        with contextlib.suppress(UsageError):
            offset = pagination.parse_offset_cursor(text)
            assert pagination.parse_offset_cursor(pagination.offset_cursor(offset)) == offset >= 0

    yield check


def _cursor_seeds() -> list[bytes]:
    good = [["q", "2026-11-25T00:00:00+00:00", 1, "c", "m"], ["2026-11-25T00:00:00+00:00", "c", "m"], 7]
    return [b"0" + json.dumps(value).encode() for value in good] + [
        b"\xff" + paging.encode(value).encode() for value in good
    ]


@contextlib.contextmanager
def _words(place: Place) -> Iterator[Check]:
    """Texts that people type: queries, times, URLs. Each is read, or refused by an error of ours."""

    def check(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        for read in (times.parse_since, times.parse_until, times.parse_age):
            with contextlib.suppress(UsageError):
                read(text)
        try:
            database_url.parse(data.decode("utf-8", "replace"))
        except ConfigError as error:
            _check_sentence(error)
        for terms in queries.parse(text).alternatives:
            for term in terms[:3]:
                keyboard.other_layout(term.typed)
                keyboard.other_script(term.typed)
        for clean in (texts.visible, texts.terminal_safe, texts.escape_controls, texts.printable):
            assert clean(clean(text)) == clean(text), clean.__name__

    yield check


def _word_seeds() -> list[bytes]:
    said = ["2h", "2026-11-24T08:30+03:00", "9999-12-31", "0001-01-01T00:00+14:00", '"a b" -c OR d', "ghbdtn", "JIRA-1",
            "postgresql://u:p@h:5432/d?sslmode=require", "host=x password='a b'",
            "👨\u200d👩\ufe0f", "\u202ex"]  # fmt: skip
    return [text.encode() for text in said]


# The MCP server


@contextlib.contextmanager
def _mcp(place: Place) -> Iterator[Check]:
    """A call with any arguments is answered, or refused with a sentence that says why."""
    file = place.directory / "vkteamsd.toml"
    settings = {"runtime_dir": str(place.directory / "run"), "state_dir": str(place.directory / "state")}
    lines = ["[daemon]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items()), "[embedding]",
             f'models_dir = "{place.directory}/models"', "[database]", f"url = {json.dumps(place.url)}"]  # fmt: skip
    file.write_text("\n".join(lines))
    writer = Writer(functools.partial(psycopg.connect, place.url, autocommit=True), BOT)
    assert writer.acquire()
    writer.store(_conversation())
    writer.close()
    started, stop = threading.Event(), asyncio.Event()
    parts: dict[str, Any] = {}

    async def serve() -> None:
        reader = Reader(configuration.load(file, environ={}), Access("x"))
        try:
            async with Client(Server(reader, _QuietAudit(Secrets(), "stdio"))) as client:
                parts.update(loop=asyncio.get_running_loop(), client=client, tools=(await client.list_tools()).tools)
                started.set()
                await stop.wait()
        finally:
            reader.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(60)

    def check(data: bytes) -> None:
        tool, arguments = mcp_call(data, parts["tools"])
        answer = asyncio.run_coroutine_threadsafe(parts["client"].call_tool(tool, arguments), parts["loop"]).result(60)
        said = answer.content[0].text
        if answer.is_error:
            assert "nobody foresaw" not in said, said
            assert len(said) < 1000 and "\n" not in said, said
        else:
            json.dumps(answer.structured_content).encode()

    try:
        yield check
    finally:
        parts["loop"].call_soon_threadsafe(stop.set)
        thread.join(30)


class _QuietAudit(Audit):
    def write(self, call: Any) -> None:
        """Write the line where nobody reads it."""
        with contextlib.redirect_stderr(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")):
            super().write(call)


def _conversation() -> list[Event]:
    items = [event(n, *sample) for n, sample in enumerate(SAMPLES.values(), 1)]
    items += [
        event(100 + n, "newMessage", _MESSAGE[1] | {"msgId": str(n), "text": f"сервер упал {n}"}) for n in range(30)
    ]
    return api.read(json.dumps({"events": items}).encode(), datetime.now(UTC))


_GOOD: tuple[Any, ...] = (
    "681869378@chat.agent", "a.ivanova@corp.example", "all", "7576322310144000017", "2h", "2026-11-24", "сервер",
    1, 5, 200,
    "recent", "topic", "user-profile", "around", pagination.message_cursor(ARRIVAL, "c", "m"),
    pagination.offset_cursor(1),
    "7d", "0001-01-01", "9999-12-31T23:59:59Z", '"упал" -x OR', True, 0, -1, 2**63, 10**400, 10**5000,
    0.5, float("inf"), [], {},
)  # fmt: skip


def mcp_call(data: bytes, tools: Sequence[Any]) -> tuple[str, dict[str, Any]]:
    """The call that these bytes describe: a tool and its arguments."""
    given = Bytes(data)
    tool = tools[given.byte() % len(tools)]
    names = [*tool.input_schema["properties"], *sorted(CLIENT_KEYS), ""]
    arguments: dict[str, Any] = {}
    for name in tool.input_schema.get("required", []):
        arguments[name] = _value(given)
    while given.rest and len(arguments) < 8:
        arguments[names[given.byte() % len(names)]] = _value(given)
    return tool.name, arguments


def _value(given: Bytes) -> Any:
    kind = given.byte() % 8
    if kind <= 3:
        return _GOOD[given.byte() % len(_GOOD)]
    if kind == 4:
        return given.text()
    if kind == 5:
        return int.from_bytes(given.take(given.byte() % 12), "big", signed=True)
    if kind == 6:
        return base64.urlsafe_b64encode(given.text().encode()).decode().rstrip("=")
    return [None, [given.text()], {given.text(): given.text()}, struct.unpack(">d", given.take(8).ljust(8, b"\0"))[0]][
        given.byte() % 4
    ]


def _mcp_seeds() -> list[bytes]:
    """Each value as the first and as another argument, of one tool or the other."""
    count = len(_GOOD)
    first = [bytes([good % 10, 0, good]) for good in range(count)]
    return first + [bytes([(good + 5) % 10, 0, 6, 1 + good % 7, 0, good]) for good in range(count)]


TARGETS: dict[str, Target] = {
    "answers": Target(_answers, _answer_seeds, _answer_words),
    "storing": Target(_storing, _answer_seeds, _answer_words, archive=True),
    "configuration": Target(_configuration, _configuration_seeds, _configuration_words),
    "spool": Target(_spool, _spool_seeds),
    "acknowledged": Target(_acknowledged, _acknowledged_seeds),
    "cursors": Target(_cursors, _cursor_seeds),
    "words": Target(_words, _word_seeds),
    "mcp": Target(_mcp, _mcp_seeds, archive=True),
}
assert spool_module.SUFFIX == ".spool"
