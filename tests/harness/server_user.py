"""A process that shares the bundled server: `python -m tests.harness.server_user BASE USER`; see `bundled.ServerUser`.

It acquires the server below BASE (`state`, `run`) and releases it when a line comes in; it prints what has happened.
"""

from __future__ import annotations

import sys
from pathlib import Path

from vkteams_daemon.errors import VkTeamsError
from vkteams_daemon.store.bundled.server import BundledServer

share = BundledServer(Path(sys.argv[1]) / "state", Path(sys.argv[1]) / "run", sys.argv[2])
try:
    share.acquire(60)
except VkTeamsError as error:
    print(type(error).__name__, error, flush=True)
    raise SystemExit(error.exit_code) from None
print("running", share.running(), flush=True)
if sys.stdin.readline():
    share.release()
    print("released", share.running(), flush=True)
