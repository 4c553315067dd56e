"""vkteamsd: listens to the chats of a VK Teams bot and keeps every event in PostgreSQL.

The starter checks what can be checked, detaches the daemon and waits until it is ready: its lock is held, the database
is migrated and takes writes, the token is accepted, the threads are up. Then it exits 0; otherwise it says in one
sentence why not, and exits with that error's code (sysexits(3)): 64 usage, 69 unavailable, 70 a fault of this program,
73 cannot create, 75 already running, 77 permission, 78 configuration. With --foreground it stays and is the daemon.

Signals: TERM, INT stop it (a second one at once); HUP reads the configuration again and reopens the log; USR1 writes
the full statistics to the log and the status file; USR2 switches debug logging on and off.

VKTEAMS_DEBUG=1 adds the traceback to what is said on the terminal.
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
from vkteams_daemon.daemon.process.holder import find_holder
from vkteams_daemon.daemon.process.notify import Notify
from vkteams_daemon.daemon.process.pidfile import PidFile
from vkteams_daemon.daemon.process.settings import Settings
from vkteams_daemon.errors import AlreadyRunning, ConfigError, UsageError, VkTeamsError
from vkteams_daemon.system import streams
from vkteams_daemon.system.deadlines import DEADLINES
from vkteams_daemon.system.redaction import Secrets


def main(argv: Sequence[str] | None = None, *, service: Callable[..., Any] | None = None) -> int:
    """Run vkteamsd; the exit code.

    Args:
        argv: the arguments, sys.argv's by default.
        service: what makes the service, for tests; daemon.service.Service by default.
    """
    streams.open_streams()
    with contextlib.suppress(OSError):  # what ps and pgrep show; after root is dropped it could not be written
        Path("/proc/self/comm").write_text("vkteamsd")
    code = _sheltered(argv, service)
    DEADLINES.stop()
    if threading.active_count() > 1:
        # In the foreground, a thread may hang in a call that cannot be ended, such as printing to somebody who does not
        # read; what it held was not acknowledged. Standard output is its own: to flush it would be to hang as well.
        logging.shutdown()
        os._exit(code)
    return code


def _sheltered(argv: Sequence[str] | None, service: Callable[..., Any] | None) -> int:
    """The exit code of everything; no traceback reaches the terminal unasked."""
    secrets = Secrets()
    try:
        return _run(arguments.parser().parse_args(argv), secrets, service)
    except (KeyboardInterrupt, detach.Interrupted):
        return 130
    except BrokenPipeError:
        streams.silence(sys.stdout)  # whoever read the help has gone
        return 141
    except VkTeamsError as error:
        return _say(secrets, str(error), error.hint, error.exit_code, _trace())
    except Exception as error:  # noqa: BLE001  people get a sentence, not a traceback
        sentence = f"internal error: {type(error).__name__}: {error}"
        return _say(secrets, sentence, "This is a fault of vkteamsd; VKTEAMS_DEBUG=1 shows where.", 70, _trace())


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
    _refuse_second(config)
    life = DaemonProcess(config, settings, owner, Notify(), service)
    if args.foreground:
        return life.in_foreground()
    verdict = detach.start(
        lambda pipe: _detached(life, pipe, secrets),
        log_file=config.log_file,
        clean_up=lambda: PidFile(config.pid_file).break_lock(),
    )
    if verdict.error:
        return _say(secrets, verdict.error, verdict.hint, verdict.exit_code, verdict.trace)
    if verdict.note:
        sys.stdout.write(f"vkteamsd: {secrets.hide(verdict.note)}\n")
    return verdict.exit_code


def check_start(config: Config, foreground: bool) -> None:
    """Raise the ConfigError of what is wrong already, before anything is made."""
    if not config.storage.save and not foreground:
        raise ConfigError(
            "storage.save: false needs --foreground", hint="It prints events, and a daemon has nowhere to print."
        )
    if config.daemon.role != "embed" and not config.api.token:
        raise ConfigError(
            "api.token: it is not set", hint="Set token_file in the [api] section, or VKTEAMS_BOT_API_TOKEN."
        )
    if config.daemon.role != "listen" and config.storage.save:
        # Imports nothing heavy: the runtime's threads would not survive the fork.
        from vkteams_daemon.embedding import catalogue

        name = catalogue.chosen(config)
        if name is not None:
            catalogue.find(config.models_dir, name)


def _refuse_second(config: Config) -> None:
    """The lock itself decides; this says so before anything is forked."""
    found = find_holder(config.pid_file)
    if found is not None:
        who = f"process {found.pid}" if found.pid else "another process"
        raise AlreadyRunning(
            f"vkteamsd is already running: {who} holds {config.pid_file}",
            pid=found.pid,
            hint="Stop it first, or use --instance.",
        )


def _detached(life: DaemonProcess, pipe: detach.Pipe, secrets: Secrets) -> int:
    """The daemon's whole life after the fork; whatever goes wrong becomes the verdict, or a line of the log."""
    try:
        return life.detached(pipe)
    except VkTeamsError as error:
        life.log_failure(error)
        pipe.failed(secrets.hide(str(error)), secrets.hide(error.hint), error.exit_code, secrets.hide(_trace()))
        return error.exit_code
    except BaseException as error:  # noqa: BLE001  nobody else is there to say it
        life.log_failure(error)
        sentence = secrets.hide(f"internal error: {type(error).__name__}: {error}")
        hint = "This is a fault of vkteamsd; VKTEAMS_DEBUG=1 shows where."
        pipe.failed(sentence, hint, VkTeamsError.exit_code, secrets.hide(_trace()))
        return VkTeamsError.exit_code


def _trace() -> str:
    return traceback.format_exc() if os.environ.get("VKTEAMS_DEBUG") == "1" else ""


def _say(secrets: Secrets, sentence: str, hint: str, exit_code: int, trace: str) -> int:
    text = " ".join(secrets.hide(f"{sentence.rstrip('.')}. {hint}" if hint else sentence).split())
    streams.write_stderr(secrets.hide(trace) + f"vkteamsd: {text}\n")
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
