"""Writes the manual pages vkteamsd(8), vkteamsctl(1) and vkteamsd.toml(5) into a directory: python docs/manual.py DIR.

The descriptions of options come from the argument parsers and from the table of options, never from this file.
"""

from __future__ import annotations

import inspect
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run from anywhere, with the project's own docs/ beside the package
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vkteams_daemon import __version__
from vkteams_daemon.ctl import command_lines as commands
from vkteams_daemon.ctl.command_lines import Command, Flag
from vkteams_daemon.daemon import main as daemon
from vkteams_daemon.options import SECTIONS, options

EXITS = {
    0: "success",
    64: "the command line is wrong",
    69: "something is unavailable: the Bot API, the database",
    70: "a fault of this program",
    73: "a file or a directory cannot be created",
    75: "try again later; after start: it runs already",
    77: "this user has no permission",
    78: "the configuration or the token is wrong",
}
FILES = {
    "/etc/vkteams/vkteamsd.toml": "the configuration, see vkteamsd.toml(5)",
    "/etc/vkteams/NAME.toml": "the configuration of the instance NAME",
    "/etc/vkteams/token": "the bot's token, where the packaged configuration looks for it; 0640 root:_vkteams",
    "/etc/default/vkteamsd": "arguments and environment for the service",
    "/run/vkteams/vkteamsd.pid": "the PID file; /run/vkteams/NAME/ for an instance",
    "/run/vkteams/vkteamsd.status.json": "the status file, which vkteamsctl daemon status reads",
    "/var/lib/vkteams": "models and the bundled database",
    "/var/log/vkteams/vkteamsd.log": "the log",
}
PLACES = """The first of these files is read: the one named with \\-\\-config, the one that VKTEAMS_BOT_CONFIG names,
/etc/vkteams/vkteamsd.toml, $XDG_CONFIG_HOME/vkteams/vkteamsd.toml. With \\-\\-instance NAME the file is NAME.toml in
the same places. Environment variables override the file, and the command line overrides both."""


def pages() -> dict[str, str]:
    """The text of each page, by its file's name."""
    return {"vkteamsd.8": _vkteamsd(), "vkteamsctl.1": _vkteamsctl(), "vkteamsd.toml.5": _options()}


def _vkteamsd() -> str:
    command = commands.daemon()
    summary, *paragraphs = inspect.cleandoc(daemon.__doc__ or "").split("\n\n")
    return _page(
        "vkteamsd", 8, summary.partition(": ")[2].rstrip("."),
        _section("Synopsis", _synopsis("vkteamsd", command)),
        _section("Description", ".PP\n".join(_prose(paragraph) for paragraph in paragraphs)),
        _section("Options", *_flags(command.flags)),
        _section("Configuration", _plain_prose(PLACES)),
        _section("Exit status", *(_item(str(code), text) for code, text in EXITS.items())),
        _section("Files", *(_item(path, text) for path, text in FILES.items())),
        _section("Examples", *_examples(command.example)),
        _see("vkteamsctl(1)", "vkteamsd.toml(5)"),
    )  # fmt: skip


def _vkteamsctl() -> str:
    described = [".SS Without a noun\n"]
    for command in commands.shortcuts():
        described += [f".TP\n{_synopsis(command.name, command)}{_line(command.help)}", ".RS\n"]
        described += [_item(argument.name, argument.help) for argument in command.arguments if argument.help]
        described += [*_flags(command.flags), *_examples(command.example), ".RE\n"]
    for noun in commands.nouns():
        described.append(f".SS {_escaped(noun.name)}: {_escaped(noun.help)}\n")
        for verb in noun.verbs:
            described += [f".TP\n{_synopsis(f'{noun.name} {verb.name}', verb)}{_line(verb.help)}", ".RS\n"]
            described += [_item(argument.name, argument.help) for argument in verb.arguments if argument.help]
            described += [*_flags(verb.flags), *_examples(verb.example), ".RE\n"]
    lead = (
        "Answers go to standard output as tables, or as JSON with \\-\\-output json: an object with success, data, "
        "error, timestamp and command. An error is one sentence on standard error. The global options stand "
        "before the noun or after the verb."
    )
    exits = [_item("1, 3, 4", "of daemon status: dead with its PID file left, not running, unknown")]
    return _page(
        "vkteamsctl", 1, "controls vkteamsd and searches its archive of VK Teams chats",
        _section("Synopsis", ".B vkteamsctl\n[global options] NOUN VERB [options]\n"),
        _section("Description", _plain_prose(lead)),
        _section("Global options", *_flags(commands.global_flags())),
        _section("Commands", *described),
        _section("Configuration", _plain_prose(PLACES)),
        _section("Exit status", *(_item(str(code), text) for code, text in EXITS.items()), *exits),
        _see("vkteamsd(8)", "vkteamsd.toml(5)"),
    )  # fmt: skip


def _options() -> str:
    sections = []
    for name, struct in SECTIONS.items():
        sections.append(f".SS [{_escaped(name)}]\n{_line(inspect.getdoc(struct) or '')}")
        for option in (option for option in options() if option.section == name):
            sections.append(f'.TP\n.BR {_escaped(option.key)} " ({_escaped(option.type)})"\n{_line(option.help)}')
            when = "Read again on SIGHUP." if option.reload else "Takes effect with a restart."
            variables = ", ".join(option.variables)
            sections.append(_line(f"Default: {_value(option.default)}. Environment: {variables}. {when}"))
    lead = (
        "The configuration of vkteamsd and vkteamsctl, in TOML. Every option has a default. An unknown key is refused."
    )
    secrets = (
        "Keep a secret in a file of its own, which token_file or url_file names. Without these options, the files "
        "token and database_url in the directory $CREDENTIALS_DIRECTORY (systemd's LoadCredential) are read."
    )
    return _page(
        "vkteamsd.toml", 5, "configuration of vkteamsd and vkteamsctl",
        _section("Description", _plain_prose(_escaped(lead)), ".PP\n", _plain_prose(PLACES)),
        _section("Options", *sections),
        _section("Secrets", _line(secrets)),
        _section("Files", *(_item(path, text) for path, text in FILES.items())),
        _see("vkteamsd(8)", "vkteamsctl(1)"),
    )  # fmt: skip


def _page(name: str, number: int, summary: str, *sections: str) -> str:
    # A reproducible build sets its time in SOURCE_DATE_EPOCH.
    day = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())))
    manual = {1: "User commands", 5: "File formats", 8: "System administration"}[number]
    head = f'.TH {name.upper()} {number} "{day}" "vkteams\\-daemon {__version__}" "{manual}"\n.nh\n.ad l\n'
    return head + _section("Name", f"{_escaped(name)} \\- {_escaped(summary)}\n") + "".join(sections)


def _section(title: str, *blocks: str) -> str:
    return f'.SH "{title.upper()}"\n{"".join(blocks)}'


def _see(*others: str) -> str:
    references = [
        f".BR {_escaped(name)} ({section.rstrip(')')}" for name, _, section in (o.partition("(") for o in others)
    ]
    return _section("See also", " ,\n".join(f"{reference})" for reference in references) + "\n")


def _synopsis(name: str, command: Command) -> str:
    parts = [f"\\fB{_escaped(name)}\\fR", *(_escaped(argument.name) for argument in command.arguments)]
    if name == command.name:  # a verb's options are listed right below it
        parts += [f"[{_names(flag)}]" for flag in command.flags]
    return " ".join(parts) + "\n"


def _flags(flags: Iterable[Flag]) -> Iterator[str]:
    for flag in flags:
        help = flag.help or f"one of {', '.join(flag.choices)}"
        yield f".TP\n{_names(flag)}\n{_line(help)}"


def _names(flag: Flag) -> str:
    names = ", ".join(f"\\fB{_escaped(name)}\\fR" for name in flag.names)
    return f"{names} \\fI{_escaped(flag.value)}\\fR" if flag.value else names


def _item(term: str, text: str) -> str:
    return f".TP\n\\fB{_escaped(term)}\\fR\n{_line(text)}"


def _examples(example: str) -> Iterator[str]:
    lines = [line.strip() for line in example.splitlines() if line.strip()]
    if lines:
        yield ".PP\n.EX\n" + "\n".join(f"  {_escaped(line)}" for line in lines) + "\n.EE\n"


def _prose(paragraph: str) -> str:
    return _plain_prose(_escaped(paragraph))


def _plain_prose(text: str) -> str:
    """Text that is escaped already, with no line that roff takes for a request."""
    return "\n".join(f"\\&{line}" if line[:1] in (".", "'") else line for line in text.splitlines()) + "\n"


def _line(text: str) -> str:
    return _plain_prose(_escaped(" ".join(text.split())))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...").replace("`", "").replace("'", "\\(aq")


def _value(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return "[]"
    return (
        f'"{default}"' if isinstance(default, str) else f"{default:g}" if isinstance(default, float) else str(default)
    )


def main(directory: str) -> None:
    """Create this directory and write every page into it."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (Path(directory) / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
