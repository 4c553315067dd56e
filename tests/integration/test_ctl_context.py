"""`vkteamsctl context` on the built-in conversation and on small ones: what people read and what programs get."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.harness.built_in_conversation import all_events
from tests.harness.talk import ANNA, DEV, OPS, PETR, Talk
from vkteams_daemon.search.history.token_budget import tokens


@pytest.fixture
def conversation(talk: Talk) -> Talk:
    """The built-in conversation."""
    talk.writer.store(all_events())
    return talk


def test_thread_is_shown_with_indented_answers(talk: Talk, ask: Callable[..., Any]) -> None:
    talk.say("1", "почта не уходит\nсо вторника")
    talk.say("2", "у всех?", at=1, who=PETR, answers="1")
    talk.edit("2", "у всех этажей?", at=2, who=PETR)
    talk.say("3", "да", at=3, answers="2", parts=({"type": "file", "payload": {"fileId": "f"}},))
    talk.say("4", "и у нас", at=24 * 60, who=PETR, answers="lost")
    talk.say("21", "чиню", at=4, who=PETR, chat="5@chat.agent", below=(OPS, "1"))
    output = ask("context", "get", "--around", "2", mode="table")
    assert output.splitlines() == [
        f"Эксплуатация · {OPS}",
        "  Tue 2026-11-24",
        "  08:00 Анна Иванова: почта не уходит",
        "          со вторника",
        "> 08:01   Пётр → Анна Иванова [edited]: у всех этажей?",
        "            message 2",
        "  08:03     Анна Иванова → Пётр [file]: да",
        "  08:04   Пётр (thread): чиню",
        "  Wed 2026-11-25",
        "  08:00 Пётр → …: и у нас",
        "          | in answer to nobody, 2026-11-24 08:00: …",
        output.splitlines()[-1],
    ]
    assert output.splitlines()[-1].startswith("5 messages · about ")
    output = ask("context", "message", "2", mode="table")
    assert "и у нас" not in output
    data = ask("context", "message", "2")
    assert data["message"]["text"] == "у всех этажей?"
    assert [message["msg_id"] for message in data["thread"]] == ["1", "3", "21"]
    assert ask("context", "message", "2", mode="quiet") == f"{OPS} 1\n{OPS} 2\n{OPS} 3\n5@chat.agent 21\n"


@pytest.mark.parametrize("most", [200, 700, 4000])
def test_answer_keeps_to_the_token_budget(conversation: Talk, ask: Callable[..., Any], most: int) -> None:
    words = ("context", "get", "--timeframe", "60d", "--max-tokens", str(most))
    data = ask(*words)
    messages = [message for conversation in data["conversations"] for message in conversation["messages"]]
    assert messages
    assert tokens(json.dumps(data["conversations"], ensure_ascii=False)) <= data["tokens"] <= most
    assert data["cut"]
    output = ask(*words, mode="table")
    assert tokens(output.rpartition("\n")[0]) <= most + 40  # the last line counts what was left out
    assert "shortened to fit; raise --max-tokens to see more" in " ".join(output.split())
    assert "left out" in output


def test_topics_and_profiles_of_the_built_in_conversation(conversation: Talk, ask: Callable[..., Any]) -> None:
    topic = ask("context", "get", "--query", "сертификат vpn")
    assert topic["kind"] == "topic"
    best = topic["conversations"][0]
    assert any("vpn" in m["text"] for m in best["messages"] if m["msg_id"] in best["matches"])
    profile = ask("context", "get", "--context-type", "user-profile", "--user-id", "M.Orlov@corp.example")
    assert profile["profile"]["name"] == "Михаил Орлов"
    assert {m["user_id"] for c in profile["conversations"] for m in c["messages"]} == {"m.orlov@corp.example"}
    assert "Михаил Орлов · m.orlov@corp.example" in ask(
        "context", "get", "--context-type", "user-profile", "--user-id", "m.orlov@corp.example", mode="table"
    )


def test_chat_filter_includes_threads(database_url: str, ask: Callable[..., Any]) -> None:
    talk = Talk(database_url, datetime.now(UTC) - timedelta(hours=1))
    talk.say("1", "one")
    talk.say("2", "two", chat=DEV)
    talk.say("21", "below", at=1, chat="5@chat.agent", below=(OPS, "1"))
    talk.close()
    context = ask("context", "get", "--chat-id", OPS)
    assert [c["chat_id"] for c in context["conversations"]] == ["5@chat.agent", OPS]


def test_empty_context_has_a_note(talk: Talk, ask: Callable[..., Any]) -> None:
    assert "The archive has no message there." in ask("context", "get", mode="table")
    assert ask("context", "get")["conversations"] == []


def test_chats_and_users(talk: Talk, ask: Callable[..., Any]) -> None:
    talk.say("1", "one")
    talk.say("2", "two", at=1, who=PETR, chat=DEV)
    assert [row["chat_id"] for row in ask("context", "chats")["rows"]] == [DEV, OPS]
    assert [row["user_id"] for row in ask("context", "users", "--chat-id", OPS)["rows"]] == [ANNA]
    assert ask("context", "users", "--limit", "1", mode="quiet") == f"{PETR}\n"
    assert "Эксплуатация" in ask("context", "chats", mode="table")
    assert "Анна Иванова" in ask("context", "users", mode="table")


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("--context-type", "topic"), 64, "the context topic needs --query"),
        (("--query", " "), 64, "the context topic needs --query"),
        (("--context-type", "user-profile"), 64, "the context user-profile needs --user-id"),
        (("--around", "1", "--query", "x"), 64, "the context around does not use --query"),
        (("--around", "1", "--timeframe", "2h"), 64, "the context around does not use --timeframe"),
        (("--context-type", "recent", "--around", "1"), 64, "the context recent does not use --around"),
        (("--user-id", "x"), 64, "the context recent does not use --user-id"),
        (("--max-tokens", "199"), 64, "--max-tokens: 199 is out of range"),
        (("--max-tokens", "200001"), 64, "--max-tokens: 200001 is out of range"),
        (("--timeframe", "soon"), 64, "is not a span of time"),
        (("--timeframe", "0h"), 64, "is not above zero"),
        (("--around", "99"), 69, "the archive has no message 99"),
        (("--context-type", "user-profile", "--user-id", "x"), 69, "the archive has no user x"),
        (("--query", "x", "--user-id", "x"), 69, "the archive has no user x"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(
    talk: Talk, ask: Callable[..., Any], words: tuple[str, ...], code: int, sentence: str
) -> None:
    assert sentence in ask("context", "get", *words, code=code, mode="table")


def test_message_id_of_several_chats_needs_the_chat(talk: Talk, ask: Callable[..., Any]) -> None:
    talk.say("1", "here")
    talk.say("1", "and here", chat=DEV)
    assert "several chats have a message 1. Name one of " in ask("context", "message", "1", code=64, mode="table")
    assert ask("context", "message", "1", "--chat-id", DEV)["message"]["text"] == "and here"


@pytest.mark.parametrize(
    "words",
    [
        ("search", "text", "почта"), ("search", "hybrid", "почта"), ("context", "get"), ("context", "chats"),
        ("context", "users"), ("database", "stats"), ("database", "export"),
        ("database", "cleanup", "--older-than", "1d", "--dry-run"),
    ],
)  # fmt: skip
def test_unknown_chat_is_an_error(talk: Talk, ask: Callable[..., Any], words: tuple[str, ...]) -> None:
    talk.say("1", "почта не уходит")
    ask(*words, "--chat-id", OPS, mode="table")
    error = ask(*words, "--chat-id", "0@chat.agent", mode="table", code=69)
    assert error.startswith("vkteamsctl: the archive has no chat 0@chat.agent")


@pytest.mark.parametrize("words", [("search", "text", "почта"), ("database", "export", "--format", "csv")])
def test_since_after_until_is_refused(talk: Talk, ask: Callable[..., Any], words: tuple[str, ...]) -> None:
    error = ask(*words, "--since", "3d", "--until", "5d", mode="table", code=64)
    assert "no time lies between since and until" in error
