"""`vkteamsctl web`: the archive for people, in a browser."""

from __future__ import annotations

import argparse

from vkteams_daemon.config import Config
from vkteams_daemon.ctl import argument_types
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.output import Answer
from vkteams_daemon.errors import ConfigError

_ADDRESS = ("127.0.0.1", 8088)
_PACKAGES = ("starlette", "uvicorn", "h11", "jinja2", "babel", "pygal", "anyio", "authlib", "joserfc", "mcp")


def register(noun: Noun) -> None:
    """Add the verb serve."""
    serve = noun.verb(
        "serve",
        "show the archive to people in a browser, read-only, each their own chats (docs/web.md)",
        _serve,
        "vkteamsctl web serve",
        "vkteamsctl web serve --http 127.0.0.1:8088",
    )
    serve.add_argument(
        "--http",
        metavar="HOST:PORT",
        type=argument_types.address,
        default=_ADDRESS,
        help="where to listen (127.0.0.1:8088); not on loopback alone if people sign in",
    )
    serve.add_argument("--mcp", action="store_true", help="answer agents at /mcp, too (docs/mcp.md)")


def _serve(args: argparse.Namespace, config: Config) -> Answer:
    try:
        from vkteams_daemon.web.serve import serve

        if args.mcp:
            from vkteams_daemon.mcp.serve import beside as make_beside
    except ModuleNotFoundError as error:
        if error.name not in _PACKAGES:
            raise
        extra = "mcp" if error.name == "mcp" else "web"
        raise ConfigError(
            f"the page needs the Python package {error.name}", hint=f"Install vkteams-daemon with the extra `{extra}`."
        ) from error
    host, port = args.http
    serve(config, host, port, make_beside if args.mcp else None)
    return Answer(None)
