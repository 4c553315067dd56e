"""vkteamsctl: the command line of the archive and of its daemon.

`vkteamsctl [--config FILE] [--instance NAME] [--pid-file PATH] [--output MODE] NOUN VERB ...`; the global options stand
before the noun or after the verb. Only the module of the noun that was asked for is imported, and what is heavy only
inside its verbs, so that `daemon status` stays quick.

A noun is a module with `register(nouns, common)`: it adds its parser and its verbs (`dest="verb"`, each with
`parents=[common]`, a help line and an epilog with an example) and sets `func`: `func(args, config) -> Answer`.
A verb that must run without a readable configuration sets `needs_config=False` and gets the defaults.

Exit codes are those of the errors (vkteams_daemon/errors.py); 130 after an interrupt. Whatever is wrong is one
sentence with a hint on standard error; VKTEAMS_DEBUG=1 adds the traceback.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from vkteams_daemon import __version__
from vkteams_daemon.ctl import output
from vkteams_daemon.errors import UsageError, VkTeamsError
from vkteams_daemon.system import streams

NOUNS = {
    "daemon": ("vkteams_daemon.ctl.commands.daemon.command", "start, stop and look at vkteamsd"),
    "search": ("vkteams_daemon.ctl.commands.search", "find what was said"),
    "context": ("vkteams_daemon.ctl.commands.context.command", "conversations as they went, and who took part"),
    "database": ("vkteams_daemon.ctl.commands.database.command", "the archive's tables, numbers and repairs"),
    "model": ("vkteams_daemon.ctl.commands.model", "install and choose the embedding model"),
    "diagnostic": ("vkteams_daemon.ctl.commands.diagnostic", "is everything well, and what came last"),
    "config": ("vkteams_daemon.ctl.commands.config", "show and check the configuration"),
    "mcp": ("vkteams_daemon.ctl.commands.mcp", "the archive for Claude and other agents"),
    "simulator": ("vkteams_daemon.ctl.commands.simulator", "a Bot API on this machine to try things with"),
}

_EXAMPLES = """examples:
  vkteamsctl daemon status
  vkteamsctl search text "сервер упал" --since 7d
  vkteamsctl --output json diagnostic health
"""


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are `UsageError`s; its verbs' parsers are of this class too."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        settings.setdefault("allow_abbrev", False)
        super().__init__(**settings)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong as one sentence.

        Raises:
            UsageError: always.
        """
        known = message.partition(" (choose from ")
        sentence = known[0].removeprefix("argument ")
        hint = f"There are {known[2].rstrip(')')}." if known[2] else f"See `{self.prog} --help`."
        if message.endswith("required: QUERY"):
            hint = f"Before a query that begins with - stands --. {hint}"  # it was taken for an option
        raise UsageError(sentence, hint=hint.replace("'", ""))

    def _print_message(self, message: str, file: Any = None) -> None:
        streams.write_stdout(message)


def common_options() -> argparse.ArgumentParser:
    """The global options; without defaults, so that a verb's parser does not undo what stood before the noun."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS, allow_abbrev=False)
    group = common.add_argument_group("global options")
    group.add_argument("--config", metavar="FILE", help="configuration file to read")
    group.add_argument("--instance", metavar="NAME", help="the instance configured by NAME.toml")
    group.add_argument("--pid-file", metavar="PATH", help="PID file of the daemon")
    group.add_argument("--output", choices=output.MODES, metavar="MODE", help="table (default), json, jsonl or quiet")
    return common


def build(noun: str | None) -> argparse.ArgumentParser:
    """The whole parser, with the verbs of that noun alone."""
    common = common_options()
    parser = Parser(
        prog="vkteamsctl",
        description="Asks and steers the archive of VK Teams chats and its daemon.",
        epilog=_EXAMPLES,
        parents=[common],
    )
    parser.add_argument("--version", action="version", version=f"vkteamsctl {__version__}")
    nouns = parser.add_subparsers(dest="noun", metavar="NOUN", title="nouns", required=True)
    for name, (module, line) in NOUNS.items():
        if name == noun:
            importlib.import_module(module).register(nouns, common)
        else:
            nouns.add_parser(name, help=line, add_help=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    mode, noun = _glance(arguments)
    run = _Run(mode, noun or "")
    streams.open_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a chat's letters need not be the terminal's
    try:
        code = _outcome(run, arguments, noun)
        sys.stdout.flush()
    except BrokenPipeError:
        streams.silence(sys.stdout)  # whoever read us has gone; nothing more can be said
        return 128 + signal.SIGPIPE
    except OSError as error:
        refused = streams.stdout_lost(error)
        streams.write_stderr(f"vkteamsctl: {refused}\n")
        return refused.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return code


def _outcome(run: _Run, arguments: Sequence[str], noun: str | None) -> int:
    try:
        return run.command(arguments, noun)
    except SystemExit as end:  # --help and --version
        return end.code if isinstance(end.code, int) else 0
    except BrokenPipeError:
        raise
    except VkTeamsError as error:
        return run.failed(error, error.exit_code, error.hint)
    except Exception as error:  # noqa: BLE001  the last resort: people get a sentence, not a traceback
        if isinstance(error, UnicodeEncodeError) and not all(map(_is_text, arguments)):
            return run.failed(UsageError("an argument is not UTF-8"), UsageError.exit_code, "")
        hint = "This is a fault of the program; VKTEAMS_DEBUG=1 shows where."
        return run.failed(error, VkTeamsError.exit_code, hint)


def _is_text(word: str) -> bool:
    """Whether its bytes were UTF-8. The name of a file need not be; what the database or a model is asked must."""
    return not any("\ud800" <= letter <= "\udfff" for letter in word)


class _Run:
    """One command, and what is known of it so far: its mode and name for the answer, its secrets for masking."""

    def __init__(self, mode: str, name: str) -> None:
        self.mode = mode
        self.name = name
        self.config: Any = None

    def command(self, arguments: Sequence[str], noun: str | None) -> int:
        if not noun and not {"--help", "-h", "--version"} & set(arguments):
            raise UsageError("no command is named", hint="See `vkteamsctl --help`.")
        args = build(noun).parse_args(arguments)
        self.mode = getattr(args, "output", "table")
        self.name = " ".join(part for part in (args.noun, getattr(args, "verb", None)) if part)
        if not hasattr(args, "func"):
            raise UsageError(f"{self.name}: no verb is named", hint=f"See `vkteamsctl {self.name} --help`.")
        answer = args.func(args, self._configuration(args))
        try:
            output.show(answer, self.mode, self.name)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise streams.stdout_lost(error) from error
        if answer.error and self.mode != "table":
            streams.write_stderr(f"vkteamsctl: {output.one_line(answer.error)}\n")
        return int(answer.exit_code)

    def failed(self, error: Exception, code: int, hint: str) -> int:
        sentence = self._masked(str(error))
        if not isinstance(error, VkTeamsError):
            sentence = f"internal error: {type(error).__name__}: {sentence}"
        sentence = output.one_line(sentence)
        if hint:
            sentence = f"{sentence.rstrip('.')}. {output.one_line(self._masked(hint))}"
        streams.write_stderr(f"vkteamsctl: {sentence}\n")
        if os.environ.get("VKTEAMS_DEBUG") == "1":
            import traceback

            streams.write_stderr(self._masked("".join(traceback.format_exception(error))))
        output.show_error(sentence, self.mode, self.name)
        return code

    def _configuration(self, args: argparse.Namespace) -> Any:
        from vkteams_daemon import config

        if not getattr(args, "needs_config", True):
            return config.Config(instance=getattr(args, "instance", ""))
        self.config = config.load(
            getattr(args, "config", None),
            instance=getattr(args, "instance", ""),
            flags={"daemon.pid_file": getattr(args, "pid_file", None)},
        )
        return self.config

    def _masked(self, text: str) -> str:
        if self.config is None:
            return text
        from vkteams_daemon.system.redaction import Secrets

        secrets = Secrets()
        secrets.learn(self.config)
        return secrets.hide(text)


def _glance(arguments: Sequence[str]) -> tuple[str, str | None]:
    """The output mode and the noun, before anything is imported or refused."""
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
