"""What an HTTP server refuses before it becomes a question: counted in the audit."""

from __future__ import annotations

import asyncio

from vkteams_daemon.serving.audit import Audit

PERIOD = 60.0  # seconds between two audit lines of the same refusal
_MAX_KINDS = 50  # reasons and addresses that are counted apart in a period


class Refusals:
    """Counts refusals by reason and address, and writes an audit line for each of them once in a period.

    Args:
        audit: where the lines go.
    """

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._counts: dict[tuple[str, str], int] = {}

    def count(self, reason: str, address: str) -> None:
        """Count a refusal. Called in the event loop."""
        if not self._counts:
            asyncio.get_running_loop().call_later(PERIOD, self.flush)
        key = (reason, address)
        if key not in self._counts and len(self._counts) >= _MAX_KINDS:
            key = (reason, "others")
        self._counts[key] = self._counts.get(key, 0) + 1

    def flush(self) -> None:
        """Write the lines of what was counted."""
        counts, self._counts = self._counts, {}
        for (reason, address), count in counts.items():
            self._audit.write_refusals(reason, address, count)
