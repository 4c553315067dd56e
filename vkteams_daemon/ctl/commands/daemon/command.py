"""`vkteamsctl daemon`: start, stop and look at vkteamsd.

`start` runs the vkteamsd program itself, not its code in this process: so it looks like what it is in `ps`, inherits
nothing of vkteamsctl, and says and returns what it would when started by hand. Signals go to the process that holds the
PID file's lock, through a descriptor of that process: never to a number that another program may have got since.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import select
import signal
import time
from collections.abc import Iterator
from typing import Any

from vkteams_daemon import config as configuration
from vkteams_daemon.config import Config
from vkteams_daemon.ctl import start_check
from vkteams_daemon.ctl.commands.daemon import service_unit
from vkteams_daemon.ctl.commands.daemon.status_view import shown, style
from vkteams_daemon.ctl.output import Answer, Screen, cell
from vkteams_daemon.daemon import arguments
from vkteams_daemon.daemon.health import DaemonHealth, probe
from vkteams_daemon.daemon.process.holder import find_holder
from vkteams_daemon.errors import (
    AlreadyRunning,
    ConfigError,
    NotRunning,
    PermissionRefused,
    UsageError,
    VkTeamsError,
)
from vkteams_daemon.options import Daemon

STATS_TIMEOUT = 10.0  # seconds a daemon has to write its status file when it is asked to
_VERBS = {
    "start": "start vkteamsd and wait until it is ready",
    "stop": "stop it and wait until it has gone; nothing to stop is no error",
    "restart": "stop it, then start it",
    "reload": "let it read its configuration again and reopen its log",
    "status": "how it is: exit code 0 running, 1 dead, 3 not running, 4 unknown",
    "stats": "let it write its statistics now, and show all of them",
    "top": "look at it live, on a terminal; q quits",
}
_EXAMPLES = {
    "start": "vkteamsctl daemon start --chat-id 681869378@chat.agent",
    "stop": "vkteamsctl daemon stop --timeout 30 --force",
    "restart": "vkteamsctl --instance sales daemon restart",
    "reload": "vkteamsctl daemon reload",
    "status": "vkteamsctl --output json daemon status",
    "stats": "vkteamsctl daemon stats",
    "top": "vkteamsctl daemon top --interval 0.5",
}


def register(nouns: Any, common: argparse.ArgumentParser) -> None:
    """Add the noun `daemon` with its verbs."""
    noun = nouns.add_parser("daemon", help="start, stop and look at vkteamsd", parents=[common])
    verbs = noun.add_subparsers(dest="verb", metavar="VERB", title="verbs", required=True)
    functions = {
        "start": _start, "stop": _stop, "restart": _restart, "reload": _reload, "status": _status, "stats": _stats,
        "top": _top,
    }  # fmt: skip
    for name, function in functions.items():
        verb = verbs.add_parser(name, help=_VERBS[name], parents=[common], epilog=f"example:\n  {_EXAMPLES[name]}")
        # Not even a broken configuration keeps anybody from asking how the daemon is, or from starting it to be told.
        verb.set_defaults(func=function, needs_config=False)
        if name in ("start", "restart"):
            arguments.add_options(verb)
        else:
            verb.add_argument("--role", choices=("all", "listen", "embed"), help="embed: the worker's own files")
        if name == "top":
            verb.add_argument(
                "--interval", metavar="SECONDS", type=_interval, default=1.0, help="between two looks (1)"
            )
        if name in ("stop", "restart"):
            verb.add_argument("--timeout", metavar="SECONDS", type=float, default=10.0, help="how long to wait (10)")
            verb.add_argument("--force", action="store_true", help="kill it when it has not stopped by then")


def _start(args: argparse.Namespace, _: Config) -> Answer:
    from vkteams_daemon.ctl.commands.daemon import starter

    service_unit.refuse_start(args, "start")
    note = starter.run(_command(args), foreground=args.foreground)
    condition = probe(_configuration(args))

    def render(screen: Screen) -> None:
        screen.line(f"vkteamsd is {condition.state}, process {cell(condition.pid)}", style(condition.state))
        if note:
            screen.line(note)

    data = {"status": condition.state, "pid": condition.pid, "note": note or None}
    return Answer(data, render, ids=[str(condition.pid)] if condition.pid else [])


def _stop(args: argparse.Namespace, _: Config) -> Answer:
    config, _wrong = _known(args)
    pid = _end(config, args.timeout, force=args.force)
    sentence = f"vkteamsd has stopped, process {pid}" if pid else "vkteamsd is not running"
    return Answer({"status": "not running", "stopped": pid}, lambda screen: screen.line(sentence))


def _restart(args: argparse.Namespace, config: Config) -> Answer:
    service_unit.refuse_start(args, "restart")
    # Whoever could not come back must not go.
    flags = {"daemon.pid_file": getattr(args, "pid_file", None), "daemon.role": args.role,
             "storage.save": args.save, "storage.chat_ids": args.chat_id}  # fmt: skip
    next_one = start_check.as_daemon(getattr(args, "config", None), getattr(args, "instance", ""), flags)
    for check in start_check.checks(next_one, foreground=args.foreground):
        check()
    _end(_configuration(args), args.timeout, force=args.force)
    return _start(args, config)


def _reload(args: argparse.Namespace, _: Config) -> Answer:
    # Loading it here says what is wrong with the file before the daemon is asked; it would keep what it has.
    config = _configuration(args)
    pid = _send(config, signal.SIGHUP)
    # One that stays in the foreground writes no file, whatever the configuration says.
    log = config.log_file if config.log.target == "file" and os.access(config.log_file, os.F_OK) else None
    where = f"its log says what came of it: {log}" if log else "what came of it is on its standard error or in syslog"
    said = f"vkteamsd reads its configuration again, process {pid}; {where}"
    return Answer({"pid": pid, "log": log}, lambda screen: screen.line(said))


def _status(args: argparse.Namespace, _: Config) -> Answer:
    return shown(_looked_up(args), full=False)


def _stats(args: argparse.Namespace, _: Config) -> Answer:
    condition = _looked_up(args)
    if not condition.alive:
        return shown(condition, full=True)
    config, _wrong = _known(args)
    before = condition.status.updated_at if condition.status else None
    pid = _send(config, signal.SIGUSR1)
    deadline = time.monotonic() + STATS_TIMEOUT
    while time.monotonic() < deadline:
        condition = probe(config)
        if not condition.alive or (condition.status and (before is None or condition.status.updated_at > before)):
            return shown(condition, full=True)
        time.sleep(0.02)
    raise NotRunning(
        f"process {pid} has not written {config.status_file} within {STATS_TIMEOUT:g} s", hint="Is it stopped or stuck?"
    )


def _top(args: argparse.Namespace, _: Config) -> Answer:
    from vkteams_daemon.ctl.commands.daemon import top

    if getattr(args, "output", "table") != "table":
        raise UsageError("daemon top is for people", hint="`vkteamsctl --output json daemon status` is for programs.")
    top.run(lambda: _looked_up(args), args.interval, style)
    return Answer(None, lambda screen: None)


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.1 to 3600")
    return seconds


def _looked_up(args: argparse.Namespace) -> DaemonHealth:
    """The condition, also where the configuration is wrong or closed to this user: then that is said of it."""
    try:
        config, wrong = _known(args)
    except (ConfigError, PermissionRefused) as error:
        return DaemonHealth("unknown", None, None, None, f"{error}. {error.hint}")
    condition = probe(config)
    if wrong is None:
        return condition
    if condition.alive and (condition.status is None or condition.state == "stale"):
        # Where its status file is, and how old that may be, the configuration would have said.
        return DaemonHealth("unknown", None, None, None, str(wrong))
    return dataclasses.replace(condition, error=condition.error or str(wrong))


def _known(args: argparse.Namespace) -> tuple[Config, VkTeamsError | None]:
    """The configuration; or, where it cannot be read and the PID file is named, that alone, and what is wrong.

    A mistake in the file keeps nobody from stopping a daemon that was started before it was made.

    Raises:
        ConfigError, PermissionRefused: it cannot be read, and no PID file is named.
    """
    try:
        return _configuration(args), None
    except (ConfigError, PermissionRefused) as error:
        pid_file = getattr(args, "pid_file", None)
        if not pid_file:
            error.hint = "With --pid-file FILE the daemon can be looked at and stopped all the same."
            raise
        return Config(daemon=Daemon(pid_file=pid_file)), error


def _configuration(args: argparse.Namespace) -> Config:
    return configuration.load(
        getattr(args, "config", None),
        instance=getattr(args, "instance", ""),
        flags={"daemon.pid_file": getattr(args, "pid_file", None), "daemon.role": args.role},
    )


def _command(args: argparse.Namespace) -> list[str]:
    """The arguments for vkteamsd."""
    command = []
    for name in ("config", "instance", "pid_file", "role"):
        value = getattr(args, name, None)
        if value:
            command += [f"--{name.replace('_', '-')}", value]
    for chat_id in args.chat_id or ():
        command += ["--chat-id", chat_id]
    if args.save is not None:
        command.append("--auto-save" if args.save else "--no-save")
    return [*command, "--foreground"] if args.foreground else command


@contextlib.contextmanager
def _daemon(config: Config) -> Iterator[tuple[int, int]]:
    """The process that holds the lock, as (pid, pidfd).

    Raises:
        NotRunning: there is none.
        PermissionRefused: it is in a PID namespace that is not ours.
    """
    for _ in range(10):
        found = find_holder(config.pid_file)
        if found is None:
            break
        if found.pid is None:
            raise PermissionRefused(
                f"the daemon that holds {config.pid_file} cannot be seen from here",
                hint="It runs in a container; call vkteamsctl there.",
            )
        try:
            descriptor = os.pidfd_open(found.pid)
        except ProcessLookupError:
            continue
        # Opened first, asked again afterwards: whoever holds the lock now is who the descriptor stands for.
        if find_holder(config.pid_file) == found:
            try:
                yield found.pid, descriptor
            finally:
                os.close(descriptor)
            return
        os.close(descriptor)
    raise NotRunning("vkteamsd is not running", hint=f"Nobody holds {config.pid_file}.")


def _send(config: Config, signum: signal.Signals) -> int:
    with _daemon(config) as (pid, descriptor):
        _signal(pid, descriptor, signum)
        return pid


def _signal(pid: int, descriptor: int, signum: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(descriptor, signum)
    except PermissionError as error:
        raise PermissionRefused(
            f"process {pid} belongs to another user", hint="Become root, or the user that it runs as."
        ) from error
    except ProcessLookupError:
        pass  # it has gone by itself


def _end(config: Config, timeout: float, *, force: bool) -> int | None:
    """Stop the daemon and wait until it has gone; its pid, or None where there was none."""
    stopped: int | None = None
    try:
        with _daemon(config) as (pid, descriptor):
            stopped = pid
            service_unit.refuse_stop(pid)
            _signal(pid, descriptor, signal.SIGTERM)
            if not select.select([descriptor], [], [], timeout)[0]:
                if not force:
                    raise AlreadyRunning(
                        f"process {pid} has not stopped within {timeout:g} s", pid=pid, hint="--force kills it."
                    )
                _signal(pid, descriptor, signal.SIGKILL)
                select.select([descriptor], [], [])
    except NotRunning:
        pass
    if config.pid_file.exists():
        # A daemon that was killed leaves its file behind; without a holder it only misleads.
        from vkteams_daemon.daemon.process.pidfile import PidFile

        with contextlib.suppress(VkTeamsError):
            PidFile(config.pid_file).break_lock()
    return stopped
