"""Chooses the user that the daemon runs as, and makes the directories that this user needs.

DaemonContext drops root before it locks the PID file. So the starter makes here everything that only root can make. The
daemon opens its own files (PID file, log, status file) as the user that it has become.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import stat
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path

from vkteams_daemon.config import Config
from vkteams_daemon.errors import CannotCreate, PermissionRefused
from vkteams_daemon.options import DEFAULT_USER
from vkteams_daemon.system.user import ADD_USER, Owner, find_user, readers_group


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
        entry = find_user(name) if name else None
        if entry and entry.pw_uid != uid:
            raise PermissionRefused(f"only root can start vkteamsd as {name}", hint="Become root, or that user.")
        return Owner(_user_name(uid), uid, os.getegid(), impersonated=False)
    entry = find_user(name)
    if entry is not None and entry.pw_uid != 0:
        return Owner(entry.pw_name, entry.pw_uid, entry.pw_gid, impersonated=True)
    if not config.daemon.allow_root:
        if entry is None:
            raise PermissionRefused(
                f"vkteamsd does not run as root, and there is no user {DEFAULT_USER}", hint=ADD_USER
            )
        raise PermissionRefused(
            "vkteamsd does not run as root",
            hint="Name another user in [daemon] user, or allow root with VKTEAMS_DAEMON_ALLOW_ROOT=1.",
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
        _make_directory(directory, config, owner)


def make_state_directory(config: Config, owner: Owner) -> None:
    """Make the state directory alone, as `make_directories` does, for a command that writes there before the daemon."""
    _make_directory(config.state_dir, config, owner)


def check_places(config: Config, *, log: bool = True) -> None:
    """Check what `make_directories` and the daemon will find, and make nothing: what is wrong for every user.

    Args:
        config: with absolute paths.
        log: whether a log file will be written.

    Raises:
        CannotCreate: something else stands in the place of a directory or a file.
    """
    for directory in _directories(config, log):
        place = _existing(directory)
        if not stat.S_ISDIR(_mode(place)):
            reason = "something else of this name is in the way" if place == directory else f"{place} is no directory"
            raise CannotCreate(f"{directory}: cannot be made: {reason}")
        if place != directory and _holds_no_files(place):
            raise CannotCreate(f"{directory}: cannot be made: {place} is no place for files")
    for file, name in _files(config, log):
        if file == config.pid_file and stat.S_ISLNK(_mode(file, follow_links=False)):
            raise CannotCreate(f"{file}: the {name} cannot be made: it is a symbolic link")
        if stat.S_ISDIR(_mode(file)):
            raise CannotCreate(f"{file}: the {name} cannot be written: Is a directory")


def check_rights(config: Config, owner: Owner, *, log: bool = True) -> None:
    """Check that this user can make the missing directories, and that the daemon's user can use all of them.

    Nothing is made.

    Args:
        config: with absolute paths.
        owner: the user that the daemon will run as.
        log: whether a log file will be written.

    Raises:
        PermissionRefused: the owner cannot read this program, or another user could redirect one of the paths.
        CannotCreate: the owner may not write to a directory or a file, or a directory cannot be made.
    """
    for program in program_directories():
        if closed := owner.first_closed(program):
            raise _program_closed(owner, closed)
    for directory in _directories(config, log):
        _refuse_foreign_paths(directory, owner)
        place = _existing(directory)
        if place == directory and not owner.may_write(directory):
            raise _not_writable(directory, owner)
        # Root makes what the owner may not make, and gives it to the owner.
        if place != directory and not (owner.may_write(place) or os.access(place, os.W_OK | os.X_OK)):
            raise CannotCreate(f"{directory}: cannot be made: this user may not write to {place}")
    for file, name in _files(config, log):
        if file != config.status_file and _mode(file) and not owner.may_write(file):
            raise CannotCreate(f"{file}: the {name} cannot be written: user {owner.name} may not write to it")


def exposed_directories(config: Config) -> list[str]:
    """A sentence for each directory of this configuration in which others may replace the daemon's files."""
    sentences = []
    for directory in _directories(config, True):
        with contextlib.suppress(OSError):
            mode = directory.stat().st_mode
            if mode & 0o022 and not mode & stat.S_ISVTX:
                sentences.append(f"{directory}: others than its owner may write there; run `chmod 750 {directory}`")
    return sentences


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
            raise _program_closed(owner, _first_closed(directory))
    for directory in _directories(config, log):
        if not os.access(directory, os.W_OK | os.X_OK):
            raise _not_writable(directory, owner)


def program_directories() -> list[Path]:
    """The directories that this program is read from: its own, the standard library's and its dependencies'."""
    specs = [importlib.util.find_spec(module) for module in ("vkteams_daemon", "json", "psycopg", "msgspec")]
    return [Path(spec.origin).parent for spec in specs if spec and spec.origin]


def status_group(owner: Owner) -> int | None:
    """The group that may read the status file of a daemon that stays root; None if there is none.

    A daemon that is no root needs none: its runtime directory gives its group to the files in it.
    """
    if owner.uid != 0:
        return None
    entry = find_user("")
    group = readers_group()
    return group if group is not None else entry.pw_gid if entry else None


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


def _files(config: Config, log: bool) -> Iterator[tuple[Path, str]]:
    """The files that the daemon writes, each with what it is called in an error."""
    yield config.pid_file, "PID file"
    yield config.status_file, "status file"
    if log and config.log.target == "file":
        yield config.log_file, "log"


def _existing(path: Path) -> Path:
    """The path, or the nearest directory above it that exists."""
    return next(place for place in (path, *path.parents) if os.path.lexists(place))


def _mode(path: Path, *, follow_links: bool = True) -> int:
    """The mode of what is there; 0 if nothing is, or this user cannot see it."""
    try:
        return path.stat(follow_symlinks=follow_links).st_mode
    except OSError:
        return 0


def _holds_no_files(directory: Path) -> bool:
    """Whether it shows the kernel's own objects, such as /proc."""
    with contextlib.suppress(OSError):
        system = os.statvfs(directory)
        return system.f_blocks == system.f_files == 0
    return False


def _program_closed(owner: Owner, closed: Path) -> PermissionRefused:
    return PermissionRefused(
        f"user {owner.name} cannot read this program: {closed} is closed to it",
        hint="Install it where every user can read it, or name another user in [daemon] user.",
    )


def _not_writable(directory: Path, owner: Owner) -> CannotCreate:
    return CannotCreate(
        f"{directory}: user {owner.name} may not write there", hint=f"Give it with chown to {owner.name}."
    )


def _make_directory(directory: Path, config: Config, owner: Owner) -> None:
    _refuse_foreign_paths(directory, owner)
    mode = 0o700 if _writable_by_others(directory.parent) else 0o750
    if owner.uid == 0 and directory == config.state_dir and not config.database.url:
        mode |= 0o011  # the bundled PostgreSQL does not run as root, and its own directory is below this one
    # What root makes for searching and for the status is open to the readers: the PID file, the status, the sockets.
    readers = owner.impersonated and directory in (config.runtime_dir, config.runtime_dir.parent)
    owner.make_directory(directory, mode, readers_group() if readers else None)
    _refuse_foreign_paths(directory, owner)  # the directory may have appeared since the first check


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


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
