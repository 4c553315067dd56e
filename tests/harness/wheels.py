"""Makes wheels with a model in them, and wheels that must be refused."""

from __future__ import annotations

import base64
import hashlib
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path


def write_wheel(
    file: Path,
    content: Path,
    *,
    folder: str = "carrier/model",
    more: Mapping[str, bytes] | None = None,
    links: Mapping[str, str] | None = None,
    lies: Mapping[str, bytes] | None = None,
    record: bool = True,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """Write a wheel with the files of `content` in `folder`; returns its path.

    Args:
        more: further members by name.
        links: targets of symbolic links by name.
        lies: the content of members that differ from their hash in RECORD.
        record: whether there is a RECORD.
        compression: of the members, a constant of zipfile.
    """
    members = {
        f"{folder}/{path.relative_to(content)}": path.read_bytes() for path in content.rglob("*") if path.is_file()
    }
    members |= more or {}
    info = f"{file.name.partition('-')[0]}-0.1.0.dist-info"
    members[f"{info}/METADATA"] = b"Metadata-Version: 2.1\nName: carrier\nVersion: 0.1.0\nRequires-Dist: torch\n"
    members[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    rows = []
    for name, data in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={digest},{len(data)}")
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in (members | dict(lies or {})).items():
            archive.writestr(name, data)
        for name, target in (links or {}).items():
            link = zipfile.ZipInfo(name)
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, target)
        if record:
            archive.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,"]) + "\n")
    return file
