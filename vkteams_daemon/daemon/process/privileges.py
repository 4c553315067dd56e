"""Chooses the user that the daemon runs as, and makes the directories that this user needs.

DaemonContext drops root before it locks the PID file. So the starter makes here everything that only root can make. The
daemon opens its own files (PID file, log, status file) as the user that it has become.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import stat
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path

from vkteams_daemon.config import Config
from vkteams_daemon.errors import CannotCreate, ConfigError, PermissionRefused
from vkteams_daemon.system.user import Owner

DEFAULT_USER = "_vkteams"


def choose_user(config: Config) -> Owner:
    """The user that the daemon will run as; `impersonated` is true if root has to become this user.

    Raises:
        ConfigError: the configured user does not exist.
        PermissionRefused: the daemon would run as root, which allow_root does not permit; or a user who is not root
            cannot become the configured user.
    """
    name = config.daemon.user
    uid = os.geteuid()
    if uid != 0:
        entry = _user_entry(name) if name else None
        if entry and entry.pw_uid != uid:
            raise PermissionRefused(f"only root can start vkteamsd as {name}", hint="Become root, or that user.")
        return Owner(_user_name(uid), uid, os.getegid(), impersonated=False)
    entry = _user_entry(name) if name else _default_entry()
    if entry is not None and entry.pw_uid != 0:
        return Owner(entry.pw_name, entry.pw_uid, entry.pw_gid, impersonated=True)
    if not config.daemon.allow_root:
        raise PermissionRefused(
            "vkteamsd does not run as root",
            hint="Name a user in [daemon] user, or allow root with VKTEAMS_DAEMON_ALLOW_ROOT=1.",
        )
    return Owner("root", 0, os.getegid(), impersonated=False)


def make_directories(config: Config, owner: Owner, *, log: bool = True) -> None:
    """Make the directories of the PID file, the status file, the state and the log, with mode 0750.

    If the daemon stays root, other users may pass through its state directory, but not list it.

    Args:
        config: with absolute paths.
        owner: the owner of new directories; an existing directory stays as it is.
        log: whether a log file will be written.

    Raises:
        CannotCreate: a directory cannot be made.
        PermissionRefused: another user could redirect one of the paths.
    """
    for directory in _directories(config, log):
        _refuse_foreign_paths(directory, owner)
        mode = 0o700 if _writable_by_others(directory.parent) else 0o750
        if owner.uid == 0 and directory == config.state_dir and not config.database.url:
            mode |= 0o011  # the bundled PostgreSQL does not run as root, and its own directory is below this one
        owner.make_directory(directory, mode)
        _refuse_foreign_paths(directory, owner)  # the directory may have appeared since the first check


def restore_directories(config: Config) -> None:
    """Make the directories of the PID file and of the status file again if somebody has removed them.

    Raises:
        CannotCreate: this user may not make them.
    """
    for directory in (config.runtime_dir, config.pid_file.parent, config.status_file.parent):
        if directory.is_dir():
            continue
        try:
            directory.mkdir(mode=0o750)
        except OSError as error:
            raise CannotCreate(
                f"{directory}: it was removed and cannot be made again: {error.strerror}",
                hint="Make it again with its owner and mode, or restart vkteamsd.",
            ) from error


def adopt_home(owner: Owner, environ: MutableMapping[str, str]) -> None:
    """Point HOME, USER and LOGNAME at the user that root has become, and remove every XDG_ variable.

    Root's home is closed to that user, and libpq looks for passwords and certificates in the home directory.
    """
    if not owner.impersonated:
        return
    home = pwd.getpwuid(owner.uid).pw_dir
    environ.update(HOME=home, USER=owner.name, LOGNAME=owner.name)
    for name in [name for name in environ if name.startswith("XDG_")]:
        del environ[name]


def check_access(config: Config, owner: Owner, program: Sequence[Path], *, log: bool = True) -> None:
    """Check that this process can read its program and write in its directories, after root is dropped.

    Args:
        config: with directories that exist.
        owner: the user that this process has become.
        program: from `program_directories`, called before root was dropped.
        log: as for `make_directories`.

    Raises:
        PermissionRefused: the user cannot read this program.
        CannotCreate: the user cannot write in one of the directories.
    """
    for directory in program:
        if not os.access(directory, os.R_OK | os.X_OK):
            raise PermissionRefused(
                f"user {owner.name} cannot read this program: {_first_closed(directory)} is closed to it",
                hint="Install it where every user can read it, or name another user in [daemon] user.",
            )
    for directory in _directories(config, log):
        if not os.access(directory, os.W_OK | os.X_OK):
            raise CannotCreate(
                f"{directory}: user {owner.name} may not write there", hint=f"Give it with chown to {owner.name}."
            )


def program_directories() -> list[Path]:
    """The directories that this program is read from: its own, the standard library's and its dependencies'."""
    specs = [importlib.util.find_spec(module) for module in ("vkteams_daemon", "json", "psycopg", "msgspec")]
    return [Path(spec.origin).parent for spec in specs if spec and spec.origin]


def status_group(owner: Owner) -> int | None:
    """The group `_vkteams`, which may read the status file of a daemon that stays root; None if it does not exist."""
    entry = _default_entry()
    return entry.pw_gid if entry and owner.uid == 0 else None


def _directories(config: Config, log: bool) -> Iterator[Path]:
    """The directories, parents first. An instance's directories are in the directories that all instances share."""
    files = [config.pid_file, config.status_file] + ([config.log_file] if log else [])
    seen: set[Path] = set()
    for directory in (config.runtime_dir, config.state_dir, *(file.parent for file in files)):
        shared = [directory.parent] if config.instance and directory.name == config.instance else []
        for path in (*shared, directory):
            if path not in seen:
                seen.add(path)
                yield path


def _refuse_foreign_paths(directory: Path, owner: Owner) -> None:
    """Refuse a link on the path, or the directory itself, if another user could have put it there."""
    trusted = {0, os.geteuid(), owner.uid}
    for path in (*reversed(directory.parents), directory):
        try:
            entry = path.lstat()
        except OSError:
            return  # it does not exist yet or is closed; the attempt to make it gives the better error
        is_link = stat.S_ISLNK(entry.st_mode)
        foreign = entry.st_uid not in trusted and _writable_by_others(path.parent)
        if foreign and (is_link or path == directory):
            kind = "link" if is_link else "directory"
            raise PermissionRefused(
                f"{path}: this {kind} belongs to another user, in a directory that everybody can write to",
                hint="Remove it, or set daemon.runtime_dir.",
            )


def _writable_by_others(directory: Path) -> bool:
    try:
        return bool(directory.stat().st_mode & stat.S_IWOTH)
    except OSError:
        return False


def _first_closed(path: Path) -> Path:
    """The first directory of the path that this user may not enter."""
    directories = (*reversed(path.parents), path)
    return next((directory for directory in directories if not os.access(directory, os.X_OK)), path)


def _user_entry(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise ConfigError(f"daemon.user: there is no user {name!r}") from None


def _default_entry() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(DEFAULT_USER)
    except KeyError:
        return None


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
