"""The audit: one JSON line for every call, also for a refused or cancelled one."""

from __future__ import annotations

import itertools
import json
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import TextIOBase
from typing import Any

from vkteams_daemon.serving.background_text import BackgroundText
from vkteams_daemon.system.redaction import Secrets
from vkteams_daemon.system.text import visible

_MAX_VALUE = 300  # characters of one argument
_MAX_ARGUMENTS = 30

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Call:
    """A call that is being answered, and its outcome so far.

    Attributes:
        who: the reader or the visitor.
        client: the program that an MCP client says it is; None if it does not say.
        what: the tool, the resource, the prompt or the page.
        arguments: as they came.
        ignored: names of arguments that the tool does not have.
        hits: how many hits the answer has; None if it is no search.
        outcome: `ok`, `refused` or `cancelled`.
        error: why it was refused.
        started: monotonic.
    """

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
        face: what is asked: `mcp` or `web`.
        out: where the lines go; None is standard error.
    """

    def __init__(self, secrets: Secrets, transport: str, face: str = "mcp", out: TextIOBase | None = None) -> None:
        self._secrets = secrets
        self._transport = transport
        self._face = face
        self._out = out

    def write(self, call: Call) -> None:
        """Write the line of a call that is over."""
        self._write(
            who=call.who,
            client=call.client,
            call=call.what,
            arguments=call.arguments,
            **({"ignored": call.ignored} if call.ignored else {}),
            outcome=call.outcome,
            hits=call.hits,
            ms=round((time.monotonic() - call.started) * 1000, 1),
            error=call.error,
        )

    def close(self) -> None:
        """Wait until the lines are written, for a second at most."""
        if isinstance(self._out, BackgroundText):
            self._out.end()

    def write_refusals(self, reason: str, address: str, count: int) -> None:
        """Write one line for so many requests or connections from an address that did not become calls."""
        self._write(who=None, address=address, outcome="refused", count=count, error=reason)

    def _write(self, **fields: Any) -> None:
        # The call is answered even if its line cannot be written.
        try:
            line = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "audit": self._face,
                "transport": self._transport,
                **{name: _shown(value) for name, value in fields.items()},
            }
            out = self._out or sys.stderr
            out.write(self._secrets.hide(json.dumps(line, ensure_ascii=False)) + "\n")
            out.flush()
        except Exception:
            log.exception("an audit line could not be written")


def _shown(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_short(name): _short(entry) for name, entry in itertools.islice(value.items(), _MAX_ARGUMENTS)}
    return value if isinstance(value, list) else _short(value)


def _short(value: Any) -> Any:
    """A value as the audit shows it: a number or a bool as it is, anything else as a visible text of limited length."""
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and value.bit_length() <= 64):
        return value
    try:
        text = visible(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
    except (ValueError, RecursionError):  # a number with more digits than Python writes; lists in lists in lists
        text = f"{type(value).__name__} that cannot be shown"
    return text if len(text) <= _MAX_VALUE else text[:_MAX_VALUE] + "…"
