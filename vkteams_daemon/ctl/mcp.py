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
        help="answer agents from the archive, read-only, until the input ends (docs/mcp.md)",
        parents=[common],
        epilog="example:\n  vkteamsctl --config /etc/vkteams/vkteamsd.toml mcp serve",
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
    serve.over_stdio(config)
    return Answer(None)
