"""What the fuzzer has found stays mended, and its targets hold for the bytes that it begins with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.__main__ import FOUND, NAMES
from tests.fuzz.targets import TARGETS, Place


def test_every_target_has_its_name() -> None:
    assert tuple(TARGETS) == NAMES
    assert {directory.name for directory in FOUND.iterdir() if directory.is_dir()} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_seeds_and_findings(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    target = TARGETS[name]
    url = request.getfixturevalue("database_url") if target.archive else ""
    found = [file.read_bytes() for file in sorted((FOUND / name).glob("*"))]
    with target.open(Place(tmp_path, url)) as check:
        for data in (*target.seeds(), *found):
            check(data)
