"""A file that is replaced holds its old content or its new one, and nothing is left beside it."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from vkteams_daemon.system.files import atomic_write, fsync_path, replace_when_whole


@contextlib.contextmanager
def _full_disk() -> Iterator[None]:
    """A limit on the size of files fails the same write as a full disk does (Python ignores SIGXFSZ)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_content_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for content in (b"old", b"", b"new"):
        atomic_write(file, content, 0o640)
        assert file.read_bytes() == content
    assert _names(tmp_path) == ["file"]


def test_readers_of_the_old_file_keep_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    with file.open("rb") as reader:
        atomic_write(file, b"new", 0o640)
        assert reader.read() == b"old"


@pytest.mark.parametrize("size", [5_000, 5_000_000])
def test_old_file_stays_when_the_disk_is_full(tmp_path: Path, size: int) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    with _full_disk(), pytest.raises(OSError) as caught:
        atomic_write(file, bytes(size), 0o640)
    assert caught.value.errno == errno.EFBIG
    assert file.read_bytes() == b"old"
    assert _names(tmp_path) == ["file"]


def test_old_file_stays_when_the_writer_fails_or_is_interrupted(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replace_when_whole(file, 0o640) as out:
        out.write(b"half")
        raise KeyboardInterrupt
    assert file.read_bytes() == b"old"
    assert _names(tmp_path) == ["file"]


def test_mode_is_exact_under_any_umask_and_on_an_old_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch(0o600)
    for umask in (0o000, 0o077):
        with _umask(umask):
            atomic_write(file, b"new", 0o644)
        assert stat.S_IMODE(file.stat().st_mode) == 0o644


def test_umask_counts_where_the_content_is_written_bit_by_bit(tmp_path: Path) -> None:
    with _umask(0o077), replace_when_whole(tmp_path / "file", 0o640) as out:
        out.write(b"new")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file to any group")
def test_file_is_given_to_the_group(tmp_path: Path) -> None:
    atomic_write(tmp_path / "file", b"new", 0o640, group=54321)
    found = (tmp_path / "file").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, 54321, 0o640)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may give a file to any group")
def test_group_that_the_file_cannot_be_given_to_leaves_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    with pytest.raises(PermissionError):
        atomic_write(file, b"new", 0o640, group=54321)
    assert file.read_bytes() == b"old"
    assert _names(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["file", ".file.new"])
def test_symbolic_link_is_replaced_and_not_followed(tmp_path: Path, name: str) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"untouched")
    (tmp_path / name).symlink_to(precious)
    atomic_write(tmp_path / "file", b"new", 0o640)
    assert not (tmp_path / "file").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"
    assert precious.read_bytes() == b"untouched"
    assert _names(tmp_path) == ["file", "precious"]


def test_leftover_of_a_killed_writer_is_taken_away_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".file.new").write_bytes(b"half")
    (tmp_path / ".file.new").chmod(0o400)
    atomic_write(tmp_path / "file", b"new", 0o640)
    assert _names(tmp_path) == ["file"]


def test_writers_at_once_do_not_spoil_each_others_content(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with replace_when_whole(file, 0o640, writer="1") as first:
        first.write(b"first")
        with replace_when_whole(file, 0o640, writer="2") as second:
            second.write(b"second")
        assert file.read_bytes() == b"second"
    assert file.read_bytes() == b"first"
    assert _names(tmp_path) == ["file"]


def test_missing_directory_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        atomic_write(tmp_path / "none" / "file", b"new", 0o640)


def test_files_and_directories_can_be_flushed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    fsync_path(tmp_path / "file")
    fsync_path(tmp_path)
    with pytest.raises(FileNotFoundError):
        fsync_path(tmp_path / "none")
