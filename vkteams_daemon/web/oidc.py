"""Signs people in by OpenID Connect: the code flow with PKCE, and an ID token checked against the issuer's keys."""

from __future__ import annotations

import ipaddress
import json
import secrets
import stat
import threading
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.requests_client import OAuth2Session
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from vkteams_daemon import plain_file
from vkteams_daemon.errors import ConfigError, PermissionRefused, VkTeamsError
from vkteams_daemon.options import Oidc

_TIMEOUT = 10.0  # seconds for one answer of the issuer
_MAX_AGE = 3600.0  # seconds after which its metadata and keys are read again
_KEYS_AGAIN = 60.0  # seconds between two readings of the keys for a token with an unknown key
_MAX_ANSWER = 1 << 20  # bytes
_LEEWAY = 60  # seconds by which clocks may differ
_MAX_USER = 255  # characters of a VK Teams id
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")


class SignInRefused(VkTeamsError):
    """Somebody is not signed in; the sentence says why."""

    exit_code = 77


@dataclass(frozen=True, slots=True)
class Attempt:
    """What the page remembers of a sign-in that has begun.

    Attributes:
        state: comes back from the issuer.
        nonce: comes back in the token.
        verifier: proves that the page itself has begun it.
        back: where the person wanted to go.
    """

    state: str
    nonce: str
    verifier: str
    back: str


class SignIn:
    """The page as a client of the issuer.

    Args:
        options: `[oidc]`.
        page_url: `[web] url`.

    Raises:
        ConfigError, PermissionRefused: something is missing or wrong.
    """

    def __init__(self, options: Oidc, page_url: str) -> None:
        if not page_url:
            raise ConfigError("oidc.issuer: signing in needs web.url, to which the issuer leads back")
        if not options.client_id:
            raise ConfigError("oidc.client_id: it is missing")
        if not _is_safe(options.issuer):
            raise ConfigError("oidc.issuer: it is no https:// URL; http:// is for loopback alone")
        self._options = options
        self._redirect = f"{page_url.rstrip('/')}/signed-in"
        self._secret = _read_secret(options.client_secret_file)
        self._users = _read_users(options.users_file)
        self._lock = threading.Lock()
        self._metadata: tuple[float, dict[str, Any]] | None = None
        self._keys: tuple[float, KeySet] | None = None

    def begin(self, back: str) -> tuple[str, Attempt]:
        """The address at the issuer where a person signs in, and what to remember until they come back.

        Raises:
            SignInRefused: the issuer does not answer.
        """
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        attempt = Attempt(state, nonce, verifier, back)
        with self._session() as session:
            url, _ = session.create_authorization_url(
                self._endpoint("authorization_endpoint"), state=attempt.state, nonce=attempt.nonce,
                code_verifier=attempt.verifier,
            )  # fmt: skip
        return str(url), attempt

    def finish(self, attempt: Attempt, query: dict[str, str]) -> str:
        """The VK Teams id of the person who has come back.

        Args:
            attempt: what was remembered.
            query: the parameters that the issuer has added to our address.

        Raises:
            SignInRefused: the issuer or we do not accept it.
        """
        if not secrets.compare_digest(query.get("state", "").encode(), attempt.state.encode()):
            raise SignInRefused("this sign-in was not begun here: begin again")
        if "error" in query:
            raise SignInRefused("the company's sign-in has refused it")
        if query.get("iss", self._options.issuer) != self._options.issuer or not query.get("code"):
            raise SignInRefused("the company's sign-in has sent no code")
        try:
            with self._session() as session:
                token = session.fetch_token(
                    self._endpoint("token_endpoint"), grant_type="authorization_code", code=query["code"],
                    code_verifier=attempt.verifier, timeout=_TIMEOUT, allow_redirects=False,
                )  # fmt: skip
        except (AuthlibBaseError, requests.RequestException, ValueError) as error:
            raise SignInRefused(f"the issuer gives no token: {type(error).__name__}") from error
        claims = self._claims(str(token.get("id_token", "")), attempt.nonce)
        if self._options.claim not in claims:
            claims = claims | self._user_info(str(token.get("access_token", "")), claims.get("sub"))
        return self._user(claims)

    def _session(self) -> OAuth2Session:
        method = "client_secret_basic" if self._secret else "none"
        return OAuth2Session(
            self._options.client_id, self._secret or None, token_endpoint_auth_method=method,
            scope="openid email profile", redirect_uri=self._redirect, code_challenge_method="S256",
        )  # fmt: skip

    def _claims(self, id_token: str, nonce: str) -> dict[str, Any]:
        registry = jwt.JWTClaimsRegistry(
            leeway=_LEEWAY, iss={"essential": True, "value": self._options.issuer},
            aud={"essential": True, "value": self._options.client_id}, exp={"essential": True},
            iat={"essential": True}, nonce={"essential": True, "value": nonce},
        )  # fmt: skip
        try:
            try:
                token = jwt.decode(id_token, self._read_keys(), algorithms=ALGORITHMS)
            except (JoseError, ValueError):  # perhaps by a key that is new
                token = jwt.decode(id_token, self._read_keys(again=True), algorithms=ALGORITHMS)
            registry.validate(token.claims)
        except (JoseError, ValueError) as error:
            raise SignInRefused(f"the issuer's token is not valid: {type(error).__name__}") from error
        if token.claims.get("azp", self._options.client_id) != self._options.client_id:
            raise SignInRefused("the issuer's token is not for this page")
        return dict(token.claims)

    def _user_info(self, access_token: str, subject: Any) -> dict[str, Any]:
        """What the issuer says of the person beside the token: the ID tokens of many issuers hold only an id."""
        info = _get(self._endpoint("userinfo_endpoint"), {"Authorization": f"Bearer {access_token}"})
        if not subject or info.get("sub") != subject:
            raise SignInRefused("the issuer tells of another person than the token")
        return {name: info[name] for name in (self._options.claim, "email_verified") if name in info}

    def _user(self, claims: dict[str, Any]) -> str:
        name = self._options.claim
        value = claims.get(name)
        if not isinstance(value, str) or not value.strip() or len(value) > _MAX_USER or not value.isprintable():
            raise SignInRefused(f"the issuer's token has no {name}")
        if name == "email":
            if self._options.require_verified and claims.get("email_verified") is not True:
                raise SignInRefused("the issuer has not verified this address")
            value = value.lower()
        return self._users.get(value, value)

    def _endpoint(self, name: str) -> str:
        endpoint = self._read_metadata().get(name)
        if not isinstance(endpoint, str) or not _is_safe(endpoint):
            raise SignInRefused(f"the issuer names no {name}")
        return endpoint

    def _read_metadata(self) -> dict[str, Any]:
        with self._lock:
            if self._metadata is None or time.monotonic() - self._metadata[0] > _MAX_AGE:
                issuer = self._options.issuer
                metadata = _get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
                if metadata.get("issuer") != issuer:
                    raise SignInRefused(
                        "the issuer's metadata is of another issuer: oidc.issuer must be exactly its name"
                    )
                self._metadata = (time.monotonic(), metadata)
            return self._metadata[1]

    def _read_keys(self, *, again: bool = False) -> KeySet:
        endpoint = self._endpoint("jwks_uri")
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
            url, headers=headers, timeout=_TIMEOUT, stream=True, allow_redirects=False, auth=_as_it_is
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


def _read_secret(file: str) -> str:
    if not file:
        return ""
    return _read(file, "oidc.client_secret_file", 0o007).strip()


def _read_users(file: str) -> dict[str, str]:
    """VK Teams ids by the issuer's names."""
    if not file:
        return {}
    try:
        users = tomllib.loads(_read(file, "oidc.users_file", 0o002)).get("users")
    except tomllib.TOMLDecodeError:
        raise ConfigError(f"{file}: it is not TOML") from None
    if not isinstance(users, dict) or not all(isinstance(user, str) and user for user in users.values()):
        raise ConfigError(f"{file}: it has no table [users] of names and VK Teams ids")
    return users


def _read(file: str, option: str, forbidden: int) -> str:
    path = Path(file)
    try:
        if stat.S_IMODE(path.stat().st_mode) & forbidden:
            raise PermissionRefused(f"{file}: other users may read or change it", hint=f"Run `chmod o= {file}`.")
        return plain_file.read_text(path)
    except PermissionError as error:
        raise PermissionRefused(f"{file}: this user may not read it") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{option}: {file} cannot be read: {reason}") from error
