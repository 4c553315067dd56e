"""vkteamsd with the real service and shorter waiting times of our own, for tests that would only wait for them.

The times keep their proportions: a session is pinged three times before the server would end it. FAULTS=full runs the
real vkteamsd instead.
"""

from __future__ import annotations

import sys
from typing import Any

from vkteams_daemon.daemon.main import main
from vkteams_daemon.system import garbage


def quick_service(*arguments: Any, **settings: Any) -> Any:
    """The service. It is imported here, after the fork, because its imports may start threads."""
    from vkteams_daemon.daemon import bot_listener, retention, roster, service
    from vkteams_daemon.daemon.polling import backoff, poller
    from vkteams_daemon.store import connection_profiles

    backoff.FIRST = 0.1
    retention.CHECK_INTERVAL = 0.5
    retention.REPRIEVE = 1.0
    roster.CHECK_INTERVAL = 1.0
    roster.PACE = 0.1
    bot_listener.PING_INTERVAL = 1.2
    poller.STANDBY_INTERVAL = 0.5
    for name in ("idle_session_timeout", "idle_in_transaction_session_timeout"):
        assert connection_profiles.WRITER.settings[name] == "10s"
        connection_profiles.WRITER.settings[name] = "4s"
    return service.Service(*arguments, **settings)


if __name__ == "__main__":
    garbage.collect_rarely()  # as bin/vkteamsd does
    sys.exit(main(service=quick_service))
