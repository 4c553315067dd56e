"""Signs people in by OpenID Connect: the code flow with PKCE, and an ID token checked against the issuer's keys."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import requests
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.requests_client import OAuth2Session

from vkteams_daemon.errors import ConfigError
from vkteams_daemon.options import Oidc
from vkteams_daemon.serving.issuer import TIMEOUT, Issuer, SignInRefused, read_private


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
        self.issuer = Issuer(options)
        self._options = options
        self._redirect = f"{page_url.rstrip('/')}/signed-in"
        self._secret = _read_secret(options.client_secret_file)

    def begin(self, back: str) -> tuple[str, Attempt]:
        """The address at the issuer where a person signs in, and what to remember until they come back.

        Raises:
            SignInRefused: the issuer does not answer.
        """
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        attempt = Attempt(state, nonce, verifier, back)
        with self._session() as session:
            url, _ = session.create_authorization_url(
                self.issuer.endpoint("authorization_endpoint"), state=attempt.state, nonce=attempt.nonce,
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
                    self.issuer.endpoint("token_endpoint"), grant_type="authorization_code", code=query["code"],
                    code_verifier=attempt.verifier, timeout=TIMEOUT, allow_redirects=False,
                )  # fmt: skip
        except (AuthlibBaseError, requests.RequestException, ValueError) as error:
            raise SignInRefused(f"the issuer gives no token: {type(error).__name__}") from error
        claims = self._claims(str(token.get("id_token", "")), attempt.nonce)
        if self._options.claim not in claims:
            claims = claims | self.issuer.user_info(str(token.get("access_token", "")), claims.get("sub"))
        return self.issuer.user(claims)

    def _session(self) -> OAuth2Session:
        method = "client_secret_basic" if self._secret else "none"
        return OAuth2Session(
            self._options.client_id, self._secret or None, token_endpoint_auth_method=method,
            scope="openid email profile", redirect_uri=self._redirect, code_challenge_method="S256",
        )  # fmt: skip

    def _claims(self, id_token: str, nonce: str) -> dict[str, Any]:
        client = self._options.client_id
        claims = self.issuer.claims(id_token, client, nonce={"essential": True, "value": nonce})
        if claims.get("azp", client) != client:
            raise SignInRefused("the issuer's token is not for this page")
        return claims


def _read_secret(file: str) -> str:
    if not file:
        return ""
    return read_private(file, "oidc.client_secret_file", secret=True).strip()
