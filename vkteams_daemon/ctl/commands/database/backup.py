"""`vkteamsctl database backup`, `restore` and `verify`."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

from vkteams_daemon import config_template
from vkteams_daemon.config import Config
from vkteams_daemon.ctl import argument_types, progress
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.connections import open_connection, open_database
from vkteams_daemon.ctl.output import Answer, Screen, size
from vkteams_daemon.errors import (
    BackupDamaged,
    CannotCreate,
    ConfigError,
    NotFound,
    PermissionRefused,
    UsageError,
    VkTeamsError,
)
from vkteams_daemon.system import files

if TYPE_CHECKING:
    from vkteams_daemon.store.backup.container import BackupReader, Manifest
    from vkteams_daemon.store.backup.verification import Check

_NAME = "vkteams-{:%Y%m%dT%H%M%SZ}.backup"
_NAMES = re.compile(r"vkteams-\d{8}T\d{6}Z\.backup(\.age|\.gpg)?")
_END_LIMIT = 10.0  # seconds for a program that has closed its input
_MODE = 0o600  # the backup holds every message


def register(noun: Noun) -> None:
    """Add the verbs backup, restore and verify."""
    backup = noun.verb(
        "backup",
        "write the archive into one file, while the daemon goes on",
        _backup,
        "vkteamsctl database backup /var/backups/vkteams --keep 14",
    )
    backup.add_argument("file", metavar="FILE", help="the file to write; in a directory, a new one named by the time")
    backup.add_argument(
        "--keep", metavar="N", type=argument_types.positive, help="then delete all but the newest N of that directory"
    )
    backup.add_argument("--age", metavar="RECIPIENT", help="encrypt it for this recipient with the program age")
    backup.add_argument("--gpg", metavar="KEY", help="encrypt it for this key with the program gpg")
    restore = noun.verb(
        "restore",
        "restore a backup into an empty archive",
        _restore,
        "vkteamsctl database restore /var/backups/vkteams/vkteams-20261124T031500Z.backup",
    )
    restore.add_argument("file", metavar="FILE", help="the backup")
    _add_identity(restore)
    verify = noun.verb(
        "verify",
        "check that the archive, or a backup, is whole and consistent",
        _verify,
        "vkteamsctl database verify /var/backups/vkteams/vkteams-20261124T031500Z.backup",
    )
    verify.add_argument("file", metavar="FILE", nargs="?", help="a backup; without it, the archive itself")
    _add_identity(verify)


def _add_identity(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--identity", metavar="FILE", help="age's identity file, for a backup that age has encrypted")


def _backup(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.store.backup import backup, container
    from vkteams_daemon.store.connection_profiles import MAINTENANCE

    if args.age and args.gpg:
        raise UsageError("--age and --gpg exclude each other")
    place = Path(args.file)
    if args.keep and not place.is_dir():
        raise UsageError("--keep needs a directory in place of the file")
    suffix = ".age" if args.age else ".gpg" if args.gpg else ""
    path = place / (_NAME.format(datetime.now(UTC)) + suffix) if place.is_dir() else place
    with open_database(config) as database, progress.Bar("backup", "rows") as bar:
        try:
            with (
                files.replace_when_whole(path, _MODE, writer=str(os.getpid())) as file,
                _encrypted(file, args.age, args.gpg) as out,
            ):
                manifest = backup.make(
                    lambda: database.connect(MAINTENANCE), database.conninfo, out, config_template.changed(config), bar,
                    database.owner,
                )  # fmt: skip
        except OSError as error:
            raise CannotCreate(f"{path}: the backup cannot be written: {error.strerror}") from error
    files.fsync_path(path.parent)
    removed = _prune(place, args.keep, path) if args.keep else []
    data = {"file": str(path), "bytes": path.stat().st_size, "removed": removed, **container.summary(manifest)}

    def render(screen: Screen) -> None:
        screen.line(f"{path}: {size(data['bytes'])}, {manifest.tables['messages']} messages", "green")
        for name in removed:
            screen.line(f"removed: {name}")

    return Answer(data, render)


def _restore(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.store.backup import container, restore
    from vkteams_daemon.store.connection_profiles import MAINTENANCE

    with (
        _opened(args.file, args.identity) as reader,
        open_database(config, migrate=True, beside=True) as database,
        progress.Bar("restore", "rows") as bar,
    ):
        restored = restore.restore(
            lambda: database.connect(MAINTENANCE), database.conninfo, reader, bar, database.owner
        )
        backed_up = reader.manifest
    data = {**container.summary(backed_up), "schema_version": restored.schema_version}
    age = _age(backed_up.created_at)

    def render(screen: Screen) -> None:
        screen.line(f"restored: {restored.tables['messages']} messages, as they were {age} ago", "green")
        screen.line("What was said since then is missing; `vkteamsctl database gaps` tells it until it is dismissed.")
        for name in _absent_models(config, backed_up):
            screen.line(f"its vectors are of the model {name}: install it with `vkteamsctl model install {name}`")

    return Answer(data, render)


def _absent_models(config: Config, manifest: Manifest) -> list[str]:
    """The models of the backup's vectors that are not installed here."""
    from vkteams_daemon.embedding.catalogue import installed_models

    installed = set()
    with contextlib.suppress(PermissionRefused):  # the archive is restored, whatever this user may read
        installed = {model.fingerprint for model in installed_models(config.models_dir)}
    active = (model for model in manifest.models if model.state == "active")
    return [model.name for model in active if model.fingerprint not in installed]


def _verify(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.store.backup import verification

    if not args.file:
        with (
            open_connection(config, reads=True, maintenance=True) as connection,
            progress.Bar("verify", "checks") as bar,
        ):
            checks = verification.verify(connection, bar)
        return _verdict(checks, {}, "the archive")
    manifest, checks = _verify_backup(args, config)
    data = {"file": args.file, "created_at": manifest.created_at, "age": _age(manifest.created_at)}
    return _verdict(checks, data, f"{args.file}, {data['age']} old,")


def _verify_backup(args: argparse.Namespace, config: Config) -> tuple[Manifest, list[Check]]:
    """Restore a backup into a bundled server of its own, and check it there."""
    import msgspec

    from vkteams_daemon.store.backup import restore, verification
    from vkteams_daemon.store.connection_profiles import MAINTENANCE
    from vkteams_daemon.store.database import Database

    parent = config.state_dir if config.state_dir.is_dir() else Path(tempfile.gettempdir())
    scratch = Path(tempfile.mkdtemp(prefix="verify.", dir=parent))
    try:
        scratch.chmod(0o755)
        daemon = msgspec.structs.replace(
            config.daemon, state_dir=str(scratch / "state"), runtime_dir=str(scratch / "run")
        )
        bundled = msgspec.structs.replace(config.database, url="", distributed=False)
        database = Database(msgspec.structs.replace(config, daemon=daemon, database=bundled), application="vkteamsctl")
        try:
            with _opened(args.file, args.identity) as reader, progress.Bar("verify", "rows") as bar:
                database.open(migrate=True)
                restore.restore(lambda: database.connect(MAINTENANCE), database.conninfo, reader, bar)
                manifest = reader.manifest
            with (
                contextlib.closing(database.connect(MAINTENANCE)) as connection,
                progress.Bar("verify", "checks") as checked,
            ):
                return manifest, verification.verify(connection, checked)
        finally:
            database.close()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _verdict(checks: Sequence[Check], data: dict[str, object], what: str) -> Answer:
    wrong = [check for check in checks if check.wrong]
    error = "; ".join(f"{check.name}: {check.wrong} rows against the rule that {check.rule}" for check in wrong)

    def render(screen: Screen) -> None:
        screen.table(("check", "wrong", "rule"), [(check.name, check.wrong, check.rule) for check in checks], {"rule"})
        screen.line(f"{what} is inconsistent" if wrong else f"{what} is consistent", "red" if wrong else "green")

    return Answer({**data, "rows": list(checks)}, render, BackupDamaged.exit_code if wrong else 0, error or None)


@contextlib.contextmanager
def _encrypted(file: BinaryIO, age: str | None, gpg: str | None) -> Iterator[BinaryIO]:
    """What is written goes into the file, encrypted if a recipient is named."""
    if not age and not gpg:
        yield file
        return
    gpg_command = ["gpg", "--batch", "--trust-model", "always", "--encrypt", "--recipient", gpg or ""]
    command = ["age", "--recipient", age] if age else gpg_command
    with _piped(command, stdin=subprocess.PIPE, stdout=file) as process:
        assert process.stdin is not None
        yield process.stdin  # type: ignore[misc]
        process.stdin.close()


@contextlib.contextmanager
def _opened(name: str, identity: str | None) -> Iterator[BackupReader]:
    """A backup, decrypted if its name says that it is encrypted."""
    from vkteams_daemon.store.backup.container import BackupReader

    try:
        file = Path(name).open("rb")  # noqa: SIM115  the stack closes it
    except OSError as error:
        raise NotFound(f"{name}: the backup cannot be read: {error.strerror}") from error
    with file, contextlib.ExitStack() as stack:
        source: IO[bytes] = file
        if name.endswith(".age"):
            if not identity:
                raise UsageError(f"{name} is encrypted with age", hint="Name the identity file with --identity.")
            command = ["age", "--decrypt", "--identity", identity]
        else:
            command = ["gpg", "--batch", "--decrypt"]
        if name.endswith((".age", ".gpg")):
            process = stack.enter_context(_piped(command, stdin=file, stdout=subprocess.PIPE))
            assert process.stdout is not None
            source = process.stdout
        yield BackupReader(source, name)


@contextlib.contextmanager
def _piped(command: Sequence[str], **streams: object) -> Iterator[subprocess.Popen[bytes]]:
    """A program that encrypts or decrypts. If it fails, its reason becomes the error, whatever else has failed."""
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(command, stderr=errors, **streams)  # type: ignore[call-overload]
        except FileNotFoundError:
            raise ConfigError(f"{command[0]} is not installed", hint=f"apt install {command[0]}") from None
        with process:
            try:
                yield process
            except (VkTeamsError, OSError) as error:
                if isinstance(error, BrokenPipeError):  # the program reads no more: it ends, and has said why
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(_END_LIMIT)
                process.kill()
                if process.wait() > 0:
                    raise _failed(command[0], errors) from None
                raise
            if process.stdout:
                process.stdout.read()
            if process.wait():
                raise _failed(command[0], errors)


def _failed(program: str, errors: IO[bytes]) -> VkTeamsError:
    errors.seek(0)
    lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines()]
    # The reason comes last. Before it gpg tells what it has created, and age says behind it where to report errors.
    reasons = [line for line in lines if line and not line.startswith("age: report ")]
    return ConfigError(f"{program} has failed: {reasons[-1] if reasons else 'it left no message'}")


def _prune(directory: Path, keep: int, newest: Path) -> list[str]:
    """Delete all but the newest backups of this directory; files of other names are left alone."""
    backups = sorted(path for path in directory.iterdir() if _NAMES.fullmatch(path.name) and path != newest)
    removed = []
    for path in backups[: max(0, len(backups) - (keep - 1))]:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        removed.append(path.name)
    return removed


def _age(moment: datetime) -> str:
    seconds = max(0.0, (datetime.now(UTC) - moment).total_seconds())
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
