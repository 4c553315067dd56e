"""`vkteamsctl mcp`: the archive for Claude and other agents, by the Model Context Protocol."""

from __future__ import annotations

import argparse
from typing import Any

from vkteams_daemon.config import Config
from vkteams_daemon.ctl.output import Answer
from vkteams_daemon.errors import ConfigError


def register(nouns: Any, common: argparse.ArgumentParser) -> None:
    """Add the noun `mcp` with its verb serve."""
    noun = nouns.add_parser("mcp", help="the archive for Claude and other agents", parents=[common])
    verbs = noun.add_subparsers(dest="verb", metavar="VERB", title="verbs", required=True)
    serve = verbs.add_parser(
        "serve",
        help="answer agents from the archive, read-only; over standard input and output (docs/mcp.md)",
        parents=[common],
        epilog="examples:\n  vkteamsctl --config /etc/vkteams/vkteamsd.toml mcp serve\n"
        "  vkteamsctl mcp serve --http 127.0.0.1:8080",
    )
    serve.add_argument(
        "--http", metavar="HOST:PORT", type=_address, help="over HTTP instead; beyond loopback it needs mcp.tokens_file"
    )
    serve.set_defaults(func=_serve)


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


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:8080")
    return host, int(port)
