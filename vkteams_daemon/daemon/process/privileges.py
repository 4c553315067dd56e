"""Whose rights the daemon runs with, and the directories that must be there before it takes them.

DaemonContext drops root before it enters the PID file, so everything that only root can make is made here, by the
starter; what the daemon itself opens (PID file, log, status file), it opens as the user it has become.
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
    """The user that the daemon will run as; `impersonated` where root drops to it.

    Raises:
        ConfigError: the configured user does not exist.
        PermissionRefused: it would poll as root without having been told to, or this user cannot become another.
    """
    wanted = config.daemon.user
    own = os.geteuid()
    if own != 0:
        entry = _find(wanted) if wanted else None
        if entry and entry.pw_uid != own:
            raise PermissionRefused(f"only root can start vkteamsd as {wanted}", hint="Become root, or that user.")
        return Owner(_name(own), own, os.getegid(), impersonated=False)
    entry = _find(wanted) if wanted else _default()
    if entry is not None and entry.pw_uid != 0:
        return Owner(entry.pw_name, entry.pw_uid, entry.pw_gid, impersonated=True)
    if not config.daemon.allow_root:
        raise PermissionRefused(
            "vkteamsd does not run as root",
            hint="Name a user in [daemon] user, or set VKTEAMS_DAEMON_ALLOW_ROOT=1 where root is meant.",
        )
    return Owner("root", 0, os.getegid(), impersonated=False)


def make_directories(config: Config, owner: Owner, *, log: bool = True) -> None:
    """Make the directories of the PID file, the status file, the state and (where there is one) the log, 0750.

    A root that stays root lets others pass through its state directory, without looking into it.

    Args:
        config: with absolute paths.
        owner: whose they are to be; what is there already stays as it is.
        log: whether a log file will be written.

    Raises:
        CannotCreate: one cannot be made.
        PermissionRefused: on the way to one, another user could lead the daemon elsewhere.
    """
    for directory in _directories(config, log):
        _refuse_traps(directory, owner)
        mode = 0o700 if _writable_by_others(directory.parent) else 0o750
        if owner.uid == 0 and directory == config.state_dir and not config.database.url:
            mode |= 0o011  # the bundled PostgreSQL does not run as root, and must get through to its own directory
        owner.make_directory(directory, mode)
        _refuse_traps(directory, owner)


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
    """The places that this program is read from: itself, the standard library and what is installed beside it."""
    specs = [importlib.util.find_spec(module) for module in ("vkteams_daemon", "json", "psycopg", "msgspec")]
    return [Path(spec.origin).parent for spec in specs if spec and spec.origin]


def status_group(owner: Owner) -> int | None:
    """The group that may read the status file of a daemon that stays root: `_vkteams`, where it exists."""
    entry = _default()
    return entry.pw_gid if entry and owner.uid == 0 else None


def _directories(config: Config, log: bool) -> Iterator[Path]:
    """In the order of making; an instance's directories lie in the ones that all instances share."""
    files = [config.pid_file, config.status_file] + ([config.log_file] if log else [])
    seen: set[Path] = set()
    for directory in (config.runtime_dir, config.state_dir, *(file.parent for file in files)):
        shared = [directory.parent] if config.instance and directory.name == config.instance else []
        for path in (*shared, directory):
            if path not in seen:
                seen.add(path)
                yield path


def _refuse_traps(directory: Path, owner: Owner) -> None:
    trusted = {0, os.geteuid(), owner.uid}
    for path in (*reversed(directory.parents), directory):
        try:
            found = path.lstat()
        except OSError:
            return  # not there yet, or closed: making it says more
        theirs = found.st_uid not in trusted and _writable_by_others(path.parent)
        if theirs and (stat.S_ISLNK(found.st_mode) or path == directory):
            what = "this link" if stat.S_ISLNK(found.st_mode) else "this directory"
            raise PermissionRefused(
                f"{path}: {what} belongs to another user, in a directory that everybody can write to",
                hint="Remove it, or set daemon.runtime_dir.",
            )


def _writable_by_others(directory: Path) -> bool:
    try:
        return bool(directory.stat().st_mode & stat.S_IWOTH)
    except OSError:
        return False


def _first_closed(path: Path) -> Path:
    """The first directory on the way that this user cannot pass."""
    way = (*reversed(path.parents), path)
    return next((step for step in way if not os.access(step, os.X_OK)), path)


def _find(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise ConfigError(f"daemon.user: there is no user {name!r}") from None


def _default() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(DEFAULT_USER)
    except KeyError:
        return None


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
