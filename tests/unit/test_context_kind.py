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
        (None, {"user_id": "a"}, "the context recent does not use user_id"),
        (None, {"msg_id": "1", "query": "zzz"}, "the context around does not use query"),
        ("around", {"msg_id": "1", "query": "zzz"}, "the context around does not use query"),
        ("around", {"msg_id": "1", "timeframe": 60.0}, "the context around does not use timeframe"),
        ("recent", {"query": "relay"}, "the context recent does not use query"),
        ("topic", {"query": "relay", "msg_id": "1"}, "the context topic does not use msg_id"),
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
    with pytest.raises(UsageError, match=r"^the context recent does not use --query$") as refused:
        resolve_kind("recent", NOTHING | {"query": "relay"}, names, hint)
    assert refused.value.hint == hint
    with pytest.raises(UsageError, match=r"^the context around needs a message$"):
        require_argument("around", NOTHING, names)
