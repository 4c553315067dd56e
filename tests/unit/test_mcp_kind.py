"""Which kind of context a client of the MCP server means."""

from __future__ import annotations

from typing import Any

import pytest

from vkteams_daemon.errors import UsageError
from vkteams_daemon.mcp.tools.context_kind import Kind, meant

NOTHING = {"msg_id": None, "query": None, "user_id": None, "timeframe": None}


@pytest.mark.parametrize(
    ("named", "given", "kind"),
    [
        (None, {}, "recent"),
        (None, {"timeframe": 60.0}, "recent"),
        (None, {"query": "relay"}, "topic"),
        (None, {"query": "relay", "user_id": "a", "timeframe": 60.0}, "topic"),
        (None, {"msg_id": "1"}, "around"),
        ("user-profile", {"user_id": "a", "timeframe": 60.0}, "user-profile"),
    ],
)
def test_a_kind_is_meant_by_its_name_or_by_what_is_given(named: Kind | None, given: dict[str, Any], kind: Kind) -> None:
    assert meant(named, **NOTHING | given) == kind


@pytest.mark.parametrize(
    ("named", "given", "why"),
    [
        (None, {"user_id": "a"}, "user_id says nothing about the context recent"),
        (None, {"msg_id": "1", "query": "zzz"}, "query says nothing about the context around"),
        ("around", {"msg_id": "1", "query": "zzz"}, "query says nothing about the context around"),
        ("around", {"msg_id": "1", "timeframe": 60.0}, "timeframe says nothing about the context around"),
        ("recent", {"query": "relay"}, "query says nothing about the context recent"),
        ("topic", {"query": "relay", "msg_id": "1"}, "msg_id says nothing about the context topic"),
        ("topic", {}, "the context topic needs query"),
        ("around", {}, "the context around needs msg_id"),
        ("user-profile", {}, "the context user-profile needs user_id"),
    ],
)
def test_what_says_nothing_about_the_kind_is_refused_and_so_is_a_lack(
    named: Kind | None, given: dict[str, Any], why: str
) -> None:
    with pytest.raises(UsageError) as refused:
        meant(named, **NOTHING | given)
    assert str(refused.value) == why
