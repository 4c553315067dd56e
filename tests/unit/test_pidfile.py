from __future__ import annotations

import contextlib
import errno
import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lockfile
import pytest

from tests.harness.waiting import until
from vkteams_daemon.daemon.process import pidfile_holder
from vkteams_daemon.daemon.process.pidfile import PidFile, PidFileLocked
from vkteams_daemon.daemon.process.pidfile_holder import PidFileHolder, doubt, find_holder, read_pid
from vkteams_daemon.errors import AlreadyRunning, CannotCreate, PermissionRefused

ROOT = Path(__file__).parents[2]
_HOLD = """
import sys, time
from pathlib import Path
from vkteams_daemon.daemon.process.pidfile import PidFile
PidFile(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(600)
"""
_AS_VKTEAMSD = "open('/proc/self/comm', 'w').write('vkteamsd')\n"  # as daemon/main.py does
_FLOCK_ONLY = """
import fcntl, os, sys, time
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o644)
fcntl.flock(descriptor, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vkteamsd.pid"


@pytest.fixture
def other(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the PID file."""
    with _python(_HOLD, path) as process:
        yield process


@contextlib.contextmanager
def _python(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that runs the program and has said `held`; it is killed at the end of the block."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_file_is_readable_while_held_and_removed_on_release(path: Path) -> None:
    before = os.umask(0o077)
    try:
        with PidFile(path) as pid_file:
            assert path.read_bytes() == b"%d\n" % os.getpid()
            assert stat.S_IMODE(path.stat().st_mode) == 0o644
            assert pid_file.i_am_locking()
            assert pid_file.is_locked()
            assert pid_file.read_pid() == os.getpid()
        assert not path.exists()
        assert not pid_file.i_am_locking()
    finally:
        os.umask(before)


def test_interface_of_lockfile(path: Path) -> None:
    pid_file = PidFile(path)
    assert isinstance(pid_file, lockfile.LockBase)
    with pytest.raises(lockfile.NotLocked):
        pid_file.release()
    pid_file.acquire()
    pid_file.release()
    assert not pid_file.is_locked()


def test_second_process_is_refused_with_the_holders_pid(path: Path, other: subprocess.Popen[str]) -> None:
    pid_file = PidFile(path)
    with pytest.raises(AlreadyRunning, match=f"process {other.pid} holds") as refusal:
        pid_file.acquire()
    assert refusal.value.pid == other.pid
    assert isinstance(refusal.value, lockfile.AlreadyLocked)
    assert pid_file.is_locked()
    assert not pid_file.i_am_locking()
    with pytest.raises(lockfile.NotMyLock):
        pid_file.release()
    assert read_pid(path) == other.pid


def test_it_waits_for_a_holder_that_leaves_in_time(path: Path) -> None:
    with _python(_HOLD.replace("600", "0.3"), path) as other, PidFile(path, timeout=10.0):
        assert other.wait() == 0
        assert read_pid(path) == os.getpid()


def test_file_of_a_killed_holder_can_be_locked(path: Path, other: subprocess.Popen[str]) -> None:
    other.kill()
    other.wait()
    assert path.exists()
    assert find_holder(path) is None
    with PidFile(path):
        assert find_holder(path) == PidFileHolder(os.getpid())


def test_number_without_a_lock_is_no_holder(path: Path) -> None:
    path.write_text(f"{os.getppid()}\n")
    assert find_holder(path) is None
    with PidFile(path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_longer_old_number_is_overwritten_completely(path: Path) -> None:
    path.write_text("99999999999999999999\n")
    with PidFile(path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_forked_child_does_not_hold_it(path: Path) -> None:
    with PidFile(path) as pid_file:
        child = os.fork()
        if child == 0:
            pid_file.__exit__()
            os._exit(10 if pid_file.i_am_locking() else 20)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 20
        assert path.exists()
        assert pid_file.i_am_locking()


@pytest.mark.parametrize("what", ["link", "fifo", "directory"])
def test_only_a_plain_file_is_accepted(path: Path, tmp_path: Path, what: str) -> None:
    if what == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif what == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert find_holder(path) is None
    with pytest.raises((CannotCreate, PermissionRefused)):
        PidFile(path).acquire()
    assert not (tmp_path / "elsewhere").exists()


def test_error_for_a_missing_directory(path: Path) -> None:
    with pytest.raises(CannotCreate, match=r"run/x.pid: the PID file cannot be made: No such file or directory"):
        PidFile(path.parent / "run" / "x.pid").acquire()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
def test_somebody_elses_file_is_refused(path: Path) -> None:
    path.touch()
    os.chown(path, 65534, 65534)
    with pytest.raises(PermissionRefused, match="belongs to another user"):
        PidFile(path).acquire()


def test_a_full_disk_leaves_no_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(CannotCreate, match="No space left"):
        PidFile(path).acquire()
    assert not path.exists()


def test_file_removed_before_the_lock_is_replaced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between our open and our flock, a daemon that ends removes the file, and another one makes its own."""
    import fcntl

    flock, removed = fcntl.flock, []

    def late(descriptor: int, operation: int) -> None:
        if not removed:
            removed.append(path.stat().st_ino)
            path.rename(path.with_suffix(".old"))  # keeps the inode from being used again
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with PidFile(path):
        assert path.stat().st_ino != removed[0]
        assert find_holder(path) == PidFileHolder(os.getpid())


def test_break_lock_leaves_a_held_file(path: Path, other: subprocess.Popen[str]) -> None:
    with pytest.raises(PidFileLocked):
        PidFile(path).break_lock()
    other.kill()
    other.wait()
    PidFile(path).break_lock()
    assert not path.exists()
    PidFile(path).break_lock()


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_restore_creates_a_removed_file_again(path: Path, how: str) -> None:
    with PidFile(path) as pid_file:
        path.unlink()
        if how == "replaced":
            path.write_text("1\n")
        assert pid_file.restore()
        assert read_pid(path) == os.getpid()
        assert find_holder(path) == PidFileHolder(os.getpid())
        assert pid_file.restore()
    assert not path.exists()


def test_restore_leaves_the_file_of_another_holder(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with PidFile(path) as pid_file:
        path.unlink()
        with _python(_HOLD, path) as other:
            assert not pid_file.restore()
            assert not pid_file.restore()
            assert [record.levelname for record in caplog.records] == ["ERROR"]
            pid_file.release()
            assert find_holder(path) == PidFileHolder(other.pid)
            other.kill()


def test_find_holder_keeps_the_record_lock(path: Path) -> None:
    """Opening and closing the file in the holder's own process would drop its record lock."""
    with PidFile(path):
        assert find_holder(path) == PidFileHolder(os.getpid())
        asking = f"""
from pathlib import Path
from vkteams_daemon.daemon.process import pidfile_holder
pidfile_holder._LOCKS = Path("/nonexistent")
print(pidfile_holder.find_holder(Path({str(path)!r})))
"""
        seen = subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True, cwd=ROOT, check=True)
        assert seen.stdout == f"PidFileHolder(pid={os.getpid()})\n"


def test_a_lock_without_the_record_lock_is_found_in_proc_locks(path: Path) -> None:
    with _python(_FLOCK_ONLY, path) as other:
        assert find_holder(path) == PidFileHolder(other.pid)
    assert find_holder(path) is None


def test_lock_of_another_file_with_the_same_inode_number_counts_for_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user of the daemon may write any number into the file, and choose an inode number on another file system."""
    locks = tmp_path / "locks"
    monkeypatch.setattr(pidfile_holder, "_LOCKS", locks)
    with _python(_FLOCK_ONLY, tmp_path / "elsewhere") as victim:
        path.write_text(f"{victim.pid}\n")
        waiter = "1: -> FLOCK  ADVISORY  WRITE 1 0:1:2 0 EOF"
        locks.write_text(f"1: FLOCK  ADVISORY  WRITE {victim.pid} 00:7f:{path.stat().st_ino} 0 EOF\n{waiter}\n")
        assert find_holder(path) is None
        assert str(doubt(path, victim.pid)).startswith("its name is 'python")


def test_flock_of_this_very_file_is_found_where_device_numbers_differ(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pidfile_holder, "_LOCKS", tmp_path / "locks")
    with _python(_FLOCK_ONLY, path) as other:
        line = f"1: FLOCK  ADVISORY  WRITE {other.pid} 00:7f:{path.stat().st_ino} 0 EOF\n"
        (tmp_path / "locks").write_text(line)
        assert find_holder(path) == PidFileHolder(other.pid)


@pytest.mark.parametrize("program", [_HOLD, _FLOCK_ONLY], ids=["both locks", "flock alone"])
def test_vkteamsd_that_holds_the_lock_is_proven(path: Path, program: str) -> None:
    with _python(_AS_VKTEAMSD + program, path) as process:
        assert doubt(path, process.pid) is None
    with PidFile(path):
        assert doubt(path, os.getpid()) is None


def test_holder_of_another_name_is_not_proven(path: Path, other: subprocess.Popen[str]) -> None:
    assert str(doubt(path, other.pid)).startswith("its name is 'python")


def test_vkteamsd_without_the_lock_is_not_proven(path: Path, tmp_path: Path) -> None:
    with _python(_AS_VKTEAMSD + _HOLD, tmp_path / "another.pid") as process:
        path.write_text(f"{process.pid}\n")
        assert doubt(path, process.pid) == f"it does not hold the lock of {path}"


def test_lock_of_a_file_with_a_second_name_proves_nothing(path: Path, tmp_path: Path) -> None:
    with _python(_AS_VKTEAMSD + _HOLD, tmp_path / "another.pid") as process:
        path.hardlink_to(tmp_path / "another.pid")
        assert doubt(path, process.pid) == f"{path} is no file of its own"


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
@pytest.mark.parametrize("given", ["file", "directory and file"])
def test_vkteamsd_of_another_user_than_the_files_is_not_proven(path: Path, given: str) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    with _python(_AS_VKTEAMSD + _HOLD, path) as victim:
        os.chown(path, nobody, -1)
        if given != "file":
            os.chown(path.parent, nobody, -1)
        assert doubt(path, victim.pid) == f"it does not run as the user that {path} belongs to"


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
def test_vkteamsd_of_another_user_than_the_directorys_is_not_proven(open_tmp: Path) -> None:
    path = open_tmp / "vkteamsd.pid"
    path.touch()
    os.chown(path, pwd.getpwnam("nobody").pw_uid, -1)
    become = f"import os; os.setuid({pwd.getpwnam('nobody').pw_uid})\n"
    # What this user cannot read is imported before.
    program = "from vkteams_daemon.daemon.process.pidfile import PidFile\n" + _AS_VKTEAMSD + become + _HOLD
    with _python(program, path) as process:
        assert doubt(path, process.pid) is None, "the directory is root's"
        os.chown(open_tmp, pwd.getpwnam("daemon").pw_uid, -1)
        assert doubt(path, process.pid) == f"it does not run as the user that {open_tmp} belongs to"


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a PID namespace")
def test_holder_in_another_pid_namespace_has_no_pid(path: Path, other: subprocess.Popen[str]) -> None:
    asking = f"""
from pathlib import Path
from vkteams_daemon.daemon.process.pidfile_holder import find_holder
print(find_holder(Path({str(path)!r})))
"""
    inside = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", asking]
    seen = subprocess.run(inside, capture_output=True, text=True, cwd=ROOT, check=False)
    if "unshare failed" in seen.stderr:
        pytest.skip("this root may not make namespaces")
    assert seen.stdout == "PidFileHolder(pid=None)\n"
    assert find_holder(path) == PidFileHolder(other.pid)


def test_one_of_many_processes_holds_it_at_a_time(path: Path, tmp_path: Path) -> None:
    """Each of them takes and leaves it again and again; whoever has it makes a file that must not be there yet."""
    program = """
import os, sys, time
from pathlib import Path
from vkteams_daemon.daemon.process.pidfile import PidFile, PidFileLocked
path, marker = Path(sys.argv[1]), Path(sys.argv[2])
turns, end = 0, time.monotonic() + 1.0
while time.monotonic() < end or turns < 5:
    try:
        with PidFile(path):
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
            marker.unlink()
            turns += 1
    except PidFileLocked:
        pass
print(turns)
"""
    command = [sys.executable, "-c", program, str(path), str(tmp_path / "marker")]
    crowd = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(6)]
    turns = []
    for process in crowd:
        said, _ = process.communicate()
        assert process.returncode == 0
        turns.append(int(said))
    assert all(turn >= 5 for turn in turns)
    until(lambda: not path.exists(), what="the last one's file to go")
