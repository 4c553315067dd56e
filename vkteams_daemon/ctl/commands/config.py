"""`vkteamsctl config`: the options in force with their sources, and a check of the configuration."""

from __future__ import annotations

import argparse
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vkteams_daemon import config as configuration
from vkteams_daemon import plain_file
from vkteams_daemon.config import Config
from vkteams_daemon.ctl import start_check
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.commands import config_init, config_install
from vkteams_daemon.ctl.output import Answer, Screen
from vkteams_daemon.errors import CannotCreate, PermissionRefused, VkTeamsError
from vkteams_daemon.options import NOT_OPTIONS
from vkteams_daemon.secret_exposure import exposed_files


def register(noun: Noun) -> None:
    """Add the verbs init, install, show and check."""
    config_init.register(noun)
    config_install.register(noun)
    show = noun.verb(
        "show",
        "every option in force with its value and its source; secrets are masked",
        _show,
        "vkteamsctl config show --output json",
    )
    show.add_argument("--template", action="store_true", help="print a configuration file with all defaults instead")
    noun.verb(
        "check",
        "check the configuration: exit code 0, or 78 and the mistake",
        _check,
        "vkteamsctl config check --config /etc/vkteams/vkteamsd.toml",
    )


def _check_readers(config: Config) -> Answer:
    """Check the configuration of people who search. vkteamsd does not start with it, so its rules do not apply."""
    from vkteams_daemon.store import database_url

    if config.database.read_url:
        database_url.check(config.database.read_url, "database.read_url")
    notes = [*exposed_files(config), "it is of people who search: vkteamsd does not start with it"]

    def render(screen: Screen) -> None:
        screen.line(f"{config.source}: no mistakes", "green")
        for note in notes:
            screen.line(f"note: {note}")

    return Answer({"file": config.source, "valid": True, "notes": notes}, render)


def _show(args: argparse.Namespace, config: Config) -> Answer:
    if args.template:
        from vkteams_daemon import config_template

        text = config_template.toml()
        return Answer({"template": text}, lambda screen: screen.line(text.rstrip()))
    values = configuration.masked(config)
    file = tomllib.loads(plain_file.read_text(Path(config.source))) if config.source else {}
    flags = ["daemon.pid_file"] if hasattr(args, "pid_file") else []
    rows = [
        {
            "option": option.name,
            "value": values[option.section][option.key],
            "source": _source(option, config, file, flags),
        }
        for option in configuration.options()
    ]
    paths = {name: str(getattr(config, name)) for name in ("runtime_dir", "state_dir", "pid_file", "log_file")}
    data = {"file": config.source or None, "instance": config.instance or None, "rows": rows, "paths": paths}

    def render(screen: Screen) -> None:
        screen.line(f"configuration file: {config.source or 'none'}")
        screen.table(("option", "value", "source"), [tuple(row.values()) for row in rows], free=("value",))
        screen.pairs(paths.items())

    return Answer(data, render)


def _source(option: configuration.Option, config: Config, file: dict[str, Any], flags: Sequence[str]) -> str:
    """Where the value in force was set: flag, environment, file, a secret's own file, or default."""
    if option.name in flags:
        return "flag"
    if any(os.environ.get(variable) for variable in option.variables):
        return "environment"
    if option.key in file.get(option.section, {}):
        return "file"
    return "default" if getattr(getattr(config, option.section), option.key) == option.default else "secret's own file"


def _check(args: argparse.Namespace, config: Config) -> Answer:
    """Refuse what vkteamsd would refuse at its start; notes name the rest.

    An ordinary user who checks need not be the user who starts vkteamsd. So a missing permission is a note then.
    """
    from vkteams_daemon.daemon.process import privileges
    from vkteams_daemon.store.bundled import programs

    flags = {"daemon.pid_file": getattr(args, "pid_file", None)}
    config = start_check.read_as_daemon(getattr(args, "config", None), getattr(args, "instance", ""), flags)
    notes = []
    if config.only_reads:
        return _check_readers(config)
    for check in start_check.checks(config, foreground=True, log=True, token=False):
        try:
            check.run()
        except VkTeamsError as error:
            if not check.of_rights or os.geteuid() == 0 or not isinstance(error, PermissionRefused | CannotCreate):
                raise
            if (note := f"for this user: {error}") not in notes:
                notes.append(note)
    notes += [*exposed_files(config), *privileges.exposed_directories(config)]
    if not config.source:
        notes.append("no configuration file was found; defaults and the environment apply")
    if not config.database.url and config.storage.save and not programs.available():
        notes.append("database.url is not set, and the bundled PostgreSQL is not installed")
    if not config.storage.save:
        notes.append("storage.save is false: vkteamsd will start with --foreground alone")
    variables = {variable for option in configuration.options() for variable in option.variables}
    for variable in sorted(os.environ.keys() - variables - NOT_OPTIONS):
        if variable.startswith("VKTEAMS_"):
            notes.append(f"${variable}: no option has this variable")
    if not config.api.token and config.daemon.role != "embed":
        notes.append("api.token is not set: vkteamsd will not start with role all or listen")

    def render(screen: Screen) -> None:
        screen.line(f"{config.source or 'the configuration'}: no mistakes", "green")
        for note in notes:
            screen.line(f"note: {note}")

    return Answer({"file": config.source or None, "valid": True, "notes": notes}, render)
