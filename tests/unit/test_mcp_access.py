"""The tokens file: the access that a token gives, and the files that are refused."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vkteams_daemon.access import Access
from vkteams_daemon.errors import ConfigError, PermissionRefused
from vkteams_daemon.mcp.tokens import Tokens, read_tokens

LONG = "t" * 40


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A tokens file, empty as yet."""
    made = tmp_path / "tokens.toml"
    made.touch(0o600)
    return made


def test_a_token_gives_its_access(file: Path) -> None:
    digest = hashlib.sha256(b"secret").hexdigest()
    file.write_text(
        f"[tokens.all]\nsha256 = '{digest}'\n[tokens.some]\ntoken = '{LONG}'\n"
        "chats = ['1@chat.agent']\ntools = ['search_text']\nsince = 2026-01-02\n"
    )
    tokens = Tokens(file)
    assert tokens.access("secret") == Access("all")
    assert tokens.access(LONG) == Access(
        "some", frozenset({"1@chat.agent"}), frozenset({"search_text"}), datetime(2026, 1, 2, tzinfo=UTC)
    )
    assert tokens.access("") is tokens.access(LONG[:-1]) is tokens.access("\ud800") is None


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-02", datetime(2026, 1, 2, tzinfo=UTC)),
        ("2026-01-02T03:04:05", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05+03:00", datetime(2026, 1, 2, 0, 4, 5, tzinfo=UTC)),
    ],
)
def test_a_date_is_utc_unless_it_says(file: Path, text: str, moment: datetime) -> None:
    file.write_text(f"[tokens.a]\ntoken = '{LONG}'\nsince = {text}\n")
    (access,) = read_tokens(file).values()
    assert access.since == moment
    assert access.earliest(datetime(2020, 1, 1, tzinfo=UTC)) == moment
    assert access.earliest(datetime(2030, 1, 1, tzinfo=UTC)) == datetime(2030, 1, 1, tzinfo=UTC)


def test_the_sdk_is_not_given_the_token_itself(file: Path) -> None:
    file.write_text(f"[tokens.a]\ntoken = '{LONG}'\n")
    verified = asyncio.run(Tokens(file).verify_token(LONG))
    assert verified and verified.client_id == "a" and LONG not in repr(verified)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is not a file of tokens"),
        ("tokens = 1", "it is not a file of tokens"),
        ("[tokens]\na = 1", "tokens.a: it is not a table"),
        ("[token.a]\n", "it is not a file of tokens"),
        ("[tokens.a\n", "it is not TOML"),
        ("[tokens.a]\ntoken = 'short'", "tokens.a.token: string should have at least 20 characters"),
        ("[tokens.a]\nsha256 = 'xyz'", "tokens.a.sha256: string should match pattern"),
        ("[tokens.a]\n", "tokens.a: it needs either sha256 or token"),
        (f"[tokens.a]\ntoken = '{LONG}'\ntools = ['drop']", "tokens.a: there is no tool drop"),
        (f"[tokens.a]\ntoken = '{LONG}'\nchat = ['x']", "tokens.a.chat: extra inputs are not permitted"),
        (f"[tokens.a]\ntoken = '{LONG}'\nchats = []", "tokens.a.chats: list should have at least 1 item"),
        (f"[tokens.a]\ntoken = '{LONG}'\nsince = 'x'", "tokens.a.since"),
        (f"[tokens.a]\ntoken = '{LONG}'\n[tokens.b]\ntoken = '{LONG}'", "a and b have the same token"),
    ],
)
def test_a_wrong_file_is_refused(file: Path, text: str, why: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_tokens(file)
    assert why in str(refused.value) and LONG not in str(refused.value) and "\n" not in str(refused.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        Tokens(tmp_path / "none")


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o660, 0o601])
def test_a_file_that_other_users_may_read_or_change_is_refused(file: Path, mode: int) -> None:
    file.write_text(f"[tokens.a]\ntoken = '{LONG}'\n")
    file.chmod(mode)
    with pytest.raises(PermissionRefused, match="others than its owner"):
        read_tokens(file)
    file.chmod(0o640)
    assert read_tokens(file)
