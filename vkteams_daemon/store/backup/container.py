"""The file of a backup: a tar archive that is written and read in one pass, so that it can go through a pipe.

Its members, in this order: `manifest.json`; `vkteamsd.toml`, the configuration without secrets; `archive.dump.000000`
and so on, the parts of a dump in pg_dump's custom format; `complete.json`, which a backup that was cut off does not
have. By hand: `tar -xOf FILE --wildcards 'archive.dump.*' | pg_restore --list`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tarfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import IO, Any, BinaryIO

import msgspec

from vkteams_daemon.errors import BackupDamaged

FORMAT = 1
PART = 4 << 20  # bytes of one part of the dump
_MANIFEST, _CONFIGURATION, _DUMP, _COMPLETE = "manifest.json", "vkteamsd.toml", "archive.dump.", "complete.json"


class BackedUpCursor(msgspec.Struct, frozen=True, kw_only=True):
    """A bot's cursor at the moment of the backup."""

    bot_id: str
    generation: int
    last_event_id: int


class BackedUpModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model whose vectors are in the backup; its files are not."""

    name: str
    fingerprint: str
    state: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup holds.

    Attributes:
        format: of the file.
        created_at: the moment whose archive the backup holds.
        program: version of vkteams-daemon.
        schema_version: of the archive.
        schema: the database schema that the tables are in.
        archive_id: the archive's identity.
        server: PostgreSQL's version number, such as 180001.
        vector: pgvector's version.
        tables: rows by table.
        bots: the cursors.
        models: the models.
    """

    format: int = FORMAT
    created_at: datetime
    program: str
    schema_version: int
    schema: str
    archive_id: str
    server: int
    vector: str
    tables: dict[str, int]
    bots: list[BackedUpCursor]
    models: list[BackedUpModel]


def write(
    out: BinaryIO, manifest: Callable[[], Manifest], configuration: str, dump: IO[bytes], finished: Callable[[], None]
) -> int:
    """Write a backup.

    Args:
        out: where to; only written to, in order.
        manifest: called once, after the first bytes of the dump.
        configuration: without secrets.
        dump: the output of pg_dump.
        finished: called at the end of the dump; raises if the dump is not whole.

    Returns:
        The bytes of the dump.
    """
    part, size, number, digest = dump.read(PART), 0, 0, hashlib.sha256()
    with tarfile.open(fileobj=out, mode="w|") as tar:
        _add(tar, _MANIFEST, msgspec.json.format(msgspec.json.encode(manifest()), indent=1))
        _add(tar, _CONFIGURATION, configuration.encode())
        while part:
            _add(tar, f"{_DUMP}{number:06}", part)
            digest.update(part)
            size, number = size + len(part), number + 1
            part = dump.read(PART)
        finished()
        _add(tar, _COMPLETE, json.dumps({"bytes": size, "sha256": digest.hexdigest()}).encode())
    return size


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(content), 0o600, int(time.time())
    tar.addfile(member, io.BytesIO(content))


class BackupReader:
    """Reads a backup in one pass: first the manifest, then the dump.

    Args:
        source: only read from, in order.
        name: of the file, for errors.

    Attributes:
        manifest: of the backup.
        configuration: the configuration without secrets.

    Raises:
        BackupDamaged: it is no backup, or of a newer format.
    """

    def __init__(self, source: IO[bytes], name: str) -> None:
        self._name = name
        with self._damage_named():
            self._tar = tarfile.open(fileobj=source, mode="r|")  # noqa: SIM115  the object reads until the end
            self.manifest = self._decode(self._next(_MANIFEST), Manifest)
            if self.manifest.format != FORMAT:
                raise BackupDamaged(
                    f"{name}: the backup has format {self.manifest.format}, this program reads {FORMAT}",
                    hint="Upgrade vkteams-daemon.",
                )
            self.configuration = self._next(_CONFIGURATION).decode()

    def parts(self) -> Iterator[bytes]:
        """The dump, in parts.

        Raises:
            BackupDamaged: at the end, if the dump is not the one that was written.
        """
        size, digest = 0, hashlib.sha256()
        with self._damage_named():
            while (member := self._tar.next()) is not None:
                content = self._content(member)
                if member.name == _COMPLETE:
                    whole = json.loads(content)
                    if (size, digest.hexdigest()) != (whole["bytes"], whole["sha256"]):
                        raise BackupDamaged(f"{self._name}: the backup is damaged: its dump has another checksum")
                    return
                if not member.name.startswith(_DUMP):
                    raise BackupDamaged(f"{self._name}: {member.name!r} does not belong into a backup")
                size += len(content)
                digest.update(content)
                yield content
            raise BackupDamaged(f"{self._name}: the backup was cut off", hint="Take an earlier one.")

    def _next(self, name: str) -> bytes:
        member = self._tar.next()
        if member is None or member.name != name:
            raise BackupDamaged(f"{self._name}: is not a backup of vkteams-daemon")
        return self._content(member)

    def _content(self, member: tarfile.TarInfo) -> bytes:
        if not member.isreg() or member.size > PART:
            raise BackupDamaged(f"{self._name}: is not a backup of vkteams-daemon")
        file = self._tar.extractfile(member)
        assert file is not None  # a regular file has content
        return file.read()

    @staticmethod
    def _decode(content: bytes, kind: type[Manifest]) -> Manifest:
        return msgspec.json.decode(content, type=kind)

    @contextlib.contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except (tarfile.TarError, ValueError, KeyError, EOFError) as error:
            raise BackupDamaged(f"{self._name}: is not a readable backup: {error}") from error


def summary(manifest: Manifest) -> dict[str, Any]:
    """What an answer says of a backup."""
    return {
        "created_at": manifest.created_at,
        "program": manifest.program,
        "schema_version": manifest.schema_version,
        "messages": manifest.tables.get("messages"),
        "events": manifest.tables.get("events"),
        "models": [model.name for model in manifest.models],
    }
