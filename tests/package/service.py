"""The installed service on a machine: its configuration, a simulator for it, and what it has archived."""

from __future__ import annotations

import json
from typing import Any

from tests.harness.waiting import until
from tests.package.machine import Machine

TOKEN = "001.0123456789.9876543210:1000000001"
PORT = 8081
_SAY = """
import json, sys, urllib.request
for line in sys.stdin:
    urllib.request.urlopen("http://127.0.0.1:{port}/simulator/messages", data=line.encode()).read()
"""


class Service:
    """vkteamsd as the package runs it, by its init script.

    Args:
        machine: with the package.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def configured(self, name: str = "vkteamsd", port: int = PORT, more: str = "", patience: int = 60) -> Service:
        """Write token and configuration of an instance."""
        token = "token" if name == "vkteamsd" else f"{name}.token"
        self.machine.done(f"install -m 640 -o root -g _vkteams /dev/stdin /etc/vkteams/{token}", stdin=f"{TOKEN}\n")
        self.machine.write(
            f"/etc/vkteams/{name}.toml",
            f'[api]\ntoken_file = "/etc/vkteams/{token}"\nurl = "http://127.0.0.1:{port}"\n'
            "connect_timeout = 2\nbackoff_max = 2\n"
            f"[daemon]\nstatus_interval = 0.2\nstart_timeout = {patience}\n{more}",
        )
        self.machine.done(f"chown root:_vkteams /etc/vkteams/{name}.toml && chmod 640 /etc/vkteams/{name}.toml")
        return self

    def simulated(self, port: int = PORT) -> Service:
        """Start the simulator, and wait until it listens."""
        self.machine.spawn(f"vkteamsctl simulator run --port {port} --token {TOKEN}", user="nobody")
        wanted = f":{port:04X} "
        until(lambda: wanted in self.machine.read("/proc/1/net/tcp"), 60.0, "the simulator")
        return self

    def started(self) -> Service:
        """Start simulator and service, and see that it did."""
        self.simulated()
        self.machine.done("service vkteamsd start")
        return self

    def say(self, *texts: str, port: int = PORT) -> None:
        """Let somebody in a chat say these things."""
        lines = [json.dumps({"chatId": "1@chat.agent", "userId": "olga@corp.example", "text": text}) for text in texts]
        self.machine.done(f"python3 -c '{_SAY.format(port=port)}'", stdin="\n".join(lines))

    def hits(self, word: str, user: str = "root", options: str = "") -> list[str]:
        """The texts that a search for this word finds."""
        said = self.machine.done(f"vkteamsctl {options} --output json search text {word}", user=user)
        return [hit["text"] for hit in json.loads(said)["data"]["hits"]]

    def wait_archived(self, text: str, word: str, options: str = "") -> None:
        """Wait until a search for the word finds the text."""
        until(lambda: text in self.hits(word, options=options), 60.0, f"{text!r} in the archive", interval=0.2)

    def status(self, options: str = "") -> dict[str, Any]:
        """`data` of the daemon's status."""
        ran = self.machine.run(f"vkteamsctl {options} --output json daemon status 2> /dev/null")
        data: dict[str, Any] = json.loads(ran.stdout)["data"]
        return data

    def pid(self, instance: str = "") -> int:
        """What its PID file says."""
        return int(self.machine.read(f"/run/vkteams/{instance}/vkteamsd.pid"))

    def log(self) -> str:
        """Its log."""
        return self.machine.read("/var/log/vkteams/vkteamsd.log")
