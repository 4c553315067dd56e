"""`vkteamsctl database init` and `migrate`: the tables, made or brought up to date."""

from __future__ import annotations

import argparse

from vkteams_daemon.config import Config
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.connections import open_connection
from vkteams_daemon.ctl.output import Answer, Screen


def register(noun: Noun) -> None:
    """Add the verbs init and migrate. Only init makes an archive beside another one."""
    noun.verb("init", "create the archive's tables if there are none", _init, "vkteamsctl database init")
    noun.verb("migrate", "bring the tables up to this version", _migrate, "vkteamsctl database migrate")


def _init(args: argparse.Namespace, config: Config) -> Answer:
    return _migrate(args, config, beside=True)


def _migrate(args: argparse.Namespace, config: Config, *, beside: bool = False) -> Answer:
    from vkteams_daemon.store.schema import schema_history

    with open_connection(config, migrate=True, beside=beside) as connection:
        migrations = schema_history(connection)
    version = migrations[-1].version

    def render(screen: Screen) -> None:
        screen.line(f"the schema is version {version}", "green")
        screen.table(("version", "applied"), [(row.version, row.applied_at) for row in migrations])

    return Answer({"version": version, "rows": migrations}, render)
