"""The demonstration behind `make demo`: a simulated office, a real daemon, a real database, real searches.

It installs the embedding models, starts the simulator of the Bot API with its built-in conversation, and starts
vkteamsd as a detached daemon. It waits until every message is stored and has its vectors, searches the archive, and
stops the daemon. Everything is in .demo, or in /var/tmp/vkteams-demo if root runs it where another user cannot reach
.demo. The archive stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from vkteams_daemon import config as configuration
from vkteams_daemon.daemon.health import read_health
from vkteams_daemon.embedding.catalogue import DEFAULT_MODELS
from vkteams_daemon.errors import VkTeamsError
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.system.user import choose_owner

BIN = Path(sys.executable).parent
TOKEN = "001.0000000000.0000000000:1000000001"
TIMEOUT = 120.0  # seconds in which everything must be stored and embedded


def main() -> int:
    """Run the demonstration; 0 if every step succeeded."""
    home = _home()
    config_file = home / "vkteamsd.toml"
    _clear(home)
    _give_database(home / "state")
    environ = os.environ | {"VKTEAMS_BOT_CONFIG": str(config_file), "VKTEAMS_DAEMON_ALLOW_ROOT": "1"}
    for name in ("DATABASE_URL", "VKTEAMS_BOT_API_TOKEN", "VKTEAMS_BOT_API_URL", "VKTEAMS_BOT_CHAT_ID"):
        environ.pop(name, None)
    if os.geteuid() == 0:
        environ["VKTEAMS_DAEMON_USER"] = "root"  # also where _vkteams exists, whose archive this is not
    os.environ.clear()
    os.environ.update(environ)
    with _simulator() as url:
        _write(config_file, home, url)
        if not all((home / "state" / "models" / model).is_dir() for model in DEFAULT_MODELS):
            _say("Installing the embedding models: once, about 180 MB")
            _run("vkteamsctl", "model", "install")
        _say("Starting the daemon, detached")
        _run("vkteamsctl", "daemon", "start")
        try:
            _wait(_issued(url))
            _ask()
        finally:
            _say("Stopping the daemon")
            _run("vkteamsctl", "daemon", "stop")
    prompt = f"VKTEAMS_BOT_CONFIG={shlex.quote(str(config_file))} {_display(BIN / 'vkteamsctl')}"
    print(f"\nThe archive stays in {home}. Continue with your own searches, for example:\n")
    for question in ("find почему встала почта", "open 1", "search text OPS-142", "database stats"):
        print(f"  {prompt} {question}")
    print("\ndocs/demo.md has eleven questions to try.")
    return 0


def _home() -> Path:
    """A directory that the user of the bundled PostgreSQL can reach: PostgreSQL does not run as root."""
    home = Path.cwd() / ".demo"
    if os.geteuid() == 0 and any(not parent.stat().st_mode & 0o001 for parent in home.parents):
        home = Path("/var/tmp/vkteams-demo")
        print(f"{Path.cwd()} is not accessible for the user that PostgreSQL runs as, so the demo is in {home}.")
    home.mkdir(mode=0o755, exist_ok=True)
    if home.stat().st_uid != os.geteuid():
        raise VkTeamsError(f"{home} belongs to another user", hint="Remove it.")
    return home


def _clear(home: Path) -> None:
    """Remove the archive of an earlier demo, because the simulator restarts its ids. The models stay."""
    if (home / "vkteamsd.toml").exists():
        subprocess.run(
            [BIN / "vkteamsctl", "--config", home / "vkteamsd.toml", "daemon", "stop"], check=True, capture_output=True
        )
    shutil.rmtree(home / "run", ignore_errors=True)
    shutil.rmtree(home / "state" / "postgresql", ignore_errors=True)


def _give_database(state: Path) -> None:
    """Root gives the database to `nobody`: PostgreSQL does not run as root, and all that it will hold is made up.

    A real archive belongs to a user of its own.
    """
    if os.geteuid() == 0:
        choose_owner("nobody").make_directory(state / "postgresql", 0o750)


def _write(file: Path, home: Path, url: str) -> None:
    file.write_text(
        f'[api]\nurl = "{url}"\ntoken = "{TOKEN}"\n\n'
        f'[daemon]\nruntime_dir = "{home / "run"}"\nstate_dir = "{home / "state"}"\nstatus_interval = 1.0\n\n'
        '[search]\ntimezone = "Europe/Moscow"\n',  # where the office is
        encoding="utf-8",
    )
    file.chmod(0o640)


@contextlib.contextmanager
def _simulator() -> Iterator[str]:
    """The simulator with its built-in conversation; its base URL."""
    command = [BIN / "vkteamsctl", "simulator", "run", "--script", "builtin", "--port", "0", "--token", TOKEN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            yield next(word for word in line.split() if word.startswith("http://"))
        finally:
            process.terminate()


def _issued(url: str) -> int:
    """How many events the simulator issues."""
    with urllib.request.urlopen(f"{url.removesuffix('/bot/v1')}/simulator", timeout=10) as answer:
        return int(json.load(answer)["issued"])


def _wait(events: int) -> None:
    """Wait until every event is stored and every message has its vector; a terminal shows progress bars."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    _say(f"Storing and embedding {events} events of an office's chats")
    began = time.monotonic()
    config = configuration.load()
    with (
        Archive(config) as archive,
        Progress(TextColumn("{task.description:9}"), BarColumn(), MofNCompleteColumn()) as bars,
    ):
        stored, embedded = bars.add_task("stored", total=events), bars.add_task("embedded", total=None)
        while True:
            statistics = archive.statistics()
            bars.update(stored, completed=statistics.events)
            # Stickers and deleted messages need no vector, so they are never in the queue.
            with_vector = sum(model.messages for model in statistics.models)
            bars.update(embedded, completed=with_vector, total=with_vector + statistics.queued or None)
            daemon = read_health(config).status
            stored_all = statistics.events >= events and with_vector
            if stored_all and daemon and daemon.embedding.queued == statistics.queued == 0:
                break
            if time.monotonic() - began > TIMEOUT:
                raise VkTeamsError(
                    "not everything was stored and embedded in time", hint="See `vkteamsctl daemon status`."
                )
            time.sleep(0.1)
    print(f"after {time.monotonic() - began:.1f} s")


def _ask() -> None:
    _say("The state of the daemon")
    _run("vkteamsctl", "daemon", "status")
    _say("A search by words, in any of their forms")
    _run("vkteamsctl", "search", "text", "почтовый сервер", "--limit", "3")
    _say("Two searches by meaning: the messages have none of these words")
    _run("vkteamsctl", "search", "semantic", "печатающее устройство заминает листы", "--limit", "1")
    _run("vkteamsctl", "search", "semantic", "shipment arrived late and damaged", "--limit", "1")
    _say("What the archive holds")
    _run("vkteamsctl", "database", "stats")
    _say("What an agent gets: the MCP server, asked by the official client")
    asyncio.run(_ask_as_an_agent("what did Mr Hargreaves want"))


async def _ask_as_an_agent(question: str) -> None:
    """Ask one question through the official client of the Model Context Protocol, which starts the server itself."""
    from mcp import Client, StdioServerParameters
    from mcp.client.stdio import stdio_client

    server = StdioServerParameters(command=str(BIN / "vkteamsctl"), args=["mcp", "serve"], env=dict(os.environ))
    # The server writes its audit to standard error.
    with Path(os.devnull).open("w", encoding="utf-8") as audit:
        async with Client(stdio_client(server, errlog=audit)) as client:
            tools = [tool.name for tool in (await client.list_tools()).tools]
            print(f"tools: {', '.join(tools)}")
            arguments = {"query": question, "limit": 2}
            print(f"search({json.dumps(arguments, ensure_ascii=False)})", flush=True)
            answer = await client.call_tool("search", arguments)
    if answer.is_error or not answer.structured_content or not answer.structured_content["hits"]:
        raise VkTeamsError("the MCP server found nothing", hint=str(answer.content))
    print(json.dumps(answer.structured_content, ensure_ascii=False, indent=2))


def _say(line: str) -> None:
    print(f"\n=== {line}", flush=True)


def _run(program: str, *arguments: str) -> None:
    """Show a command, and run it."""
    print(f"$ {program} {shlex.join(arguments)}", flush=True)
    subprocess.run([BIN / program, *arguments], check=True)


def _display(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (VkTeamsError, subprocess.CalledProcessError) as error:
        sys.exit(f"demo: {error} {getattr(error, 'hint', '')}".rstrip())
