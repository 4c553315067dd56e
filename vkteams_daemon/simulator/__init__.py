"""A Bot API on the loopback interface.

It serves tests, lets people try the daemon without a bot, and its log tells which events were delivered.

The simulator does what is known of the real API. If the real behaviour is unknown, it can play each possibility
(quirks.py). It uses the standard library only, so that it starts at once. docs/simulator.md is the page for its users.
"""

from vkteams_daemon.simulator.bot import TOKEN
from vkteams_daemon.simulator.http import Simulator
from vkteams_daemon.simulator.quirks import Quirks

__all__ = ["TOKEN", "Quirks", "Simulator"]
