"""`vkteamsctl simulator run` as a process."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.fork_server import python
from tests.harness.simulator import SimulatorClient
from tests.harness.waiting import until
from vkteams_daemon.botapi.client import BotClient

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "bin" / "vkteamsctl")
ENVIRON = os.environ | {"PYTHONPATH": str(ROOT), "VKTEAMS_BOT_CONFIG": "/nonexistent/vkteamsd.toml"}


class Run:
    """The command, after it has printed its URL."""

    def __init__(self, *arguments: str, common: tuple[str, ...] = ()) -> None:
        self.process = subprocess.Popen(
            python(SCRIPT, *common, "simulator", "run", "--port", "0", *arguments),
            env=ENVIRON, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        stream = self.process.stderr if common else self.process.stdout
        assert stream is not None
        line = stream.readline()
        match = re.fullmatch(r"Bot API at (http://\S+/bot/v1) with the token (\S+)\n", line)
        assert match, line
        self.url, self.token = match[1], match[2]
        self.control = SimulatorClient(self.url)

    def end(self, signum: int) -> tuple[int, str, str]:
        self.process.send_signal(signum)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@pytest.fixture
def run() -> Iterator[Callable[..., Run]]:
    made: list[Run] = []

    def start(*arguments: str, common: tuple[str, ...] = ()) -> Run:
        made.append(Run(*arguments, common=common))
        return made[-1]

    yield start
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


def refused(*arguments: str) -> tuple[int, str]:
    process = subprocess.run(
        python(SCRIPT, "simulator", "run", *arguments),
        env=ENVIRON,
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=60,
    )
    return process.returncode, process.stderr


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_until_it_is_told_to_stop(run: Callable[..., Run], signum: int) -> None:
    command = run()
    client = BotClient(command.url, command.token)
    event = command.control.say("1@chat.agent", "anna", "Привет")
    assert json.loads(client.poll(0, 30))["events"] == [event]
    client.close()
    code, out, err = command.end(signum)
    assert (code, err) == (0, "")
    assert out == "stopped; 1 events issued, 1 of them unread, 1 polls\n"


def test_it_stops_while_polls_are_held(run: Callable[..., Run]) -> None:
    command = run()
    with socket.create_connection(("127.0.0.1", int(command.url.split(":")[2].partition("/")[0]))) as client:
        target = f"/bot/v1/events/get?token={command.token}&lastEventId=0&pollTime=60"
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        until(lambda: command.control.state()["waiting"] == 1, 30, "the poll")
        assert command.end(signal.SIGTERM)[0] == 0


def test_it_plays_the_built_in_conversation_to_its_own_token(run: Callable[..., Run]) -> None:
    command = run("--script", "builtin", "--token", "001.5.6:42")
    client = BotClient(command.url, "001.5.6:42")
    assert client.self_get().user_id == "42"
    assert len(json.loads(client.poll(0, 0))["events"]) == command.control.state()["issued"] > 200
    client.close()


def test_a_script_at_a_rate_in_a_loop_and_lenient(run: Callable[..., Run], tmp_path: Path) -> None:
    script = tmp_path / "talk.jsonl"
    script.write_text('{"type": "newMessage", "payload": {"msgId": "1", "text": "x"}}\n', encoding="utf-8")
    command = run("--script", str(script), "--rate", "100", "--loop", "--lenient")
    until(lambda: command.control.state()["issued"] > 5, 60, "five rounds")
    client = BotClient(command.url, command.token)
    client.poll(5, 0)
    assert json.loads(client.poll(0, 0))["events"][0]["eventId"] == 1
    client.close()
    assert command.end(signal.SIGTERM)[0] == 0


def test_json_stands_alone_on_standard_output(run: Callable[..., Run]) -> None:
    command = run(common=("--output", "json"))
    code, out, err = command.end(signal.SIGTERM)
    answer = json.loads(out)
    assert (code, err, answer["success"], answer["command"]) == (0, "", True, "simulator run")
    assert answer["data"]["url"] == command.url


def test_a_wrong_command_line_is_refused() -> None:
    assert refused("--loop", "--script", "builtin") == (
        64, "vkteamsctl: --loop needs --rate. Without a rate, all events come at once, without end.\n",
    )  # fmt: skip
    assert refused("--rate", "5")[0] == 64
    assert refused("--rate", "0", "--script", "builtin")[0] == 64
    assert refused("--port", "65536") == (
        64,
        "vkteamsctl: --port: '65536' is not a port. See `vkteamsctl simulator run --help`.\n",
    )
    code, message = refused("--script", "/nonexistent/talk.jsonl")
    assert (code, "No such file or directory" in message) == (64, True)


def test_a_port_in_use_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code, message = refused("--port", str(port))
    assert (code, message) == (73, f"vkteamsctl: cannot listen on 127.0.0.1:{port}: Address already in use\n")
