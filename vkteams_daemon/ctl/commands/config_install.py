"""`vkteamsctl config install`: what the package installs beside the program, for a virtual environment."""

from __future__ import annotations

import argparse
import pwd
import sys
from importlib import resources
from pathlib import Path

from vkteams_daemon.config import Config
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.output import Answer, Screen
from vkteams_daemon.errors import CannotCreate, ConfigError, PermissionRefused, UsageError
from vkteams_daemon.options import DEFAULT_USER, READERS_GROUP
from vkteams_daemon.system import files
from vkteams_daemon.system.user import ADD_USER, readers_group

_UNITS = "etc/systemd/system"
_PLACES = {
    "vkteamsd.service": _UNITS, "vkteamsd@.service": _UNITS, "vkteams-mcp.service": _UNITS,
    "vkteams-web.service": _UNITS, "vkteams-backup.service": _UNITS, "vkteams-backup.timer": _UNITS,
    "vkteamsd.logrotate": "etc/logrotate.d", "vkteamsd.tmpfiles": "etc/tmpfiles.d",
}  # fmt: skip
_SUFFIXES = {".logrotate": "", ".tmpfiles": ".conf"}
_BASH, _ZSH = "usr/local/share/bash-completion/completions", "usr/local/share/zsh/site-functions"
_HIDDEN = ("/home", "/root", "/run/user")  # the units do not see what is below (ProtectHome)


def register(noun: Noun) -> None:
    """Add the verb install."""
    install = noun.verb(
        "install",
        "install units, log rotation and completion for a virtual environment",
        _install,
        "vkteamsctl config install --systemd",
        needs_config=False,
    )
    install.add_argument("--systemd", action="store_true", help="the units of systemd, log rotation and completion")
    install.add_argument("--root", metavar="DIR", default="/", help="write below this directory (/)")
    install.add_argument("--overwrite", action="store_true", help="replace files that were changed")


def _install(args: argparse.Namespace, _: Config) -> Answer:
    if not args.systemd:
        raise UsageError("nothing is named to install", hint="Add --systemd.")
    programs = Path(sys.prefix) / "bin"
    if not (programs / "vkteamsd").exists():
        raise ConfigError(f"{programs} has no vkteamsd", hint="Run the vkteamsctl of the virtual environment.")
    if str(programs).startswith(_HIDDEN):
        raise ConfigError(
            f"the units may not see {sys.prefix}",
            hint="Make the virtual environment elsewhere, such as in /opt/vkteams.",
        )
    texts = {place: _text(name, programs) for name, place in _targets(Path(args.root)).items()}
    texts |= _completions(Path(args.root))
    changed = [path for path, text in texts.items() if path.exists() and path.read_text(encoding="utf-8") != text]
    if changed and not args.overwrite:
        raise CannotCreate(f"{changed[0]} exists already and differs", hint="Keep it, or add --overwrite.")
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            files.atomic_write(path, text.encode(), 0o644)
    except PermissionError as error:
        raise PermissionRefused(f"{error.filename}: this user may not write it", hint="Run it as root.") from error
    except OSError as error:
        raise CannotCreate(f"{error.filename}: cannot be written: {error.strerror}") from error
    written = [str(path) for path in texts]

    def render(screen: Screen) -> None:
        for path in written:
            screen.line(f"written: {path}")
        if not _has_user():
            screen.line(f"There is no user {DEFAULT_USER}. {ADD_USER}", "yellow")
        if readers_group() is None:
            screen.line(
                f"There is no group {READERS_GROUP}, whose members may search. Make it with"
                f" `addgroup --system {READERS_GROUP} && adduser {DEFAULT_USER} {READERS_GROUP}`.",
                "yellow",
            )
        screen.line("Next: systemctl daemon-reload, then systemctl enable --now vkteamsd")

    return Answer({"written": written, "user": _has_user()}, render)


def _targets(root: Path) -> dict[str, Path]:
    return {
        name: root / place / (Path(name).stem + _SUFFIXES.get(Path(name).suffix, Path(name).suffix))
        for name, place in _PLACES.items()
    }


def _completions(root: Path) -> dict[Path, str]:
    from vkteams_daemon.ctl import completion

    bash = completion.bash()
    return {
        root / _BASH / "vkteamsctl": bash,
        root / _BASH / "vkteamsd": bash,
        root / _ZSH / "_vkteamsctl": completion.zsh(),
    }


def _text(name: str, programs: Path) -> str:
    """A file of the package, with the programs of this environment."""
    text = resources.files("vkteams_daemon.ctl").joinpath("units", name).read_text(encoding="utf-8")
    text = text.replace("/usr/sbin/vkteamsd", f"{programs}/vkteamsd")
    text = text.replace("/usr/bin/vkteamsctl", f"{programs}/vkteamsctl")
    return text.replace("|| vkteamsctl", f"|| {programs}/vkteamsctl")


def _has_user() -> bool:
    try:
        pwd.getpwnam(DEFAULT_USER)
    except KeyError:
        return False
    return True
