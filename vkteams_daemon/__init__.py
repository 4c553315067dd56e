"""vkteams-daemon: keeps every event of VK Teams chats in PostgreSQL and makes them searchable.

For other programs: `BotClient` speaks with the Bot API, `Archive` answers from the archive, `Service` runs the daemon's
work inside another program. They are imported when they are first asked for; docs/library.md shows each at work.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vkteams_daemon.botapi.client import BotClient
    from vkteams_daemon.daemon.service import Service
    from vkteams_daemon.search.archive import Archive

__version__ = "0.1.0"
__all__ = ["Archive", "BotClient", "Service", "__version__"]

_PLACES = {
    "Archive": "vkteams_daemon.search.archive",
    "BotClient": "vkteams_daemon.botapi.client",
    "Service": "vkteams_daemon.daemon.service",
}


def __getattr__(name: str) -> object:
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
