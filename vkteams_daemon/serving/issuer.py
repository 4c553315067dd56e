"""An OpenID issuer: its metadata, its keys, and what its tokens say of a person. Page and MCP server trust it."""

from __future__ import annotations

import ipaddress
import json
import stat
import threading
import time
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from vkteams_daemon import plain_file
from vkteams_daemon.errors import ConfigError, PermissionRefused, VkTeamsError
from vkteams_daemon.options import Oidc
from vkteams_daemon.secret_exposure import exposure

TIMEOUT = 10.0  # seconds for one answer of the issuer
_MAX_AGE = 3600.0  # seconds after which its metadata and keys are read again
_KEYS_AGAIN = 60.0  # seconds between two readings of the keys for a token with an unknown key
_MAX_ANSWER = 1 << 20  # bytes
_LEEWAY = 60  # seconds by which clocks may differ
_MAX_USER = 255  # characters of a VK Teams id
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")


class SignInRefused(VkTeamsError):
    """Somebody is not signed in; the sentence says why."""

    exit_code = 77


class Issuer:
    """The issuer of `[oidc]`.

    Args:
        options: `[oidc]`.

    Raises:
        ConfigError, PermissionRefused: an option or a file of it is wrong.
    """

    def __init__(self, options: Oidc) -> None:
        if not _is_safe(options.issuer):
            raise ConfigError("oidc.issuer: it is no https:// URL; http:// is for loopback alone")
        self.name = options.issuer
        self._options = options
        self._users = _read_users(options.users_file)
        self._lock = threading.Lock()
        self._metadata: tuple[float, dict[str, Any]] | None = None
        self._keys: tuple[float, KeySet] | None = None

    def endpoint(self, name: str) -> str:
        """An address of the issuer, by its name in the metadata.

        Raises:
            SignInRefused: the issuer does not answer, or names none.
        """
        endpoint = self._read_metadata().get(name)
        if not isinstance(endpoint, str) or not _is_safe(endpoint):
            raise SignInRefused(f"the issuer names no {name}")
        return endpoint

    def claims(self, token: str, audience: str, **required: Any) -> dict[str, Any]:
        """What a token says that this issuer has signed for this audience, and that is valid now.

        Args:
            token: a JSON Web Token.
            audience: for whom it must be.
            required: further claims and the rules for them, as joserfc takes them.

        Raises:
            SignInRefused: it is not valid.
        """
        registry = jwt.JWTClaimsRegistry(
            leeway=_LEEWAY, iss={"essential": True, "value": self.name}, aud={"essential": True, "value": audience},
            exp={"essential": True}, iat={"essential": True}, **required,
        )  # fmt: skip
        try:
            try:
                read = jwt.decode(token, self._read_keys(), algorithms=ALGORITHMS)
            except (JoseError, ValueError):  # perhaps by a key that is new
                read = jwt.decode(token, self._read_keys(again=True), algorithms=ALGORITHMS)
            registry.validate(read.claims)
        except (JoseError, ValueError) as error:
            raise SignInRefused(f"the issuer's token is not valid: {type(error).__name__}") from error
        return dict(read.claims)

    def user_info(self, access_token: str, subject: Any) -> dict[str, Any]:
        """What the issuer says of the person beside the token; many an ID token holds no more than an id.

        Raises:
            SignInRefused: it says nothing, or something of another person.
        """
        info = _get(self.endpoint("userinfo_endpoint"), {"Authorization": f"Bearer {access_token}"})
        if not subject or info.get("sub") != subject:
            raise SignInRefused("the issuer tells of another person than the token")
        return {name: info[name] for name in (self._options.claim, "email_verified") if name in info}

    def user(self, claims: dict[str, Any]) -> str:
        """The VK Teams id of the person of a token.

        Raises:
            SignInRefused: the token names nobody, or with an address that is not verified.
        """
        name = self._options.claim
        value = claims.get(name)
        if not isinstance(value, str) or not value.strip() or len(value) > _MAX_USER or not value.isprintable():
            raise SignInRefused(f"the issuer's token has no {name}")
        if name == "email":
            if self._options.require_verified and claims.get("email_verified") is not True:
                raise SignInRefused("the issuer has not verified this address")
            value = value.lower()
        return self._users.get(value, value)

    def _read_metadata(self) -> dict[str, Any]:
        with self._lock:
            if self._metadata is None or time.monotonic() - self._metadata[0] > _MAX_AGE:
                issuer = self.name
                metadata = _get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
                if metadata.get("issuer") != issuer:
                    raise SignInRefused(
                        "the issuer's metadata is of another issuer: oidc.issuer must be exactly its name"
                    )
                self._metadata = (time.monotonic(), metadata)
            return self._metadata[1]

    def _read_keys(self, *, again: bool = False) -> KeySet:
        endpoint = self.endpoint("jwks_uri")
        with self._lock:
            age = _KEYS_AGAIN if again else _MAX_AGE
            if self._keys is None or time.monotonic() - self._keys[0] > age:
                try:
                    self._keys = (time.monotonic(), KeySet.import_key_set(_get(endpoint)))  # type: ignore[arg-type]
                except (JoseError, ValueError, KeyError, TypeError) as error:
                    raise SignInRefused("the issuer's keys cannot be read") from error
            return self._keys[1]


def _get(url: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    try:
        with requests.get(
            url, headers=headers, timeout=TIMEOUT, stream=True, allow_redirects=False, auth=_as_it_is
        ) as answer:
            answer.raise_for_status()
            body = answer.raw.read(_MAX_ANSWER + 1, decode_content=True)
            found = json.loads(body[: _MAX_ANSWER + 1])
    except (requests.RequestException, ValueError, OSError) as error:
        raise SignInRefused(f"the issuer does not answer: {type(error).__name__}") from error
    if not isinstance(found, dict):
        raise SignInRefused("the issuer's answer cannot be read")
    return found


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keep the request's own authorisation: requests would put that of a netrc file in its place."""
    return request


def _is_safe(url: str) -> bool:
    """Whether nobody between us and this address can change what it says."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if parts.scheme == "https":
        return bool(host)
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
    return parts.scheme == "http" and loopback


def _read_users(file: str) -> dict[str, str]:
    """VK Teams ids by the issuer's names."""
    if not file:
        return {}
    try:
        users = tomllib.loads(read_private(file, "oidc.users_file", secret=False)).get("users")
    except tomllib.TOMLDecodeError:
        raise ConfigError(f"{file}: it is not TOML") from None
    if not isinstance(users, dict) or not all(isinstance(user, str) and user for user in users.values()):
        raise ConfigError(f"{file}: it has no table [users] of names and VK Teams ids")
    return users


def read_private(file: str, option: str, *, secret: bool) -> str:
    """The text of a file of an option that others may not change.

    Args:
        file: its path.
        option: for messages.
        secret: whether it holds a secret, so that its mode must also satisfy `exposure`.

    Raises:
        ConfigError, PermissionRefused: it cannot be read, or others may change it or read the secret.
    """
    path = Path(file)
    try:
        text = plain_file.read_text(path)  # first: the mode of what is no file says nothing
        mode = stat.S_IMODE(path.stat().st_mode)
        if secret and (sentence := exposure(path, mode)):
            raise PermissionRefused(sentence, hint=f"Run `chmod 600 {file}`, or 640.")
        if mode & 0o002:
            raise PermissionRefused(f"{file}: other users may change it", hint=f"Run `chmod o-w {file}`.")
        return text
    except PermissionError as error:
        raise PermissionRefused(f"{file}: this user may not read it") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{option}: {file} cannot be read: {reason}") from error
