"""The tokens file: the clients of the MCP server over HTTP, and the access that each of its tokens gives.

The file is TOML with one table for each client; docs/mcp.md describes it. It is read again after each change, so that a
token can be withdrawn without a restart. While the file cannot be read, no token is accepted.
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
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, Any

from mcp.server.auth.provider import AccessToken
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from vkteams_daemon import plain_file
from vkteams_daemon.access import TOOLS, Access
from vkteams_daemon.errors import ConfigError, PermissionRefused, VkTeamsError
from vkteams_daemon.secret_exposure import exposure

log = logging.getLogger(__name__)

_MIN_TOKEN = 20  # characters of a token that the file holds in plain text


class Tokens:
    """The tokens of a file, as the SDK's `TokenVerifier`.

    Args:
        file: `[mcp] tokens_file`.

    Raises:
        ConfigError, PermissionRefused: the file is wrong, unreadable, or open to other users.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._state = self._file_state()
        self._accesses = read_tokens(file)

    async def verify_token(self, token: str) -> AccessToken | None:
        """The client to whom the token belongs; None for a token that the file does not hold."""
        access = self.access(token)
        if access is None:
            return None
        # The SDK gets the client's name in place of the token, so nothing beyond this point can log the token.
        return AccessToken(token=access.name, client_id=access.name, scopes=[], claims={"access": access})

    def access(self, token: str) -> Access | None:
        """The access that the token gives; None for an unknown token.

        The comparison takes constant time, and every token of the file is compared.
        """
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        match = None
        for token_digest, access in self._current().items():
            if hmac.compare_digest(token_digest, digest):
                match = access
        return match

    def _current(self) -> Mapping[bytes, Access]:
        with self._lock:
            state = self._file_state()
            if state != self._state:
                self._state = state
                try:
                    self._accesses = read_tokens(self._file)
                    log.info("the tokens file was read again: %d tokens", len(self._accesses))
                except VkTeamsError as error:
                    self._accesses = {}
                    log.error("no token is accepted until the tokens file is mended: %s", error)
            return self._accesses

    def _file_state(self) -> tuple[int, int, int] | None:
        """Modification time, inode and size of the file: a change shows in one of them. None if there is no file."""
        try:
            status = self._file.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size


def _as_utc(moment: date) -> datetime:
    if not isinstance(moment, datetime):
        moment = datetime.combine(moment, time())
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    token: Annotated[str, Field(min_length=_MIN_TOKEN)] | None = None
    chats: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] | None = None
    tools: Annotated[list[str], Field(min_length=1)] | None = None
    since: Annotated[datetime | date, AfterValidator(_as_utc)] | None = None
    user: Annotated[str, Field(min_length=1, pattern="^[^\x00]+$")] | None = None

    @model_validator(mode="after")
    def _check(self) -> _Entry:
        if (self.sha256 is None) == (self.token is None):
            raise ValueError("it needs either sha256 or token")
        if unknown := set(self.tools or ()) - set(TOOLS):
            raise ValueError(f"there is no tool {', '.join(sorted(unknown))}")
        return self


def read_tokens(file: Path) -> dict[bytes, Access]:
    """The accesses of the file by the SHA-256 of their tokens.

    Raises:
        ConfigError: there is no such file, it is no tokens file, or two clients have the same token.
        PermissionRefused: this user may not read the file, or other users may.
    """
    accesses: dict[bytes, Access] = {}
    for name, table in _tables(file).items():
        try:
            entry = _Entry.model_validate(table)
        except ValidationError as error:
            # The library's own message would repeat what stands in the file, which may be a token.
            first = error.errors(include_url=False, include_input=False)[0]
            key = ".".join(["tokens", name, *(str(part) for part in first["loc"] if isinstance(part, str))])
            reason = first["msg"].removeprefix("Value error, ")
            raise ConfigError(f"{file}: {key}: {reason[:1].lower()}{reason[1:]}") from None
        digest = bytes.fromhex(entry.sha256 or "") or hashlib.sha256((entry.token or "").encode()).digest()
        if digest in accesses:
            raise ConfigError(f"{file}: {accesses[digest].name} and {name} have the same token")
        accesses[digest] = Access(
            name,
            frozenset(entry.chats) if entry.chats is not None else None,
            frozenset(entry.tools) if entry.tools is not None else None,
            entry.since,  # type: ignore[arg-type]
            entry.user,
        )
    return accesses


def _tables(file: Path) -> dict[str, Any]:
    try:
        with os.fdopen(plain_file.open_plain(file, os.O_RDONLY), "rb") as opened:
            mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
            if sentence := exposure(file, mode):
                raise PermissionRefused(sentence, hint=f"Run `chmod 600 {file}`, or 640.")
            tables = tomllib.load(opened)
    except PermissionError as error:
        raise PermissionRefused(f"{file}: this user may not read it") from error
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise ConfigError(f"{file}: it is not TOML") from None
    clients = tables.get("tokens")
    if tables.keys() != {"tokens"} or not isinstance(clients, dict) or not clients:
        raise ConfigError(f"{file}: it is not a file of tokens", hint="Each client is a table [tokens.NAME].")
    if wrong := [name for name, table in clients.items() if not isinstance(table, dict)]:
        raise ConfigError(f"{file}: tokens.{wrong[0]}: it is not a table")
    return clients
