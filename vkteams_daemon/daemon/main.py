"""vkteamsd: listens to the chats of a VK Teams bot and keeps every event in PostgreSQL.

The starter checks the configuration, detaches the daemon and waits until the daemon is ready: its lock is held, the
database is migrated and takes writes, the token is accepted, the threads run. Then the starter exits 0. Otherwise it
prints the reason in one sentence and exits with that error's code (sysexits(3)): 64 usage, 69 unavailable, 70 a fault
of this program, 73 cannot create, 75 already running, 77 permission, 78 configuration. With --foreground the process
does not detach and is the daemon itself.

Signals: TERM and INT stop the daemon (a second one at once); HUP reads the configuration again and reopens the log;
USR1 writes the full statistics to the log and the status file; USR2 switches debug logging on and off.

VKTEAMS_DEBUG=1 adds the traceback to an error that is printed on the terminal.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vkteams_daemon.config import Config
from vkteams_daemon.daemon import arguments
from vkteams_daemon.daemon.process import detach, privileges
from vkteams_daemon.daemon.process.daemon_process import DaemonProcess
from vkteams_daemon.daemon.process.notify import Notify
from vkteams_daemon.daemon.process.pidfile import PidFile, already_running
from vkteams_daemon.daemon.process.pidfile_holder import find_holder
from vkteams_daemon.daemon.process.settings import Settings
from vkteams_daemon.errors import ConfigError, ModelAbsent, UsageError, VkTeamsError
from vkteams_daemon.system import streams
from vkteams_daemon.system.deadlines import DEADLINES
from vkteams_daemon.system.redaction import Secrets

FLUSH_LIMIT = 0.3  # seconds for the log's last lines


def main(argv: Sequence[str] | None = None, *, service: Callable[..., Any] | None = None) -> int:
    """Run vkteamsd; returns the exit code.

    Args:
        argv: the arguments, sys.argv's by default.
        service: makes the service, for tests; daemon.service.Service by default.
    """
    streams.open_streams()
    with contextlib.suppress(OSError):  # the name for ps and pgrep; it cannot be written after root is dropped
        Path("/proc/self/comm").write_text("vkteamsd")
    code = _run_reporting_errors(argv, service)
    DEADLINES.stop()
    if threading.active_count() > 1:
        # In the foreground, a thread may hang in a call that nothing can end, such as a write to a pipe that nobody
        # reads. Its events were not acknowledged. A flush of standard output would hang too, so leave without one.
        # So may the flush of the log.
        thread = threading.Thread(target=logging.shutdown, daemon=True)
        thread.start()
        thread.join(FLUSH_LIMIT)
        os._exit(code)
    return code


def _run_reporting_errors(argv: Sequence[str] | None, service: Callable[..., Any] | None) -> int:
    """The exit code. An error is printed as one sentence, with its traceback only under VKTEAMS_DEBUG=1."""
    secrets = Secrets()
    try:
        return _run(arguments.parser().parse_args(argv), secrets, service)
    except (KeyboardInterrupt, detach.Interrupted):
        return 130
    except BrokenPipeError:
        streams.silence(sys.stdout)  # the reader of the help has closed the pipe
        return 141
    except VkTeamsError as error:
        return _print_error(secrets, str(error), error.hint, error.exit_code, _traceback())
    except Exception as error:  # noqa: BLE001  people get a sentence, not a traceback
        sentence, hint = _internal_error(error)
        return _print_error(secrets, sentence, hint, VkTeamsError.exit_code, _traceback())


def _run(args: argparse.Namespace, secrets: Secrets, service: Callable[..., Any] | None) -> int:
    if args.save is False and not args.foreground:
        raise UsageError("--no-save needs --foreground", hint="It prints events, and a daemon has nowhere to print.")
    flags = {
        "daemon.pid_file": args.pid_file,
        "daemon.role": args.role,
        "storage.save": args.save,
        "storage.chat_ids": args.chat_id,
    }
    settings = Settings(args.config, args.instance, flags)
    config = settings.read()
    secrets.learn(config)
    check_start(config, args.foreground)
    owner = privileges.choose_user(config)
    privileges.make_directories(config, owner, log=not args.foreground)
    _refuse_second_daemon(config)
    process = DaemonProcess(config, settings, owner, Notify(), service)
    if args.foreground:
        return process.run_in_foreground()
    verdict = detach.start(
        lambda pipe: _run_detached(process, pipe, secrets),
        log_file=config.log_file,
        clean_up=lambda: PidFile(config.pid_file).break_lock(),
    )
    if verdict.error:
        return _print_error(secrets, verdict.error, verdict.hint, verdict.exit_code, verdict.trace)
    if verdict.note:
        sys.stdout.write(f"vkteamsd: {secrets.hide(verdict.note)}\n")
    return verdict.exit_code


def check_start(config: Config, foreground: bool) -> None:
    """Check what the configuration alone can tell, before anything is created.

    Raises:
        ConfigError: an option is missing or does not fit, or a chosen model is not installed.
    """
    if not config.storage.save and not foreground:
        raise ConfigError(
            "storage.save: false needs --foreground", hint="It prints events, and a daemon has nowhere to print."
        )
    if config.daemon.role != "embed" and not config.api.token:
        if config.only_reads:
            raise ConfigError(
                f"{config.source}: this is the configuration of people who search, and vkteamsd does not start with it",
                hint="Start it as root, with the daemon's configuration.",
            )
        raise ConfigError(
            "api.token: it is not set", hint="Set token_file in the [api] section, or VKTEAMS_BOT_API_TOKEN."
        )
    if config.daemon.role != "listen" and config.storage.save:
        # The catalogue imports nothing heavy: the threads of onnxruntime would not survive the fork.
        from vkteams_daemon.embedding import catalogue

        for name in catalogue.chosen_names(config):
            try:
                catalogue.find_directory(config.models_dir, name)
            except ModelAbsent as error:
                if not config.embedding.models:
                    raise
                raise ModelAbsent(f"embedding.models: {error}", hint=error.hint) from error


def _refuse_second_daemon(config: Config) -> None:
    """Raise AlreadyRunning before the fork if a daemon holds the PID file. The lock itself decides later."""
    holder = find_holder(config.pid_file)
    if holder is not None:
        raise already_running(holder, config.pid_file)


def _run_detached(process: DaemonProcess, pipe: detach.Pipe, secrets: Secrets) -> int:
    """Run the daemon after the fork. An error becomes the verdict for the starter, and a line in the log."""
    try:
        return process.run_detached(pipe)
    except BaseException as error:  # noqa: BLE001  no caller is left that could report it
        process.log_failure(error)
        if isinstance(error, VkTeamsError):
            sentence, hint, exit_code = str(error), error.hint, error.exit_code
        else:
            (sentence, hint), exit_code = _internal_error(error), VkTeamsError.exit_code
        pipe.failed(secrets.hide(sentence), secrets.hide(hint), exit_code, secrets.hide(_traceback()))
        return exit_code


def _internal_error(error: BaseException) -> tuple[str, str]:
    sentence = f"internal error: {type(error).__name__}: {error}"
    return sentence, "This is a fault of vkteamsd; VKTEAMS_DEBUG=1 shows where."


def _traceback() -> str:
    return traceback.format_exc() if os.environ.get("VKTEAMS_DEBUG") == "1" else ""


def _print_error(secrets: Secrets, sentence: str, hint: str, exit_code: int, trace: str) -> int:
    text = " ".join(secrets.hide(f"{sentence.rstrip('.')}. {hint}" if hint else sentence).split())
    streams.write_stderr(secrets.hide(trace) + f"vkteamsd: {text}\n")
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
