"""What an agent needs beside hits: one search tool, transcripts, counts, names, a time zone, honest refusals."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from mcp import Client

from tests.harness.mcp import Office, asked, refused, structured, with_client
from vkteams_daemon.access import Access
from vkteams_daemon.mcp.archive_reader import Reader
from vkteams_daemon.mcp.server import Server
from vkteams_daemon.serving.audit import Audit
from vkteams_daemon.system.redaction import Secrets

OPS, OFFICE = "681869378@chat.agent", "684120415@chat.agent"
ANNA, PETR = "a.ivanova@corp.example", "p.petrov@corp.example"
MAIL = "7576336249029481622"
WHEN = {"timezone": "Europe/Moscow"}


def _as(office: Office, access: Access, tool: str, **arguments: Any) -> Any:
    """The answer of one call by a client with this access."""
    from vkteams_daemon import config as configuration

    async def call() -> Any:
        reader = Reader(configuration.load(office.file, environ={}), access)
        try:
            async with Client(Server(reader, Audit(Secrets(), "memory"))) as client:
                return await client.call_tool(tool, arguments)
        finally:
            reader.close()

    return asyncio.run(call())


def test_one_search_tool_has_the_modes_of_the_three_of_old(office: Office) -> None:
    for mode in ("hybrid", "semantic", "text"):
        old, new = asked(office, f"search_{mode}", query="почта"), asked(office, "search", query="почта", mode=mode)
        assert [hit["msg_id"] for hit in new["hits"]] == [hit["msg_id"] for hit in old["hits"]]
        assert new["hits"]
    assert asked(office, "search", query="почта")["mode"] == "hybrid"
    assert "either query or similar_to" in refused(office, "search")
    assert "either query or similar_to" in refused(office, "search", query="x", similar_to=MAIL)


def test_times_are_read_and_now_is_shown_in_the_zone_of_the_call(office: Office) -> None:
    """The mail stood still on a Wednesday at 08:36 in Moscow: 05:36 UTC."""
    day = re.search(r"\d{4}-\d\d-\d\d", asked(office, "get_message", msg_id=MAIL)["message"]["sent_at"])
    assert day is not None
    in_time = {"since": f"{day[0]} 08:30", "until": f"{day[0]} 08:40"}
    moscow = asked(office, "search", query="почтовый сервер", mode="text", **in_time, **WHEN)
    assert [hit["msg_id"] for hit in moscow["hits"]] == [MAIL]
    assert re.fullmatch(r"since Wed .* 08:30 MSK, until Wed .* 08:40 MSK", moscow["times"])
    assert re.fullmatch(r"\w{3} \d{4}-\d\d-\d\d \d\d:\d\d MSK", moscow["now"])
    assert moscow["hits"][0]["sent_at"] == f"{day[0]}T05:36:05Z", "JSON stays UTC"
    assert asked(office, "search", query="почтовый сервер", mode="text", **in_time)["hits"] == []
    office.configure(search={"timezone": "Europe/Moscow"})
    # TZ of this process stands before the option, and the argument before both.
    assert asked(office, "list_chats")["now"].endswith(" UTC")
    assert "timezone" not in asked(office, "list_chats", **WHEN)
    assert "'Moscow' is not a time zone" in refused(office, "list_chats", timezone="Moscow")
    assert "timezone: a time zone is a short text" in refused(office, "list_chats", timezone=3)


def test_every_tool_takes_a_time_zone_and_says_what_now_is(office: Office) -> None:
    needed: dict[str, dict[str, Any]] = {
        "get_message": {"msg_id": MAIL}, "search": {"query": "x"},
        **{f"search_{mode}": {"query": "x"} for mode in ("hybrid", "semantic", "text")},
    }  # fmt: skip

    async def look(client: Client) -> None:
        for tool in (await client.list_tools()).tools:
            arguments = needed.get(tool.name, {})
            answer = structured(await client.call_tool(tool.name, arguments | WHEN))
            assert answer["now"].endswith(" MSK"), tool.name
            if tool.name == "daemon_status":  # it says nothing of messages
                continue
            assert {"since", "until"} <= tool.input_schema["properties"].keys(), tool.name
            spanned = structured(
                await client.call_tool(tool.name, arguments | WHEN | {"since": "в субботу", "until": "в субботу"})
            )
            assert re.fullmatch(r"since Sat .* 00:00 MSK, until Sun .* 00:00 MSK", spanned["times"]), tool.name

    with_client(office, look)


def test_a_transcript_takes_less_than_half_and_its_references_are_ids(office: Office) -> None:
    office.configure(mcp={"max_tokens": 200_000})
    arguments = {"limit": 300, "chat": "all", **WHEN}
    page, told = asked(office, "get_recent_messages", **arguments), asked(
        office, "get_recent_messages", format="transcript", **arguments
    )  # fmt: skip
    size, short = (
        len(json.dumps(part, ensure_ascii=False).encode()) for part in (page["messages"], told["transcript"])
    )
    assert short * 2 < size, (short, size)
    texts = sum(len(message["text"].encode()) for message in page["messages"])
    assert short < 1.35 * texts, "most of it is what people wrote"
    lines = told["transcript"].splitlines()
    assert any(line.startswith("# ") for line in lines) and any(re.match(r"## Wed \d{4}", line) for line in lines)
    references = re.findall(r"(?m)^(?:\d\d:\d\d )?([A-Za-z]{3}\w{4}) ", told["transcript"])
    assert len(references) == len(page["messages"])
    for reference in references[:: len(references) // 5]:
        answer = asked(office, "get_message", msg_id=reference)
        assert answer["message"]["msg_id"] in {message["msg_id"] for message in page["messages"]}
    assert refused(office, "get_message", msg_id="abcDEFG") == "the archive has no message abcDEFG"


def test_transcripts_attribute_forwards_and_answers(office: Office) -> None:
    around = asked(office, "get_context", msg_id=MAIL, format="transcript", **WHEN)["transcript"]
    assert re.search(r"(?m)^08:36 \w{7} Анна: Доброе утро! Что с почтовым сервером\?", around)
    found = asked(office, "search", query="утром была тишина", mode="text", format="transcript", **WHEN)
    assert "| forwarded from Пётр Петров, " in found["transcript"]
    assert found["transcript"].startswith("1. ")
    (reply,) = office.rows(
        "SELECT m.msg_id FROM messages m JOIN messages r ON r.chat_id = m.chat_id AND r.msg_id = m.reply_to_msg_id"
        " WHERE r.user_id = %s AND m.deleted_at IS NULL LIMIT 1", ANNA,
    )[0]  # fmt: skip
    thread = asked(office, "get_message", msg_id=reply, format="transcript", **WHEN)["transcript"]
    assert " → Анна: " in thread
    assert "Анна Иванова" in thread.splitlines()[0]
    # A line of a text is no line of the transcript.
    for line in around.splitlines():
        assert re.match(r"people: |# |## |\d\d:\d\d \w{7} |\w{7} |   |  \| ", line), line


def test_messages_are_counted_by_person_chat_and_day(office: Office) -> None:
    whole = asked(office, "count")["messages"]
    by_person = asked(office, "count", by="person", limit=1000)
    assert sum(group["messages"] for group in by_person["groups"]) == whole == by_person["messages"]
    assert by_person["groups"][0]["name"] and "@" in by_person["groups"][0]["id"]
    by_chat = asked(office, "count", by="chat")
    assert {group["id"] for group in by_chat["groups"]} >= {OPS, OFFICE}
    days = asked(office, "count", by="day", **WHEN)["groups"]
    assert sum(group["messages"] for group in days) == whole
    assert [group["name"] for group in days] == sorted(group["name"] for group in days)
    # The certificate lapsed on Sunday at 23:59 in Moscow.
    ended = asked(office, "count", query="notAfter", by="day", **WHEN)["groups"]
    in_utc = asked(office, "count", query="notAfter", by="day", timezone="Asia/Tokyo")["groups"]
    assert ended[0]["name"] != in_utc[0]["name"], "a day is one of the zone"
    assert asked(office, "count", query="сервер", user="Анна Иванова")["messages"] >= 1
    two = asked(office, "count", by="person", limit=2)
    assert (len(two["groups"]), two["more"]) == (2, len(by_person["groups"]) - 2)
    assert asked(office, "count", query="почта", since="2100-01-01")["messages"] == 0


def test_filters_name_people_and_kinds(office: Office) -> None:
    rows = office.rows(
        "SELECT m.msg_id FROM messages m JOIN messages r ON r.chat_id = m.chat_id AND r.msg_id = m.reply_to_msg_id"
        " WHERE r.user_id = %s AND m.deleted_at IS NULL", ANNA,
    )  # fmt: skip
    answers = asked(office, "get_recent_messages", reply_to_user="Анна Иванова", limit=500, chat="all")
    assert {message["msg_id"] for message in answers["messages"]} == {msg_id for (msg_id,) in rows} != set()
    assert any(sentence.startswith("answers ") for sentence in answers["named"])
    assert asked(office, "count", reply_to_user=ANNA)["messages"] == len(rows)
    files = asked(office, "get_recent_messages", has=["file"], limit=500, chat="all")["messages"]
    assert files and all("file" in message["parts"] or message.get("files") for message in files)
    mentioned = asked(office, "get_recent_messages", mentions="Петров", limit=500, chat="all")["messages"]
    assert mentioned
    found = asked(office, "search", query="почта", reply_to_user="Анна Иванова")["hits"]
    assert {hit["msg_id"] for hit in found} <= {msg_id for (msg_id,) in rows}


def test_a_message_finds_its_like(office: Office) -> None:
    like = asked(office, "search", similar_to=MAIL)
    assert like["hits"] and MAIL not in {hit["msg_id"] for hit in like["hits"]}
    assert like["mode"] == "semantic"
    assert "the archive has no message 0" in refused(office, "search", similar_to="0")


def test_chats_and_people_are_named_by_title_and_name(office: Office) -> None:
    by_id = asked(office, "get_database_stats", chat_id=OPS)["messages"]
    assert asked(office, "get_database_stats", chat="Эксплуатация и дежурство")["messages"] == by_id
    assert asked(office, "list_users", chat="Эксплуатация")["users"]
    assert asked(office, "count", chat=OPS)["messages"] >= by_id - 20


@pytest.mark.parametrize("argument", ["user", "mentions", "reply_to_user", "user_id"])
def test_a_person_whom_the_client_does_not_see_is_refused_and_not_found_silently(office: Office, argument: str) -> None:
    """The same words for a person who speaks elsewhere and for one who does not exist."""
    (elsewhere,) = office.rows(
        "SELECT user_id FROM messages GROUP BY user_id HAVING bool_and(chat_id = %s) AND user_id IS NOT NULL LIMIT 1",
        OFFICE,
    )[0]  # fmt: skip
    access = Access("narrow", chats=frozenset({OPS}))
    sentences = []
    for person in (elsewhere, "nobody@corp.example"):
        answer = _as(office, access, "search", query="почта", **{argument: person})
        assert answer.is_error
        sentences.append(str(answer.content[0].text).replace(person, "X"))
    assert sentences[0].partition("; the nearest")[0] == sentences[1].partition("; the nearest")[0]
    assert sentences[0].startswith("there is no such person among those you may see: X; list_users names them")


def test_errors_name_tools_and_never_commands(office: Office) -> None:
    mistakes: list[tuple[str, dict[str, Any]]] = [
        ("search", {"query": "x", "user": "Никто Никтоевич"}), ("search", {"query": "x", "user_id": "nobody"}),
        ("search", {"query": "x", "chat": "Нигде"}), ("search", {"query": "x", "chat_id": "0"}),
        ("get_context", {"context_type": "user-profile"}), ("get_message", {"msg_id": "0"}),
        ("get_context", {"msg_id": MAIL, "query": "x"}), ("search", {"query": "x", "cursor": "zzz"}),
        ("list_users", {"chat_id": "0"}), ("search", {"query": "x", "since": "11/24/2026"}),
        ("get_context", {"context_type": "user-profile", "user": ANNA, "timeframe": "1s"}),
    ]  # fmt: skip

    async def look(client: Client) -> None:
        for tool, arguments in mistakes:
            answer = await client.call_tool(tool, arguments)
            assert answer.is_error, (tool, arguments)
            assert "vkteamsctl" not in answer.content[0].text, (tool, arguments)  # type: ignore[union-attr]

    with_client(office, look)
    office.configure(embedding={"models_dir": str(office.directory / "none")})
    sentence = refused(office, "search", query="x", mode="semantic")
    assert "vkteamsctl" not in sentence and "administrator" in sentence
