"""The Bot API on loopback, for tests, for trying the daemon without a bot, and as the oracle of what was delivered.

It keeps to what is known of the API, and where nothing is known it can play each way (quirks.py). Standard library
only, so that it starts at once. docs/simulator.md describes it for its users.
"""

from vkteams_daemon.simulator.bot import TOKEN
from vkteams_daemon.simulator.http import Simulator
from vkteams_daemon.simulator.quirks import Quirks

__all__ = ["TOKEN", "Quirks", "Simulator"]
