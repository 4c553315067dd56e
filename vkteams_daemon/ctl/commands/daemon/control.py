"""`vkteamsctl daemon start`, `stop`, `restart` and `reload`.

`start` runs the vkteamsd program and not its code in this process. So `ps` shows vkteamsd, it inherits nothing of
vkteamsctl, and its messages and exit codes are those of a start by hand.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from vkteams_daemon.config import Config, parse_duration
from vkteams_daemon.ctl import argument_types, start_check
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.commands.daemon import starter, systemd
from vkteams_daemon.ctl.commands.daemon.signals import running_daemon, send_signal
from vkteams_daemon.ctl.commands.daemon.status import style
from vkteams_daemon.ctl.commands.daemon.target import add_role, configuration_or_pid_file, load_configuration
from vkteams_daemon.ctl.output import Answer, Screen, cell
from vkteams_daemon.daemon import arguments
from vkteams_daemon.daemon.health import read_health
from vkteams_daemon.errors import AlreadyRunning, NotRunning, VkTeamsError

if TYPE_CHECKING:
    from vkteams_daemon.store.rebuild.erasure import ExpiredCounts


def register(noun: Noun) -> None:
    """Add the verbs start, stop, restart and reload.

    They run without a readable configuration: `start` lets vkteamsd say what is wrong with it, and `stop` can do
    without it.
    """
    start = noun.verb(
        "start",
        "start vkteamsd and wait until it is ready",
        _start,
        "vkteamsctl daemon start --chat-id 681869378@chat.agent",
        needs_config=False,
    )
    arguments.add_options(start)
    stop = noun.verb(
        "stop",
        "stop vkteamsd and wait for its end; it is no error if vkteamsd does not run",
        _stop,
        "vkteamsctl daemon stop --timeout 30 --force",
        needs_config=False,
    )
    add_role(stop)
    _add_stop_options(stop)
    restart = noun.verb(
        "restart", "stop vkteamsd, then start it", _restart, "vkteamsctl --instance sales daemon restart",
        needs_config=False,
    )  # fmt: skip
    arguments.add_options(restart)
    _add_stop_options(restart)
    reload = noun.verb(
        "reload",
        "let vkteamsd read its configuration again and reopen its log",
        _reload,
        "vkteamsctl daemon reload",
        needs_config=False,
    )
    add_role(reload)


def _add_stop_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--timeout", metavar="SECONDS", type=argument_types.timeout, default=10.0, help="how long to wait (10)"
    )
    verb.add_argument("--force", action="store_true", help="kill it if it has not stopped by then")


def _start(args: argparse.Namespace, _: Config) -> Answer:
    systemd.refuse_start(args, "start")
    note = starter.run(_vkteamsd_arguments(args), foreground=args.foreground)
    health = read_health(load_configuration(args))

    def render(screen: Screen) -> None:
        screen.line(f"vkteamsd is {health.state}, process {cell(health.pid)}", style(health.state))
        if note:
            screen.line(note)

    data = {"status": health.state, "pid": health.pid, "note": note or None}
    return Answer(data, render, ids=[str(health.pid)] if health.pid else [])


def _vkteamsd_arguments(args: argparse.Namespace) -> list[str]:
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


def _stop(args: argparse.Namespace, _: Config) -> Answer:
    config, _error = configuration_or_pid_file(args)
    pid = _end(config, args.timeout, force=args.force)
    sentence = f"vkteamsd has stopped, process {pid}" if pid else "vkteamsd is not running"
    return Answer({"status": "not running", "stopped": pid}, lambda screen: screen.line(sentence))


def _restart(args: argparse.Namespace, config: Config) -> Answer:
    systemd.refuse_start(args, "restart")
    # Checked first: a daemon that could not start again is not stopped.
    flags = {"daemon.pid_file": getattr(args, "pid_file", None), "daemon.role": args.role,
             "storage.save": args.save, "storage.chat_ids": args.chat_id}  # fmt: skip
    new = start_check.read_as_daemon(getattr(args, "config", None), getattr(args, "instance", ""), flags)
    for check in start_check.checks(new, foreground=args.foreground, log=not args.foreground):
        check.run()
    running = load_configuration(args)
    health = read_health(running)
    if health.alive and health.status:
        start_check.try_live(new, health.status)
    _end(running, args.timeout, force=args.force)
    return _start(args, config)


def _reload(args: argparse.Namespace, _: Config) -> Answer:
    # Loading it here reports a mistake in the file; the daemon would only log it and keep its old configuration.
    config = load_configuration(args)
    will_erase = _expired(config)  # counted first: a daemon that has the age already may erase at any moment
    pid = send_signal(config, signal.SIGHUP)
    # A daemon in the foreground writes no file, whatever the configuration says.
    log = config.log_file if config.log.target == "file" and os.access(config.log_file, os.F_OK) else None
    place = f"see the result in its log: {log}" if log else "see the result on its standard error or in syslog"
    sentence = f"vkteamsd reads its configuration again, process {pid}; {place}"

    def render(screen: Screen) -> None:
        screen.line(sentence)
        if will_erase:
            screen.line(
                f"storage.retention = {config.storage.retention}: {will_erase.messages} messages and"
                f" {will_erase.events} events are older by now; a new or shorter age erases them from tomorrow on",
                "yellow",
            )

    return Answer({"pid": pid, "log": log, "will_erase": will_erase}, render)


def _expired(config: Config) -> ExpiredCounts | None:
    """What the age in the configuration would erase now; None without one, or if the archive cannot be asked."""
    if not config.storage.retention or config.daemon.role == "embed":
        return None
    from vkteams_daemon.ctl.connections import open_connection
    from vkteams_daemon.store.rebuild import erasure

    age = timedelta(seconds=parse_duration(config.storage.retention))
    with contextlib.suppress(VkTeamsError), open_connection(config) as connection:
        return erasure.count_expired(connection, datetime.now(UTC) - age)
    return None


def _end(config: Config, timeout: float, *, force: bool) -> int | None:
    """Stop the daemon and wait for its end; its pid, or None if none ran."""
    stopped: int | None = None
    try:
        with running_daemon(config) as daemon:
            stopped = daemon.pid
            systemd.refuse_stop(daemon.pid)
            daemon.send(signal.SIGTERM)
            if not daemon.wait(timeout):
                if not force:
                    raise AlreadyRunning(
                        f"process {daemon.pid} has not stopped within {timeout:g} s",
                        pid=daemon.pid,
                        hint="--force kills it.",
                    )
                daemon.send(signal.SIGKILL)
                daemon.wait(None)
    except NotRunning:
        pass
    if config.pid_file.exists():
        # A daemon that was killed leaves its file behind. Without a holder the file only misleads.
        from vkteams_daemon.daemon.process.pidfile import PidFile

        with contextlib.suppress(VkTeamsError):
            PidFile(config.pid_file).break_lock()
    return stopped
