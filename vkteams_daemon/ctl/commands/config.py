"""`vkteamsctl config`: the options in force and where each comes from; whether the configuration is right."""

from __future__ import annotations

import argparse
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vkteams_daemon import config as configuration
from vkteams_daemon.config import Config
from vkteams_daemon.ctl import start_check
from vkteams_daemon.ctl.output import Answer, Screen
from vkteams_daemon.errors import PermissionRefused
from vkteams_daemon.options import NOT_OPTIONS


def register(nouns: Any, common: argparse.ArgumentParser) -> None:
    """Add the noun `config` with its verbs show and check."""
    noun = nouns.add_parser("config", help="show and check the configuration", parents=[common])
    verbs = noun.add_subparsers(dest="verb", metavar="VERB", title="verbs", required=True)
    show = verbs.add_parser(
        "show",
        help="every option in force, its value and where it was set; secrets masked",
        parents=[common],
        epilog="example:\n  vkteamsctl config show --output json",
    )
    show.add_argument("--template", action="store_true", help="a configuration file with every option at its default")
    show.set_defaults(func=_show)
    check = verbs.add_parser(
        "check",
        help="whether the configuration is right: exit code 0, or 78 and what is wrong",
        parents=[common],
        epilog="example:\n  vkteamsctl config check --config /etc/vkteams/vkteamsd.toml",
    )
    check.set_defaults(func=_check)


def _show(args: argparse.Namespace, config: Config) -> Answer:
    if args.template:
        from vkteams_daemon import config_template

        text = config_template.toml()
        return Answer({"template": text}, lambda screen: screen.line(text.rstrip()))
    values = configuration.masked(config)
    file = tomllib.loads(Path(config.source).read_text(encoding="utf-8")) if config.source else {}
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
    """Where the value in force was set: flag, environment, file, a file of its own (secrets), or default."""
    if option.name in flags:
        return "flag"
    if any(os.environ.get(variable) for variable in option.variables):
        return "environment"
    if option.key in file.get(option.section, {}):
        return "file"
    return "default" if getattr(getattr(config, option.section), option.key) == option.default else "secret's own file"


def _check(args: argparse.Namespace, config: Config) -> Answer:
    """What vkteamsd would start with is right; what remains is said as notes.

    Who checks need not be who starts it: what this user alone may not do or read is a note, too.
    """
    from vkteams_daemon.store.bundled import programs

    flags = {"daemon.pid_file": getattr(args, "pid_file", None)}
    config = start_check.as_daemon(getattr(args, "config", None), getattr(args, "instance", ""), flags)
    notes = []
    for check in start_check.checks(config, foreground=True, token=False):
        try:
            check()
        except PermissionRefused as error:
            notes.append(f"for this user: {error}")
    if not config.source:
        notes.append("no configuration file was found; defaults and the environment apply")
    if not config.database.url and config.storage.save and not programs.available():
        notes.append("database.url is not set, and the bundled PostgreSQL is not installed")
    if not config.storage.save:
        notes.append("storage.save is false: vkteamsd will start with --foreground alone")
    known = {variable for option in configuration.options() for variable in option.variables}
    for variable in sorted(os.environ.keys() - known - NOT_OPTIONS):
        if variable.startswith("VKTEAMS_"):
            notes.append(f"${variable}: no option has this variable")
    if not config.api.token and config.daemon.role != "embed":
        notes.append("api.token is not set: vkteamsd will not start with role all or listen")

    def render(screen: Screen) -> None:
        screen.line(f"{config.source or 'the configuration'}: right", "green")
        for note in notes:
            screen.line(f"note: {note}")

    return Answer({"file": config.source or None, "valid": True, "notes": notes}, render)
