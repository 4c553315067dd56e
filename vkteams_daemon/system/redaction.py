"""Masks the token and the passwords of a configuration in text that is printed, in every spelling they travel in."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from vkteams_daemon.config import Config
from vkteams_daemon.options import hide_credentials

MASK = "***"
SHORTEST = 4  # letters; masking a shorter password would hide nothing and destroy half of every line


class Secrets:
    """Every secret that this process has learned. None is forgotten: an exception may hold an older token."""

    def __init__(self) -> None:
        self._spellings: tuple[str, ...] = ()

    def learn(self, config: Config) -> None:
        """Add the token, the database's passwords and the proxy's."""
        secrets = {config.api.token, *_passwords(config.database.url), *_passwords(config.api.proxy)}
        secrets.update(_passwords(config.database.read_url))
        spellings = {form for secret in secrets for form in _spellings(secret) if len(form) >= SHORTEST}
        # The longest first: a secret that is a part of another one must not leave the rest of it behind.
        self._spellings = tuple(sorted(spellings | set(self._spellings), key=lambda text: (-len(text), text)))

    def hide(self, text: str) -> str:
        """The text with every secret in it replaced by `MASK`, and everything else that has the form of one."""
        for secret in self._spellings:
            if secret in text:
                text = text.replace(secret, MASK)
        return hide_credentials(text)


def _passwords(url: str) -> set[str]:
    """The passwords as written in a URL (before the `@`, or as `password=`) or in a conninfo string."""
    passwords = set(re.findall(r"://[^/@\s]*?:([^@/\s]*)@", url))
    for quoted, plain in re.findall(r"\bpassword\s*=\s*(?:'((?:[^'\\]|\\.)*)'|([^\s'&]+))", url):
        passwords.add(re.sub(r"\\(.)", r"\1", quoted) if quoted else plain)
    return passwords


def _spellings(secret: str) -> set[str]:
    """The secret as it stands, percent-encoded in upper and lower case and decoded, and as repr() writes it."""
    plain = {secret, unquote(secret)}
    encoded = {form for text in plain for form in (quote(text, safe=""), quote(text))}
    lower = {re.sub("%[0-9A-F]{2}", lambda code: code[0].lower(), form) for form in encoded}
    return plain | encoded | lower | {repr(text)[1:-1] for text in plain}
