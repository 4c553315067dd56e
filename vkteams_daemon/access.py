"""Who may see what: the tokens file, and the access that each of its tokens gives.

The file is TOML, one table a client; docs/mcp.md describes it. It is read again when it has changed, so that a token is
withdrawn without a restart; while it cannot be read, no token is accepted.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import stat
import threading
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, Any

from mcp.server.auth.provider import AccessToken
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from vkteams_daemon.errors import ConfigError, PermissionRefused, VkTeamsError

log = logging.getLogger(__name__)

TOOLS = (
    "search_hybrid", "search_semantic", "search_text", "get_context", "get_recent_messages", "get_message",
    "get_database_stats", "list_chats", "list_users", "daemon_status",
)  # fmt: skip

_SHORTEST = 20  # characters of a token that stands in the file as it is


@dataclass(frozen=True, slots=True)
class Access:
    """What one client may see.

    Attributes:
        name: what the audit calls the client.
        chats: only these chats and their threads; None is every chat.
        tools: only these tools, and what gives the same as they do; None is every tool.
        since: only what was sent from this moment on (aware).
    """

    name: str
    chats: frozenset[str] | None = None
    tools: frozenset[str] | None = None
    since: datetime | None = None

    def may_use(self, tool: str) -> bool:
        """Whether the client may call this tool."""
        return self.tools is None or tool in self.tools

    def earliest(self, since: datetime | None) -> datetime | None:
        """The later of two moments: the one that the question names, and the one that the access begins with."""
        moments = [moment for moment in (since, self.since) if moment]
        return max(moments, default=None)


class Tokens:
    """The tokens of a file; the SDK's `TokenVerifier`.

    Args:
        file: `[mcp] tokens_file`.

    Raises:
        ConfigError, PermissionRefused: the file cannot be used as it is.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._seen = self._look()
        self._known = read(file)

    async def verify_token(self, token: str) -> AccessToken | None:
        """The client that the token belongs to; None for a token that is not in the file."""
        access = self.access(token)
        if access is None:
            return None
        # The token itself goes no further than this: nothing behind needs it, and nothing can log it.
        return AccessToken(token=access.name, client_id=access.name, scopes=[], claims={"access": access})

    def access(self, token: str) -> Access | None:
        """What the token gives; compared in constant time, and with every token there is."""
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        found = None
        for known, access in self._current().items():
            if hmac.compare_digest(known, digest):
                found = access
        return found

    def _current(self) -> Mapping[bytes, Access]:
        with self._lock:
            seen = self._look()
            if seen != self._seen:
                self._seen = seen
                try:
                    self._known = read(self._file)
                    log.info("the tokens file was read again: %d tokens", len(self._known))
                except VkTeamsError as error:
                    self._known = {}
                    log.error("no token is accepted until the tokens file is mended: %s", error)
            return self._known

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size


def _aware(moment: date) -> datetime:
    if not isinstance(moment, datetime):
        moment = datetime.combine(moment, time())
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    token: Annotated[str, Field(min_length=_SHORTEST)] | None = None
    chats: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] | None = None
    tools: Annotated[list[str], Field(min_length=1)] | None = None
    since: Annotated[datetime | date, AfterValidator(_aware)] | None = None

    @model_validator(mode="after")
    def _whole(self) -> _Entry:
        if (self.sha256 is None) == (self.token is None):
            raise ValueError("it needs either sha256 or token")
        if unknown := set(self.tools or ()) - set(TOOLS):
            raise ValueError(f"there is no tool {', '.join(sorted(unknown))}")
        return self


def read(file: Path) -> dict[bytes, Access]:
    """The tokens of the file, by the SHA-256 of each.

    Raises:
        ConfigError: it is not there, is not such a file, or two clients have one token.
        PermissionRefused: this user may not read it, or others may.
    """
    known: dict[bytes, Access] = {}
    for name, table in _tables(file).items():
        try:
            entry = _Entry.model_validate(table)
        except ValidationError as error:
            # Never the driver's own text: it repeats what stands in the file.
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(["tokens", name, *(str(part) for part in first["loc"] if isinstance(part, str))])
            what = first["msg"].removeprefix("Value error, ")
            raise ConfigError(f"{file}: {place}: {what[:1].lower()}{what[1:]}") from None
        digest = bytes.fromhex(entry.sha256 or "") or hashlib.sha256((entry.token or "").encode()).digest()
        if digest in known:
            raise ConfigError(f"{file}: {known[digest].name} and {name} have the same token")
        known[digest] = Access(
            name,
            frozenset(entry.chats) if entry.chats is not None else None,
            frozenset(entry.tools) if entry.tools is not None else None,
            entry.since,  # type: ignore[arg-type]
        )
    return known


def _tables(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
            if mode & 0o027:
                raise PermissionRefused(
                    f"{file}: others than its owner may read or change it", hint=f"Run `chmod 600 {file}`, or 640."
                )
            tables = tomllib.load(opened)
    except PermissionError as error:
        raise PermissionRefused(f"{file}: this user may not read it") from error
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise ConfigError(f"{file}: it is not TOML") from None
    found = tables.get("tokens")
    if tables.keys() != {"tokens"} or not isinstance(found, dict) or not found:
        raise ConfigError(f"{file}: it is not a file of tokens", hint="Each client is a table [tokens.NAME].")
    if wrong := [name for name, table in found.items() if not isinstance(table, dict)]:
        raise ConfigError(f"{file}: tokens.{wrong[0]}: it is not a table")
    return found
