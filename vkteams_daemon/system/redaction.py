"""What must never be printed: the token and the passwords of a configuration, in every spelling they travel in."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from vkteams_daemon.config import Config

MASK = "***"
SHORTEST = 4  # a shorter password hides nothing, and masking it would eat half of every line


class Secrets:
    """Knows every secret that it was ever told: after a reload the old token may still stand in an exception."""

    def __init__(self) -> None:
        self._texts: tuple[str, ...] = ()

    def learn(self, config: Config) -> None:
        """Add the token, the database's password and the proxy's."""
        found = {config.api.token, *_passwords(config.database.url), *_passwords(config.api.proxy)}
        spelled = {form for secret in found for form in _spellings(secret) if len(form) >= SHORTEST}
        # The longest first, so that a secret within another one leaves no remains.
        self._texts = tuple(sorted(spelled | set(self._texts), key=lambda text: (-len(text), text)))

    def hide(self, text: str) -> str:
        """The text with each of them masked."""
        for secret in self._texts:
            if secret in text:
                text = text.replace(secret, MASK)
        return text


def _passwords(url: str) -> set[str]:
    """The password of a URL (before the `@` or as `password=`), or of a conninfo string, as written."""
    found = set(re.findall(r"://[^/@\s]*?:([^@/\s]*)@", url))
    for quoted, plain in re.findall(r"\bpassword\s*=\s*(?:'((?:[^'\\]|\\.)*)'|([^\s'&]+))", url):
        found.add(re.sub(r"\\(.)", r"\1", quoted) if quoted else plain)
    return found


def _spellings(secret: str) -> set[str]:
    plain = {secret, unquote(secret)}
    encoded = {form for text in plain for form in (quote(text, safe=""), quote(text))}
    lower = {re.sub("%[0-9A-F]{2}", lambda code: code[0].lower(), form) for form in encoded}
    return plain | encoded | lower | {repr(text)[1:-1] for text in plain}
