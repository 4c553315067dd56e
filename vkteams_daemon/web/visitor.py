"""Who is asking: the person whom a reverse proxy has signed in, or a user of this machine.

A header that names a person is believed from the addresses of the trusted proxies alone. If the page is open on
loopback, a request that a proxy has passed on does not count as one of a user of this machine.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TypeAlias

from starlette.requests import HTTPConnection

from vkteams_daemon.access import Access
from vkteams_daemon.errors import ConfigError
from vkteams_daemon.options import Oidc, Web
from vkteams_daemon.web.session import Session

_MAX_USER = 255  # characters of a VK Teams id
_PASSED_ON = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-user", "x-real-ip", "via")

Network: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"


@dataclass(frozen=True, slots=True)
class Visitor:
    """A person who looks at the page.

    Attributes:
        access: what the person may see.
        administrator: whether the person sees the health of the archive.
    """

    access: Access
    administrator: bool = False


class Admission:
    """Decides who is asking.

    Args:
        options: `[web]`.
        oidc: `[oidc]`.

    Raises:
        ConfigError: nobody could sign in, or an option is wrong.
    """

    def __init__(self, options: Web, oidc: Oidc = Oidc()) -> None:  # noqa: B008
        self._header = options.user_header.lower()
        self._administrators = frozenset(options.administrators)
        self._proxies = [_network(text) for text in options.trusted_proxies]
        self._open = options.open_on_loopback
        self.by_oidc = bool(oidc.issuer)
        self._oidc_administrators = self._administrators | frozenset(oidc.admins)
        if not self._proxies and not self._open and not self.by_oidc:
            raise ConfigError(
                "nobody could sign in to the page",
                hint="Set oidc.issuer or web.trusted_proxies, or web.open_on_loopback for a trial (docs/web.md).",
            )
        if self._open and any(proxy.overlaps(_network(loopback)) for proxy in self._proxies for loopback in
                              ("127.0.0.0/8" if proxy.version == 4 else "::1/128",)):  # fmt: skip
            raise ConfigError(
                "web.open_on_loopback: a proxy on this machine is trusted, so its visitors would be everybody",
                hint="Set one of web.open_on_loopback and web.trusted_proxies.",
            )

    @property
    def needs_loopback(self) -> bool:
        """Whether the page may listen on loopback alone."""
        return not self._proxies and not self.by_oidc

    def visitor(self, request: HTTPConnection, session: Session | None) -> Visitor | None:
        """Who is asking; None if nobody has signed them in.

        Args:
            request: the request.
            session: the browser's, if this server has signed it.
        """
        address = _address(request)
        if address is None:
            return None
        if any(address in proxy for proxy in self._proxies if proxy.version == address.version):
            named = self._signed_in(request)
            return named if named or not self.by_oidc else self._by_session(session)
        if (visitor := self._by_session(session)) is not None:
            return visitor
        passed_on = any(name in request.headers for name in (*_PASSED_ON, self._header))
        if self._open and address.is_loopback and not passed_on:
            return Visitor(Access("a user of this machine"), administrator=True)
        return None

    def is_secure(self, request: HTTPConnection) -> bool:
        """Whether the person's browser reaches the page over TLS."""
        address = _address(request)
        trusted = address is not None and any(
            address in proxy for proxy in self._proxies if proxy.version == address.version
        )
        return trusted and request.headers.get("x-forwarded-proto", "").lower() == "https"

    def _by_session(self, session: Session | None) -> Visitor | None:
        user = session.signed_in() if session and self.by_oidc else None
        return Visitor(Access(user, user=user), user in self._oidc_administrators) if user else None

    def client(self, request: HTTPConnection) -> str:
        """The address that counts as the browser's: behind a trusted proxy, the one that the proxy names last."""
        address = _address(request)
        if address and any(address in proxy for proxy in self._proxies if proxy.version == address.version):
            return request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()[:100] or str(address)
        return str(address)

    def _signed_in(self, request: HTTPConnection) -> Visitor | None:
        users = request.headers.getlist(self._header)
        if len(users) != 1:
            return None  # with two of them, one may be the visitor's own
        user = users[0].strip()
        if not user or len(user) > _MAX_USER or not user.isprintable() or "," in user:
            return None
        return Visitor(Access(user, user=user), user in self._administrators)


def _address(request: HTTPConnection) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(request.client.host if request.client else "")
    except ValueError:
        return None
    mapped = address.ipv4_mapped if address.version == 6 else None
    return mapped or address


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise ConfigError(f"web.trusted_proxies: {text!r} is no address and no network") from None
