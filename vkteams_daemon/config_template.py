"""Writes the table of options for people: the text of etc/vkteamsd.toml, and the tables of docs/configuration.md."""

from __future__ import annotations

import json
from typing import Any

from vkteams_daemon.config import Config, masked
from vkteams_daemon.options import SECTIONS, Option, options

_HEAD = """\
# The configuration of vkteamsd and vkteamsctl: every option, commented out at its default.
#
# A running daemon takes over an option marked (reload) on `vkteamsctl daemon reload`; the others need a restart.
# The environment can set every option too, as VKTEAMS_<SECTION>_<KEY>: VKTEAMS_API_POLL_TIME=60.
# `vkteamsctl config check` checks this file; `vkteamsctl config show` shows the values in force.
"""


def toml() -> str:
    """The text of etc/vkteamsd.toml."""
    lines = [_HEAD]
    section = ""
    for option in options():
        if option.section != section:
            section = option.section
            lines.append(f"# {SECTIONS[section].__doc__}\n[{section}]\n")
        lines.append(f"# {option.help}{_remarks(option)}\n#{option.key} = {_value(option.default)}\n")
    return "\n".join(lines)


def changed(config: Config) -> str:
    """The options that differ from their defaults, as a configuration file; in a secret's place stands a comment."""
    lines: list[str] = []
    for section, values in masked(config).items():
        changes = [
            f"# {option.key} was set, and is a secret"
            if "***" in (value := _value(values[option.key]))
            else f"{option.key} = {value}"
            for option in options()
            if option.section == section and values[option.key] != _plain(option.default)
        ]
        lines += [f"[{section}]", *changes] if changes else []
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def markdown(section: str) -> str:
    """The table of one section for docs/configuration.md."""
    lines = ["| option | default | meaning |", "| --- | --- | --- |"]
    for option in options():
        if option.section == section:
            meaning = f"{option.help}{_remarks(option)}".replace("|", "\\|")
            lines.append(f"| `{option.key}` | `{_value(option.default)}` | {meaning} |")
    return "\n".join(lines)


def _remarks(option: Option) -> str:
    """The option's choices, limits and short variables, and whether it is reloadable."""
    remarks = []
    if " | " in option.type:
        remarks.append(f"One of {option.type.replace(' | ', ', ')}.")
    if option.limits:
        remarks.append(f"{option.limits[:1].upper()}{option.limits[1:]}.")
    remarks += [f"Also: {variable}." for variable in option.variables[1:]]
    if option.reload:
        remarks.append("(reload)")
    return "".join(f" {remark}" for remark in remarks)


def _value(default: Any) -> str:
    return json.dumps(_plain(default), ensure_ascii=False)
