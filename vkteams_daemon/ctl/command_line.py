"""The command line of vkteamsctl: its parser, its global options, its nouns and their verbs.

`vkteamsctl [--config FILE] [--instance NAME] [--pid-file PATH] [--output MODE] NOUN VERB ...`. The global options stand
before the noun or after the verb. `find` and `open` (`COMMANDS`) stand without a noun.

A noun is a module of `ctl/commands` with `register(noun)`, which adds its verbs (`Noun.verb`). Only the module of the
noun on the command line is imported, and heavy modules are imported inside the verbs: `daemon status` stays quick.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
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

COMMANDS = {
    "find": "find messages by words and meaning; no quotes needed",
    "open": "show a hit of the last search in its conversation",
}
"""Commands without a noun: each is a module of `ctl/commands` whose `register` adds one verb of its own name."""

HIDDEN_COMMANDS = ("complete",)
"""Further commands without a noun, for programs alone: the help does not list them."""

EXAMPLES = """examples:
  vkteamsctl daemon status
  vkteamsctl find почему встала почта
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
        hint = f"See `{self.prog} --help`."
        if choices:
            names = [name for part in choices.split(", ") if (name := part.strip("'\" )")) not in HIDDEN_COMMANDS]
            word = sentence.rpartition(": ")[2].strip("'\"")
            hint = self._nearest(word, names) or f"Choose one of {', '.join(names)}."
        if message.endswith("required: QUERY"):  # argparse took the query for an option
            hint = f"Put -- before a query that begins with -. {hint}"
        raise UsageError(sentence.removeprefix("argument "), hint=hint.replace("'", ""))

    def _nearest(self, word: str, names: Sequence[str]) -> str:
        """The hint to the name that is meant; empty if none is near."""
        if near := nearest(word, names):
            return f"Did you mean {near}?"
        if self.prog == "vkteamsctl":
            if not word.isascii():
                return "To find words: `vkteamsctl find WORDS`."
            if owners := [noun for noun in NOUNS if word in verbs_of(noun)]:
                return "Did you mean " + " or ".join(f"`vkteamsctl {noun} {word}`" for noun in owners) + "?"
        return ""

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
        verbs: the subparsers of the noun's parser.
        common: the global options, which every verb takes too.
    """

    def __init__(self, verbs: Any, common: argparse.ArgumentParser) -> None:
        self._verbs = verbs
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
        parser.set_defaults(func=run, needs_config=needs_config, parser=parser)
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
    for name, line in COMMANDS.items():
        if name == noun:
            importlib.import_module(f"vkteams_daemon.ctl.commands.{name}").register(Noun(nouns, common))
        else:
            nouns.add_parser(name, help=line, add_help=False)
    if noun in HIDDEN_COMMANDS:
        importlib.import_module(f"vkteams_daemon.ctl.commands.{noun}").register(Noun(nouns, common))
    for name, line in NOUNS.items():
        if name == noun:
            module = importlib.import_module(f"vkteams_daemon.ctl.commands.{name}")
            own = nouns.add_parser(name, help=line, parents=[common])
            verbs = own.add_subparsers(dest="verb", metavar="VERB", title="verbs", required=True)
            module.register(Noun(verbs, common))
        else:
            nouns.add_parser(name, help=line, add_help=False)
    return parser


def parse(arguments: Sequence[str], noun: str | None) -> argparse.Namespace:
    """The parsed arguments. `find` takes every word that does not belong to an option.

    Raises:
        UsageError: they are no command.
    """
    args, rest = build(noun).parse_known_args(arguments)
    if noun == "find":
        rest = _take_words(args, rest)
        _check_quoted(args, arguments)
    if rest:
        raise UsageError(f"unrecognized arguments: {' '.join(rest)}", hint=_hint_for(args, rest[0], arguments))
    return args


def _take_words(args: argparse.Namespace, rest: Sequence[str]) -> list[str]:
    """Add the words behind the options to the words to find. Returns what is no word.

    Words that stand before the options as well are refused: they are the rest of a value without quotes.
    """
    words = [word for word in rest if not word.startswith("-") or _excludes(word)]
    if args.words and any(not word.startswith("-") for word in words):
        return list(rest)
    args.words = [*args.words, *words]
    return [word for word in rest if word not in words]


def _check_quoted(args: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Refuse a time whose further words are taken for words to find: `--since вчера 18:00`."""
    for option in ("since", "until"):
        value = getattr(args, option)
        if value is None or f"--{option}" not in arguments:
            continue
        place = list(arguments).index(f"--{option}")
        text = next((text for text in value.longer(arguments[place + 2 :])), None)
        if text is not None:
            hint = f"Quote a value of several words: --{option} {shlex.quote(text)}."
            raise UsageError(f"--{option}: {value.text} goes on", hint=hint)


def _excludes(word: str) -> bool:
    """Whether the word excludes another from a search, as `-тест` does."""
    return not word.startswith("--") and len(word) > 2


def _hint_for(args: argparse.Namespace, word: str, arguments: Sequence[str]) -> str:
    """What to write in the place of a word that belongs nowhere."""
    parser: argparse.ArgumentParser | None = getattr(args, "parser", None)
    if parser is None:
        return "See `vkteamsctl --help`."
    options = [name for action in parser._actions for name in action.option_strings if name.startswith("--")]
    if word.startswith("-"):
        near = nearest(word.partition("=")[0], options)
        hint = f"Did you mean {near}?" if near else f"See `{parser.prog} --help`."
        if hasattr(args, "words"):
            hint += f" To look for a command line, quote it: `{parser.prog} 'ls -la'`."
        return hint
    place = list(arguments).index(word)
    end = next((n for n in range(place, len(arguments)) if arguments[n].startswith("-")), len(arguments))
    begin = next((n for n in range(place - 1, -1, -1) if arguments[n].startswith("-")), None)
    if begin is not None and arguments[begin] in options and place - begin >= 2:
        value = " ".join(arguments[begin + 1 : end])
        return f"Quote a value of several words: {arguments[begin]} {shlex.quote(value)}."
    if hasattr(args, "query") and isinstance(args.query, str) and args.query in arguments:
        query = " ".join(arguments[list(arguments).index(args.query) : end])
        return f"Quote the query: `{parser.prog} {shlex.quote(query)}`. `vkteamsctl find` needs no quotes."
    return f"See `{parser.prog} --help`."


def nearest(word: str, names: Sequence[str]) -> str:
    """The name that a mistyped word means; empty if none is near."""
    import difflib

    return next(iter(difflib.get_close_matches(word, names, n=1, cutoff=0.6)), "")


def verbs_of(noun: str) -> list[str]:
    """The verbs of a noun."""
    for action in build(noun)._actions:
        if isinstance(action, argparse._SubParsersAction):
            for own in action.choices[noun]._actions:
                if isinstance(own, argparse._SubParsersAction):
                    return list(own.choices)
    return []


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
        noun = next((word for word in arguments if word in NOUNS or word in COMMANDS), None)
    return mode, noun
