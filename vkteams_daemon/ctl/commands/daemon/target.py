"""Which daemon a command is for: the configuration that the command line names, or its PID file alone."""

from __future__ import annotations

import argparse

from vkteams_daemon import config as configuration
from vkteams_daemon.config import Config
from vkteams_daemon.errors import ConfigError, PermissionRefused, VkTeamsError
from vkteams_daemon.options import Daemon


def add_role(verb: argparse.ArgumentParser) -> None:
    """Add --role, which names the daemon: an embedding worker has files of its own."""
    verb.add_argument("--role", choices=("all", "listen", "embed"), help="embed: the daemon that only embeds")


def load_configuration(args: argparse.Namespace) -> Config:
    """The configuration that the command line names.

    Raises:
        ConfigError, PermissionRefused: it is wrong or cannot be read.
    """
    return configuration.load(
        getattr(args, "config", None),
        instance=getattr(args, "instance", ""),
        flags={"daemon.pid_file": getattr(args, "pid_file", None), "daemon.role": args.role},
    )


def configuration_or_pid_file(args: argparse.Namespace) -> tuple[Config, VkTeamsError | None]:
    """The configuration and None; or, if it cannot be read and --pid-file is given, that option alone and the error.

    So a later mistake in the file does not keep anybody from stopping a daemon that runs.

    Raises:
        ConfigError, PermissionRefused: it cannot be read, and --pid-file is not given.
    """
    try:
        return load_configuration(args), None
    except (ConfigError, PermissionRefused) as error:
        pid_file = getattr(args, "pid_file", None)
        if not pid_file:
            error.hint = "With --pid-file FILE you can still see and stop the daemon."
            raise
        return Config(daemon=Daemon(pid_file=pid_file)), error
