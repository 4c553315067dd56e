"""The demonstration behind `make demo`: a simulated office, a real daemon, a real database, real searches.

It installs the embedding model, starts the simulator of the Bot API with its built-in conversation, starts vkteamsd as
the daemon that it is, waits until every message is stored and has its vector, asks the archive, and stops the daemon.
Everything lies in .demo (for root, where another user cannot reach that, in /var/tmp/vkteams-demo); the archive stays.
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
from vkteams_daemon.daemon.health import probe
from vkteams_daemon.errors import VkTeamsError
from vkteams_daemon.search.archive import Archive

BIN = Path(sys.executable).parent
TOKEN = "001.0000000000.0000000000:1000000001"
MODEL = "all-MiniLM-L6-v2"
PATIENCE = 120.0  # seconds until all must be stored and embedded


def main() -> int:
    """Run it; 0 when every step did what it promises."""
    home = _home()
    config_file = home / "vkteamsd.toml"
    _clear(home)
    environ = os.environ | {"VKTEAMS_BOT_CONFIG": str(config_file), "VKTEAMS_DAEMON_ALLOW_ROOT": "1"}
    for name in ("DATABASE_URL", "VKTEAMS_BOT_API_TOKEN", "VKTEAMS_BOT_API_URL", "VKTEAMS_BOT_CHAT_ID"):
        environ.pop(name, None)
    os.environ.clear()
    os.environ.update(environ)
    with _simulator() as url:
        _write(config_file, home, url)
        if not (home / "state" / "models" / MODEL).is_dir():
            _say("The embedding model: once, about 90 MB")
            _run("vkteamsctl", "model", "install", MODEL)
        _say("The daemon, detached")
        _run("vkteamsctl", "daemon", "start")
        try:
            _wait(_issued(url))
            _ask()
        finally:
            _say("The end")
            _run("vkteamsctl", "daemon", "stop")
    prompt = f"VKTEAMS_BOT_CONFIG={shlex.quote(str(config_file))} {_shown(BIN / 'vkteamsctl')}"
    print(f"\nThe archive stays in {home}. Go on asking, for example:\n")
    for question in ("search text OPS-142", "search semantic 'disk ran out of space'", "database stats"):
        print(f"  {prompt} {question}")
    print("\ndocs/demo.md has ten questions that are worth asking.")
    return 0


def _home() -> Path:
    """A directory that the bundled PostgreSQL's user can reach: PostgreSQL does not run as root."""
    home = Path.cwd() / ".demo"
    if os.geteuid() == 0 and any(not parent.stat().st_mode & 0o001 for parent in home.parents):
        home = Path("/var/tmp/vkteams-demo")
        print(f"{Path.cwd()} is closed to the user that PostgreSQL runs as, so the demo lies in {home}.")
    home.mkdir(mode=0o755, exist_ok=True)
    if home.stat().st_uid != os.geteuid():
        raise VkTeamsError(f"{home} belongs to another user", hint="Remove it.")
    return home


def _clear(home: Path) -> None:
    """Remove the archive of an earlier demo: the simulator starts its ids over. The model stays."""
    if (home / "vkteamsd.toml").exists():
        subprocess.run(
            [BIN / "vkteamsctl", "--config", home / "vkteamsd.toml", "daemon", "stop"], check=True, capture_output=True
        )
    shutil.rmtree(home / "run", ignore_errors=True)
    shutil.rmtree(home / "state" / "postgresql", ignore_errors=True)


def _write(file: Path, home: Path, url: str) -> None:
    file.write_text(
        f'[api]\nurl = "{url}"\ntoken = "{TOKEN}"\n\n'
        f'[daemon]\nruntime_dir = "{home / "run"}"\nstate_dir = "{home / "state"}"\nstatus_interval = 1.0\n',
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
    """How many events the simulator has to tell."""
    with urllib.request.urlopen(f"{url.removesuffix('/bot/v1')}/simulator", timeout=10) as answer:
        return int(json.load(answer)["issued"])


def _wait(events: int) -> None:
    """Until every event is stored and every message has its vector, with a progress bar on a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    _say(f"{events} events of an office's chats: stored and embedded")
    began = time.monotonic()
    config = configuration.load()
    with (
        Archive(config) as archive,
        Progress(TextColumn("{task.description:9}"), BarColumn(), MofNCompleteColumn()) as bars,
    ):
        stored, embedded = bars.add_task("stored", total=events), bars.add_task("embedded", total=None)
        while True:
            found = archive.statistics()
            bars.update(stored, completed=found.events)
            # What is nowhere in the queue is embedded: stickers and deleted messages need no vector.
            with_vector = max((model.messages for model in found.models), default=0)
            bars.update(embedded, completed=with_vector, total=with_vector + found.queued or None)
            daemon = probe(config).status
            if found.events >= events and with_vector and daemon and daemon.embedding.queued == found.queued == 0:
                break
            if time.monotonic() - began > PATIENCE:
                raise VkTeamsError(
                    "not everything was stored and embedded in time", hint="See `vkteamsctl daemon status`."
                )
            time.sleep(0.1)
    print(f"after {time.monotonic() - began:.1f} s")


def _ask() -> None:
    _say("How the daemon is")
    _run("vkteamsctl", "daemon", "status")
    _say("Found by its words, in whatever form they stand")
    _run("vkteamsctl", "search", "text", "почтовый сервер", "--limit", "3")
    _say("Found by its meaning: not one of these words stands in the message")
    _run("vkteamsctl", "search", "semantic", "shipment arrived late and damaged", "--limit", "1")
    _say("What the archive holds")
    _run("vkteamsctl", "database", "stats")
    _say("What an agent is told: the MCP server, asked by the official client")
    asyncio.run(_ask_as_an_agent("what did Mr Hargreaves want"))


async def _ask_as_an_agent(question: str) -> None:
    """One question through the official client of the Model Context Protocol, which starts the server itself."""
    from mcp import Client, StdioServerParameters
    from mcp.client.stdio import stdio_client

    server = StdioServerParameters(command=str(BIN / "vkteamsctl"), args=["mcp", "serve"], env=dict(os.environ))
    # The server's audit goes to its standard error.
    with Path(os.devnull).open("w", encoding="utf-8") as audit:
        async with Client(stdio_client(server, errlog=audit)) as client:
            tools = [tool.name for tool in (await client.list_tools()).tools]
            print(f"tools: {', '.join(tools)}")
            arguments = {"query": question, "limit": 2}
            print(f"search_hybrid({json.dumps(arguments, ensure_ascii=False)})", flush=True)
            answer = await client.call_tool("search_hybrid", arguments)
    if answer.is_error or not answer.structured_content or not answer.structured_content["hits"]:
        raise VkTeamsError("the MCP server found nothing", hint=str(answer.content))
    print(json.dumps(answer.structured_content, ensure_ascii=False, indent=2))


def _say(line: str) -> None:
    print(f"\n=== {line}", flush=True)


def _run(program: str, *arguments: str) -> None:
    """Show a command, and run it."""
    print(f"$ {program} {shlex.join(arguments)}", flush=True)
    subprocess.run([BIN / program, *arguments], check=True)


def _shown(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (VkTeamsError, subprocess.CalledProcessError) as error:
        sys.exit(f"demo: {error} {getattr(error, 'hint', '')}".rstrip())
