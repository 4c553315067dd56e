"""The audit: one JSON line on standard error for every call, also for a refused or cancelled one."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from vkteams_daemon.system.redaction import Secrets
from vkteams_daemon.system.text import visible

_MAX_VALUE = 300  # characters of one argument


@dataclass(slots=True)
class Call:
    """A call that is being answered: who calls what, and the outcome so far."""

    who: str
    client: str | None
    what: str
    arguments: Mapping[str, Any]
    ignored: list[str] = field(default_factory=list)
    hits: int | None = None
    outcome: str = "ok"
    error: str | None = None
    started: float = field(default_factory=time.monotonic)


class Audit:
    """Writes the audit lines.

    Args:
        secrets: the secrets that no line may hold.
        transport: `stdio` or `http`.
    """

    def __init__(self, secrets: Secrets, transport: str) -> None:
        self._secrets = secrets
        self._transport = transport

    def write(self, call: Call) -> None:
        """Write the line of a call that is over."""
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "audit": "mcp",
            "transport": self._transport,
            "who": call.who,
            "client": _short(call.client),
            "call": _short(call.what),
            "arguments": {_short(name): _short(value) for name, value in call.arguments.items()},
            **({"ignored": call.ignored} if call.ignored else {}),
            "outcome": call.outcome,
            "hits": call.hits,
            "ms": round((time.monotonic() - call.started) * 1000, 1),
            "error": _short(call.error),
        }
        sys.stderr.write(self._secrets.hide(json.dumps(line, ensure_ascii=False)) + "\n")
        sys.stderr.flush()


def _short(value: Any) -> Any:
    """A value as the audit shows it: a number or a bool as it is, anything else as a visible text of limited length."""
    if value is None or isinstance(value, bool | int | float):
        return value
    text = visible(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= _MAX_VALUE else text[:_MAX_VALUE] + "…"
