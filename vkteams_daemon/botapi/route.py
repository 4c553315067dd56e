"""The way to the Bot API: the proxy and the certificates, each with the option or the variable that names it.

The HTTP library takes both from the environment too, and its errors do not say so. What is wrong is found here, before
the first request, and named without its value: a proxy's URL may hold a password.
"""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import urllib3
from requests import utils

from vkteams_daemon import plain_file
from vkteams_daemon.errors import ConfigError, PermissionRefused

_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")  # in the HTTP library's order
_HASHED = re.compile("[0-9a-f]{8}[.][0-9]+")  # the only names that OpenSSL looks for in a directory
_KEY_LOG = "SSLKEYLOGFILE"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, and `source`: the option or the variable that names it."""

    url: str
    source: str


def find_proxy(url: str, option: str) -> Proxy | None:
    """The proxy on the way to this URL: that of `api.proxy`, or the environment's; None without one.

    Raises:
        ConfigError: it is not a URL of an HTTP proxy.
    """
    proxy = Proxy(option, "api.proxy") if option else _environment_proxy(url)
    if proxy is None:
        return None
    hint = "Write http://HOST:PORT, or http://USER:PASSWORD@HOST:PORT."
    try:
        parts = urllib3.util.parse_url(utils.prepend_scheme_if_needed(proxy.url, "http"))
    except ValueError as error:
        raise ConfigError(f"{proxy.source}: it is not a URL of a proxy", hint=hint) from error
    scheme = (parts.scheme or "").lower()
    if scheme.startswith("socks"):
        raise ConfigError(f"{proxy.source}: a SOCKS proxy cannot be used, only an HTTP proxy", hint=hint)
    if scheme not in ("http", "https") or not parts.host:
        raise ConfigError(f"{proxy.source}: it is not a URL of an HTTP proxy", hint=hint)
    return proxy


def check_certificates(url: str, ca_file: str) -> None:
    """Check the file of certificate authorities that is in force for this URL.

    Raises:
        ConfigError: it cannot be used.
        PermissionRefused: this user may not read it.
    """
    tls = urlsplit(url).scheme.lower() == "https"
    key_log = os.environ.get(_KEY_LOG, "")
    if tls and key_log and not _writable(Path(key_log)):
        raise ConfigError(f"{_KEY_LOG}: {key_log} cannot be written", hint="Unset it: it logs the keys of TLS.")
    if ca_file:
        _check_file("api.ca_file", ca_file)
        return
    variable = authorities_variable(ca_file)
    if tls and variable:
        _check_file(variable, os.environ[variable])


def authorities_variable(ca_file: str) -> str:
    """The variable that names the certificate authorities in force; "" without one."""
    return "" if ca_file else next((name for name in _CA_VARIABLES if os.environ.get(name)), "")


def _environment_proxy(url: str) -> Proxy | None:
    """The environment's proxy for this URL, as the HTTP library chooses it."""
    chosen = utils.select_proxy(url, utils.get_environ_proxies(url))
    if not chosen:
        return None
    for kind in (urlsplit(url).scheme.lower(), "all"):
        for name in (f"{kind}_proxy", f"{kind}_proxy".upper()):
            if os.environ.get(name) == chosen:
                return Proxy(chosen, name)
    return Proxy(chosen, "the environment's proxy")


def _check_file(source: str, file: str) -> None:
    try:
        if not Path(file).is_dir():
            os.close(plain_file.open_plain(Path(file), os.O_RDONLY))
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
        elif source == "api.ca_file":
            raise IsADirectoryError(None, "it is a directory")
        elif not any(_HASHED.fullmatch(entry.name) for entry in Path(file).iterdir()):
            raise FileNotFoundError(None, "the directory holds no certificate that `openssl rehash` has named")
    except PermissionError as error:
        raise PermissionRefused(f"{source}: this user may not read {file}") from error
    except OSError as error:  # ssl.SSLError is one
        why = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(f"{source}: {file} cannot be used: {why}") from error


def _writable(file: Path) -> bool:
    return os.access(file if file.exists() else file.parent, os.W_OK) and not file.is_dir()
