"""A file of two slots: whatever a write leaves behind, the content before it or after it is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vkteams_daemon.system.slot_file import MIN_SLOT, SlotFile


def content(path: Path) -> bytes | None:
    """What a new process reads."""
    return SlotFile(path, 0o640).read()


def test_the_last_content_is_read_and_the_file_stays_the_same(tmp_path: Path) -> None:
    file = SlotFile(tmp_path / "file", 0o640)
    assert file.read() is None
    inodes = set()
    for number in range(5):
        file.write(b"%d" % number)
        inodes.add((file.path.stat().st_ino, file.path.stat().st_size, file.path.stat().st_mode & 0o777))
        assert content(file.path) == b"%d" % number
    assert inodes == {(file.path.stat().st_ino, 2 * MIN_SLOT, 0o640)}


def test_a_write_that_is_torn_at_any_byte_leaves_the_content_before_it(tmp_path: Path) -> None:
    """The slot that is written holds the content of two writes ago, which never counts again."""
    file = SlotFile(tmp_path / "file", 0o640)
    for text in (b"first, and longer than the others", b"second", b"third"):
        before = file.path.read_bytes() if file.path.exists() else b""
        file.write(text)
    after = file.path.read_bytes()
    places = [place for place in range(len(after)) if before[place] != after[place]]
    read = set()
    for end in range(places[0], places[-1] + 1):
        file.path.write_bytes(after[:end] + before[end:])
        read.add(content(file.path))
        # A disk may also write the later sectors first.
        file.path.write_bytes(before[:end] + after[end:])
        read.add(content(file.path))
    assert read == {b"second", b"third"}
    file.path.write_bytes(after[: places[-1]] + before[places[-1] :])
    again = SlotFile(file.path, 0o640)
    assert again.read() == b"second"
    again.write(b"fourth")
    assert content(file.path) == b"fourth"


def test_a_byte_that_has_changed_is_noticed(tmp_path: Path) -> None:
    file = SlotFile(tmp_path / "file", 0o640)
    file.write(b"first")
    file.write(b"second")
    whole = file.path.read_bytes()
    for place in range(20 + len(b"second")):
        file.path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert content(file.path) == b"first"


def test_content_that_outgrows_the_slots_gets_larger_ones(tmp_path: Path) -> None:
    file = SlotFile(tmp_path / "file", 0o640)
    for size in (10, MIN_SLOT, 10, 5 * MIN_SLOT, 10):
        file.write(b"x" * size)
        assert content(file.path) == b"x" * size
    assert file.path.stat().st_size == 16 * MIN_SLOT


@pytest.mark.parametrize("damage", ["removed", "cut", "another file", "a link"])
def test_a_file_that_somebody_has_changed_is_made_again(tmp_path: Path, damage: str) -> None:
    file = SlotFile(tmp_path / "file", 0o640)
    file.write(b"first")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"somebody's")
    if damage == "removed":
        file.path.unlink()
    elif damage == "cut":
        os.truncate(file.path, 100)
    elif damage == "another file":
        file.path.write_bytes(b"{}")
    else:
        file.path.unlink()
        file.path.symlink_to(elsewhere)
    file.write(b"second")
    file.write(b"third")
    assert content(file.path) == b"third"
    assert elsewhere.read_bytes() == b"somebody's"


@pytest.mark.parametrize("stored", [b"", b"{}", b"\0" * 2 * MIN_SLOT, b"\x89vk2"])
def test_what_is_no_such_file_is_refused(tmp_path: Path, stored: bytes) -> None:
    (tmp_path / "file").write_bytes(stored)
    with pytest.raises(ValueError, match="no slot"):
        content(tmp_path / "file")
