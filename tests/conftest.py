"""The fixtures: each comes from its room in tests/harness."""

from __future__ import annotations

from importlib.util import find_spec

_ROOMS = (
    "scale",
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
)

pytest_plugins = [f"tests.harness.{room}" for room in _ROOMS if find_spec(f"tests.harness.{room}")]
