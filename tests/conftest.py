"""The fixtures: each comes from its room in tests/harness."""

from __future__ import annotations

import signal
from importlib.util import find_spec

from hypothesis import settings

_ROOMS = (
    "scale",
    "reports",
    "temporary",
    "postgres",
    "sharing",
    "proxy",
    "listener",
    "simulator",
    "models",
    "daemon",
    "oracle",
    "embedding",
    "mcp",
    "talk",
    "asking",
)

pytest_plugins = [f"tests.harness.{room}" for room in _ROOMS if find_spec(f"tests.harness.{room}")]

# No database of examples: the checkout may belong to another user. No deadline: the machine may be busy.
settings.register_profile("tests", database=None, deadline=None)
settings.load_profile("tests")

# Whoever starts the tests in the background has the shell ignore Ctrl-C for them, and so for all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
