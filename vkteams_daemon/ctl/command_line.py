"""The command line of vkteamsctl: its parser, its global options, its nouns and their verbs.

`vkteamsctl [--config FILE] [--instance NAME] [--pid-file PATH] [--output MODE] NOUN VERB ...`. The global options stand
before the noun or after the verb.

A noun is a module of `ctl/commands` with `register(noun)`, which adds its verbs (`Noun.verb`). Only the module of the
noun on the command line is imported, and heavy modules are imported inside the verbs: `daemon status` stays quick.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from vkteams_daemon import __version__
from vkteams_daemon.config import Config
from vkteams_daemon.ctl import output
from vkteams_daemon.errors import UsageError
from vkteams_daemon.system import streams

NOUNS = {
    "daemon": "start, stop and watch vkteamsd",
    "search": "find messages",
    "context": "read conversations, list chats and people",
    "database": "the archive's tables, statistics and repairs",
    "model": "install and choose the embedding models",
    "diagnostic": "check the health, show the bot and the newest events",
    "config": "show and check the configuration",
    "mcp": "serve the archive to Claude and other agents",
    "web": "serve the archive to people, in a browser",
    "simulator": "run a simulated Bot API on this machine",
}

EXAMPLES = """examples:
  vkteamsctl daemon status
  vkteamsctl search text "сервер упал" --since 7d
  vkteamsctl --output json diagnostic health
"""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `UsageError` for a mistake; the parsers of its verbs are of this class too."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        settings.setdefault("allow_abbrev", False)
        super().__init__(**settings)

    def error(self, message: str) -> NoReturn:
        """Make one sentence and a hint of argparse's message.

        Raises:
            UsageError: always.
        """
        sentence, _, choices = message.partition(" (choose from ")
        hint = f"Choose one of {choices.rstrip(')')}." if choices else f"See `{self.prog} --help`."
        if message.endswith("required: QUERY"):  # argparse took the query for an option
            hint = f"Put -- before a query that begins with -. {hint}"
        raise UsageError(sentence.removeprefix("argument "), hint=hint.replace("'", ""))

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        try:
            return super()._get_value(action, arg_string)
        except UsageError as error:  # what our own types raise; argparse adds the name of the option
            raise argparse.ArgumentError(action, str(error)) from error

    def _print_message(self, message: str, file: Any = None) -> None:
        streams.write_stdout(message)


class Noun:
    """One noun of the command line; its module adds the verbs.

    Args:
        parser: of the noun.
        common: the global options, which every verb takes too.
    """

    def __init__(self, parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
        self._verbs: Any = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs", required=True)
        self._common = common

    def verb(
        self,
        name: str,
        help: str,
        run: Callable[[argparse.Namespace, Config], output.Answer],
        *examples: str,
        note: str = "",
        needs_config: bool = True,
    ) -> argparse.ArgumentParser:
        """Add a verb; the parser for its own options.

        Args:
            name: of the verb.
            help: one line.
            run: runs the command.
            examples: command lines that can be run.
            note: shown below the examples.
            needs_config: False for a verb that runs without a readable configuration; `run` gets the defaults.
        """
        epilog = "\n  ".join(["examples:" if len(examples) > 1 else "example:", *examples])
        parser: argparse.ArgumentParser = self._verbs.add_parser(
            name, help=help, description=help, parents=[self._common], epilog=f"{epilog}\n\n{note}".rstrip()
        )
        parser.set_defaults(func=run, needs_config=needs_config)
        return parser


def common_options() -> argparse.ArgumentParser:
    """The global options. They have no defaults: a verb's parser must not undo an option before the noun."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS, allow_abbrev=False)
    group = common.add_argument_group("global options")
    group.add_argument("--config", metavar="FILE", help="configuration file to read")
    group.add_argument("--instance", metavar="NAME", help="the instance that NAME.toml configures")
    group.add_argument("--pid-file", metavar="PATH", help="PID file of the daemon")
    group.add_argument("--output", choices=output.MODES, metavar="MODE", help="table (default), json, jsonl or quiet")
    return common


def build(noun: str | None) -> argparse.ArgumentParser:
    """The parser of every noun, with the verbs of this noun alone."""
    common = common_options()
    parser = Parser(
        prog="vkteamsctl",
        description="Controls vkteamsd and searches its archive of VK Teams chats.",
        epilog=EXAMPLES,
        parents=[common],
    )
    parser.add_argument("--version", action="version", version=f"vkteamsctl {__version__}")
    nouns: Any = parser.add_subparsers(dest="noun", metavar="NOUN", title="nouns", required=True)
    for name, line in NOUNS.items():
        if name == noun:
            module = importlib.import_module(f"vkteams_daemon.ctl.commands.{name}")
            module.register(Noun(nouns.add_parser(name, help=line, parents=[common]), common))
        else:
            nouns.add_parser(name, help=line, add_help=False)
    return parser


def glance(arguments: Sequence[str]) -> tuple[str, str | None]:
    """The output mode and the noun, read before anything is imported or refused."""
    common = Parser(add_help=False, parents=[common_options()], argument_default=argparse.SUPPRESS)
    try:
        mode = getattr(common.parse_known_args(arguments)[0], "output", "table")
    except UsageError:
        mode = "table"
    common.add_argument("noun", nargs="?")
    common.add_argument("rest", nargs=argparse.REMAINDER)
    try:
        noun = getattr(common.parse_known_args(arguments)[0], "noun", None)
    except UsageError:
        noun = next((word for word in arguments if word in NOUNS), None)
    return mode, noun
