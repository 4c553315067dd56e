"""The fixtures: each comes from a module of tests/harness."""

from __future__ import annotations

import gc
import os
import signal
import time

from hypothesis import settings

from vkteams_daemon.system import garbage

pytest_plugins = [
    "tests.harness.scale",
    "tests.harness.ctl",
    "tests.harness.reports",
    "tests.harness.temporary",
    "tests.harness.postgres",
    "tests.harness.bundled",
    "tests.harness.cluster",
    "tests.harness.proxy",
    "tests.harness.listener",
    "tests.harness.simulator",
    "tests.harness.models",
    "tests.harness.daemon",
    "tests.harness.oracle",
    "tests.harness.embedding",
    "tests.harness.mcp",
    "tests.harness.talk",
    "tests.harness.web",
]

# A date is a day of the reader's zone; a test that is about zones sets its own.
os.environ["TZ"] = "UTC"
time.tzset()

# A shell that starts the tests in the background ignores Ctrl-C for them, and so for every process that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

garbage.collect_rarely()


def pytest_collection_finish() -> None:
    """Exempt a million objects that stay until the end: the program collects after each attempt that fails."""
    gc.collect()
    garbage.exempt_present()


def pytest_configure() -> None:
    """Set how Hypothesis works."""
    from tests.harness.scale import scaled

    # No database of examples: the checkout may belong to another user. No deadline: the machine may be busy.
    settings.register_profile(
        "tests", database=None, deadline=None,
        max_examples=scaled("examples of each property, if it names no number", full=100, quick=25),
    )  # fmt: skip
    settings.load_profile("tests")
