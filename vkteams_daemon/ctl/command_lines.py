"""The command lines of vkteamsd and vkteamsctl as data, read from their argument parsers.

The manual pages and the completions are made from it, and tests compare them with it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from vkteams_daemon.ctl import command_line as ctl
from vkteams_daemon.daemon import arguments


@dataclass(frozen=True, slots=True)
class Flag:
    """One option: its names, the name of its value ("" if it takes none), its choices and its help."""

    names: tuple[str, ...]
    value: str
    choices: tuple[str, ...]
    help: str

    @property
    def is_file(self) -> bool:
        """Whether its value is a path."""
        return self.value in ("FILE", "PATH", "DIRECTORY", "DIR")


@dataclass(frozen=True, slots=True)
class Argument:
    """One positional argument: its form in the synopsis, its choices and its help."""

    name: str
    choices: tuple[str, ...]
    help: str


@dataclass(frozen=True, slots=True)
class Command:
    """A verb or a program: its help, its own options without the global ones, its arguments and its example."""

    name: str
    help: str
    flags: tuple[Flag, ...]
    arguments: tuple[Argument, ...]
    example: str


@dataclass(frozen=True, slots=True)
class Noun:
    """One noun with its verbs."""

    name: str
    help: str
    verbs: tuple[Command, ...]


def daemon() -> Command:
    """The command line of vkteamsd."""
    return _command("vkteamsd", "", arguments.parser(), shared=())


def global_flags() -> tuple[Flag, ...]:
    """The options of vkteamsctl that every verb takes."""
    return tuple(_flags(ctl.common_options()))


def nouns() -> Iterator[Noun]:
    """Every noun of vkteamsctl, in the order of its help."""
    shared = tuple(name for flag in global_flags() for name in flag.names)
    for name, line in ctl.NOUNS.items():
        parser = _choices(ctl.build(name))[0][name]
        verbs, helps = _choices(parser)
        yield Noun(name, line, tuple(_command(verb, helps[verb], verbs[verb], shared) for verb in verbs))


def shortcuts() -> Iterator[Command]:
    """The commands of vkteamsctl without a noun."""
    shared = tuple(name for flag in global_flags() for name in flag.names)
    for name, line in ctl.COMMANDS.items():
        yield _command(name, line, _choices(ctl.build(name))[0][name], shared)


def _choices(parser: argparse.ArgumentParser) -> tuple[dict[str, argparse.ArgumentParser], dict[str, str]]:
    """The subcommands of a parser, and the line of help of each."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            return dict(action.choices), helps
    return {}, {}


def _command(name: str, help: str, parser: argparse.ArgumentParser, shared: tuple[str, ...]) -> Command:
    flags = tuple(flag for flag in _flags(parser) if flag.names[0] not in shared and flag.names[0] != "-h")
    return Command(name, help, flags, tuple(_arguments(parser)), (parser.epilog or "").partition("\n")[2])


def _flags(parser: argparse.ArgumentParser) -> Iterator[Flag]:
    for action in parser._actions:
        if not action.option_strings or action.help == argparse.SUPPRESS:
            continue
        value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
        yield Flag(tuple(action.option_strings), value, _plain(action.choices), _help(parser, action))


def _arguments(parser: argparse.ArgumentParser) -> Iterator[Argument]:
    for action in parser._actions:
        if not action.option_strings and not isinstance(action, argparse._SubParsersAction):
            name = str(action.metavar or action.dest.upper())
            shown = {"?": f"[{name}]", "*": f"[{name}]…", "+": f"{name}…"}.get(str(action.nargs), name)
            yield Argument(shown, _plain(action.choices), _help(parser, action))


def _plain(choices: object) -> tuple[str, ...]:
    return tuple(str(choice) for choice in choices) if isinstance(choices, (list, tuple, dict, set)) else ()


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return parser._get_formatter()._expand_help(action) if action.help else ""
