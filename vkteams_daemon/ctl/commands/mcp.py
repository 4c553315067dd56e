"""`vkteamsctl mcp`: the archive for Claude and other agents, over the Model Context Protocol."""

from __future__ import annotations

import argparse

from vkteams_daemon.config import Config
from vkteams_daemon.ctl import argument_types
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.output import Answer
from vkteams_daemon.errors import ConfigError


def register(noun: Noun) -> None:
    """Add the verb serve."""
    serve = noun.verb(
        "serve",
        "answer agents from the archive, read-only, over standard input and output (docs/mcp.md)",
        _serve,
        "vkteamsctl --config /etc/vkteams/vkteamsd.toml mcp serve",
        "vkteamsctl mcp serve --http 127.0.0.1:8080",
    )
    serve.add_argument(
        "--http",
        metavar="HOST:PORT",
        type=argument_types.address,
        help="serve over HTTP; an address that is not loopback needs mcp.tokens_file or mcp.url",
    )


def _serve(args: argparse.Namespace, config: Config) -> Answer:
    try:
        from vkteams_daemon.mcp import serve
    except ModuleNotFoundError as error:
        if error.name != "mcp":
            raise
        raise ConfigError(
            "the MCP server needs the Python package mcp", hint="Install vkteams-daemon with the extra `mcp`."
        ) from error
    if args.http:
        serve.over_http(config, *args.http)
    else:
        serve.over_stdio(config)
    return Answer(None)
