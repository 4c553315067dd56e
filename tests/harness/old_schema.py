"""Archives as an older version has left them."""

from __future__ import annotations

import pytest

from vkteams_daemon.store import schema


def make_archive_before(url: str, name: str) -> None:
    """Make the schema as it was before the first migration that has this name in it."""
    scripts = schema.migrations()
    first = min(number for number, script in scripts.items() if name in script)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(schema, "migrations", lambda: {n: script for n, script in scripts.items() if n < first})
        schema.migrate(url)
