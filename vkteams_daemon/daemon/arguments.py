"""The command line of vkteamsd. `vkteamsctl daemon start` has the same options, so this module is cheap to import."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from vkteams_daemon import __version__
from vkteams_daemon.errors import UsageError
from vkteams_daemon.system import streams

_EXAMPLES = """examples:
  vkteamsd
  vkteamsd --config /etc/vkteams/vkteamsd.toml --chat-id 681869378@chat.agent
  vkteamsd --foreground --no-save
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "), hint="See `vkteamsd --help`.")

    def _print_message(self, message: str, file: Any = None) -> None:
        streams.write_stdout(message)


def parser() -> argparse.ArgumentParser:
    """The command line of vkteamsd."""
    line = _Parser(
        prog="vkteamsd",
        description="Keeps every event of VK Teams chats in PostgreSQL, as a daemon.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    line.add_argument("--version", action="version", version=f"vkteamsd {__version__}")
    line.add_argument("--config", metavar="FILE", help="configuration file to read")
    line.add_argument("--instance", metavar="NAME", default="", help="the instance that NAME.toml configures")
    line.add_argument("--pid-file", metavar="PATH", help="path of the PID file")
    add_options(line)
    return line


def add_options(line: argparse.ArgumentParser) -> None:
    """Add the options that `vkteamsctl daemon start` passes on, besides --config, --instance and --pid-file."""
    line.add_argument("--foreground", action="store_true", help="do not detach; log to standard error")
    saving = line.add_mutually_exclusive_group()
    saving.add_argument("--auto-save", dest="save", action="store_true", default=None, help="store events (default)")
    saving.add_argument(
        "--no-save",
        dest="save",
        action="store_false",
        help="print each event instead of storing it; the API then forgets the event (with --foreground only)",
    )
    line.add_argument(
        "--chat-id", metavar="ID", action="append", help="keep only this chat and its threads; may be repeated"
    )
    line.add_argument("--role", choices=("all", "listen", "embed"), help="listen and embed (all), or one of the two")
