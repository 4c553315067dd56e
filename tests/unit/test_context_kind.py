"""Which kind of context a question asks for, by its name or by its arguments."""

from __future__ import annotations

from typing import Any

import pytest

from vkteams_daemon.errors import UsageError
from vkteams_daemon.search.history.context_kind import require_argument, resolve_kind
from vkteams_daemon.search.history.results import Kind

NOTHING = {"msg_id": None, "query": None, "user_id": None, "timeframe": None}


@pytest.mark.parametrize(
    ("named", "arguments", "kind"),
    [
        (None, {}, "recent"),
        (None, {"timeframe": 60.0}, "recent"),
        (None, {"query": "relay"}, "topic"),
        (None, {"query": "relay", "user_id": "a", "timeframe": 60.0}, "topic"),
        (None, {"msg_id": "1"}, "around"),
        ("user-profile", {"user_id": "a", "timeframe": 60.0}, "user-profile"),
    ],
)
def test_a_kind_is_named_or_implied_by_the_arguments(named: Kind | None, arguments: dict[str, Any], kind: Kind) -> None:
    assert resolve_kind(named, NOTHING | arguments) == kind


@pytest.mark.parametrize(
    ("named", "arguments", "why"),
    [
        (None, {"user_id": "a"}, "user_id says nothing about the context recent"),
        (None, {"msg_id": "1", "query": "zzz"}, "query says nothing about the context around"),
        ("around", {"msg_id": "1", "query": "zzz"}, "query says nothing about the context around"),
        ("around", {"msg_id": "1", "timeframe": 60.0}, "timeframe says nothing about the context around"),
        ("recent", {"query": "relay"}, "query says nothing about the context recent"),
        ("topic", {"query": "relay", "msg_id": "1"}, "msg_id says nothing about the context topic"),
        ("topic", {}, "the context topic needs query"),
        ("topic", {"query": " "}, "the context topic needs query"),
        ("around", {}, "the context around needs msg_id"),
        ("user-profile", {}, "the context user-profile needs user_id"),
    ],
)
def test_unrelated_and_missing_arguments_are_refused(named: Kind | None, arguments: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError) as refused:
        resolve_kind(named, NOTHING | arguments)
    assert str(refused.value) == why


def test_the_caller_names_the_arguments_and_gives_the_hint() -> None:
    names, hint = {"query": "--query", "msg_id": "a message"}, "See the manual."
    with pytest.raises(UsageError, match=r"^--query says nothing about the context recent$") as refused:
        resolve_kind("recent", NOTHING | {"query": "relay"}, names, hint)
    assert refused.value.hint == hint
    with pytest.raises(UsageError, match=r"^the context around needs a message$"):
        require_argument("around", NOTHING, names)
