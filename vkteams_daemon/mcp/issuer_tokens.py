"""Access tokens of the OpenID issuer: the MCP server over HTTP as a resource server (RFC 9728, RFC 9068).

A client finds the issuer in the metadata of this server, signs its person in there, and shows the token that it gets. A
token counts if the issuer has signed it for this server, and sees what its person may see. The tokens of the file work
beside them.
"""

from __future__ import annotations

import logging

import anyio.to_thread
from mcp.server.auth.provider import AccessToken

from vkteams_daemon.access import Access
from vkteams_daemon.config import Config
from vkteams_daemon.errors import ConfigError
from vkteams_daemon.mcp.tokens import Tokens
from vkteams_daemon.serving.issuer import Issuer, SignInRefused

log = logging.getLogger(__name__)


class IssuerTokens:
    """The tokens of the issuer, and those of the tokens file, as the SDK's `TokenVerifier`.

    Args:
        issuer: signs the tokens.
        audience: for whom the issuer's tokens must be.
        file: the tokens of the file; None without one.
        administrators: VK Teams ids of the people who see the health of the archive.
    """

    def __init__(
        self, issuer: Issuer, audience: str, file: Tokens | None, administrators: frozenset[str] = frozenset()
    ) -> None:
        self._administrators = administrators
        self._issuer = issuer
        self._audience = audience
        self._file = file

    async def verify_token(self, token: str) -> AccessToken | None:
        """The client to whom the token belongs; None for a token that is neither the file's nor the issuer's."""
        if self._file and (known := await self._file.verify_token(token)):
            return known
        if token.count(".") != 2:
            return None  # no JSON Web Token: the issuer is not asked for its keys
        try:
            # The issuer's keys may have to be read first.
            return await anyio.to_thread.run_sync(self._read, token)
        except SignInRefused as error:
            log.info("a token of the issuer is refused: %s", error)
            return None

    def _read(self, token: str) -> AccessToken:
        claims = self._issuer.claims(token, self._audience)
        user = self._issuer.user(claims)
        client = claims.get("client_id") or claims.get("azp")
        access = Access(user, user=user, administrator=user in self._administrators)
        # The SDK gets the person's id in place of the token, so nothing beyond this point can log the token.
        return AccessToken(
            token=user, client_id=str(client or user), scopes=[], expires_at=int(claims["exp"]),
            subject=str(claims.get("sub", user)),
            claims={"access": access, "iss": self._issuer.name},
        )  # fmt: skip


def open_issuer_tokens(config: Config, file: Tokens | None) -> IssuerTokens:
    """The verifier of the issuer's tokens, for a configuration with `[mcp] url`.

    Raises:
        ConfigError, PermissionRefused: an option or a file of it is wrong.
    """
    if not config.oidc.issuer:
        raise ConfigError("mcp.url: it is for tokens of an issuer, and oidc.issuer is not set")
    administrators = frozenset({*config.oidc.admins, *config.web.administrators})
    return IssuerTokens(Issuer(config.oidc), config.mcp.audience or config.mcp.url, file, administrators)
