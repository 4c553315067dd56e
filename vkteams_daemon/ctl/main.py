"""vkteamsctl: the command line of the archive and of its daemon.

The exit codes are those of the errors (vkteams_daemon/errors.py), 130 after an interrupt, and 141 when the reader of
standard output is gone. Every error is one sentence with a hint on standard error. VKTEAMS_DEBUG=1 adds the traceback.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from vkteams_daemon import times
from vkteams_daemon.ctl import argument_types, command_line, output
from vkteams_daemon.errors import UsageError, VkTeamsError
from vkteams_daemon.system import streams


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    mode, noun = command_line.glance(arguments)
    run = _Run(mode, noun or "")
    streams.open_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a chat may use letters that the terminal does not have
    try:
        code = _outcome(run, arguments, noun)
        sys.stdout.flush()
    except BrokenPipeError:
        streams.silence(sys.stdout)  # the reader of our output is gone: nothing more can be said
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
        hint = "This is a fault of the program. Set VKTEAMS_DEBUG=1 to see the traceback."
        return run.failed(error, VkTeamsError.exit_code, hint)


def _is_text(word: str) -> bool:
    """Whether the word's bytes were UTF-8. A file name may be anything; the database and the model need text."""
    return not any("\ud800" <= letter <= "\udfff" for letter in word)


class _Run:
    """One command: its output mode, its name for the answer, and its configuration, whose secrets are masked."""

    def __init__(self, mode: str, name: str) -> None:
        self.mode = mode
        self.name = name
        self.config: Any = None

    def command(self, arguments: Sequence[str], noun: str | None) -> int:
        if not noun and not {"--help", "-h", "--version"} & set(arguments):
            raise UsageError("no command is named", hint="See `vkteamsctl --help`.")
        args = command_line.parse(arguments, noun)
        self.mode = getattr(args, "output", "table")
        self.name = " ".join(part for part in (args.noun, getattr(args, "verb", None)) if part)
        if not hasattr(args, "func"):
            raise UsageError(f"{self.name}: no verb is named", hint=f"See `vkteamsctl {self.name} --help`.")
        config = self._configuration(args)
        with times.in_zone(times.choose_zone(config.search.timezone)):
            argument_types.read_times(args)
            answer = args.func(args, config)
            understood = times.shown_span(getattr(args, "since", None), getattr(args, "until", None))
            try:
                output.show(answer, self.mode, self.name, understood=understood)
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

        if not args.needs_config:
            return config.Config(instance=getattr(args, "instance", ""))
        self.config = config.load(
            getattr(args, "config", None),
            instance=getattr(args, "instance", ""),
            flags={"daemon.pid_file": getattr(args, "pid_file", None)},
        )
        return self.config

    def _masked(self, text: str) -> str:
        from vkteams_daemon.system.redaction import Secrets

        secrets = Secrets()
        if self.config is not None:
            secrets.learn(self.config)
        return secrets.hide(text)
