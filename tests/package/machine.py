"""A machine of its own for every test: a small Debian in namespaces of this one, with loopback for a network.

What a test does there is written into a layer over the machine's disk (overlayfs), so a machine is there at once,
starts as all others do, and leaves nothing behind. Nothing on it reaches any network.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.harness.waiting import until

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAMESPACES = ("--mount", "--pid", "--net", "--ipc", "--uts")
# A test run that is killed takes its machines with it.
_WITH_US = ("setpriv", "--pdeathsig", "KILL", "unshare")
# Run in the new namespaces before the change of root: the disk, what the kernel shows, and loopback.
_BOOT = """
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$UPPER,workdir=$WORK" "$ROOT"
mount -t proc proc "$ROOT/proc"
mount -t tmpfs -o mode=755 tmpfs "$ROOT/run"
mount -t tmpfs -o mode=1777 tmpfs "$ROOT/tmp"
mount -t tmpfs -o mode=755 tmpfs "$ROOT/dev"
mkdir "$ROOT/dev/shm" "$ROOT/dev/pts" && chmod 1777 "$ROOT/dev/shm"
for device in null zero full random urandom tty; do
    touch "$ROOT/dev/$device"
    mount --bind "/dev/$device" "$ROOT/dev/$device"
done
mount -t devpts -o newinstance,ptmxmode=666 devpts "$ROOT/dev/pts"
ln -s pts/ptmx "$ROOT/dev/ptmx"
ln -s /proc/self/fd "$ROOT/dev/fd"
ln -s fd/0 "$ROOT/dev/stdin"
ln -s fd/1 "$ROOT/dev/stdout"
ln -s fd/2 "$ROOT/dev/stderr"
ip link set lo up 2> /dev/null || python3 -c "$LOOPBACK"
hostname package-test
"""
_PLAIN = """
cp "$REAPER" "$ROOT/run/reaper.py"
exec chroot "$ROOT" python3 /run/reaper.py
"""
# systemd as on any machine: what it mounts for a service must spread (shared), and it has a control group for its own.
_SYSTEMD = """
mount -t sysfs sysfs "$ROOT/sys"
mount -t cgroup2 cgroup2 "$ROOT/sys/fs/cgroup"
mount --make-rshared "$ROOT"
echo 0123456789abcdef0123456789abcdef > "$ROOT/etc/machine-id"
container=other exec chroot "$ROOT" /lib/systemd/systemd --system --unit=multi-user.target
"""
# The control group has to be there before the namespace, whose root it becomes.
_GROUPED = """
mkdir "$WORK/groups"
mount -t cgroup2 cgroup2 "$WORK/groups"
mkdir "$WORK/groups/$GROUP"
echo $$ > "$WORK/groups/$GROUP/cgroup.procs"
umount "$WORK/groups"
exec unshare "$@"
"""
_UNGROUPED = """
mount -t cgroup2 cgroup2 "$1"
find "$1/$2" -depth -type d -exec rmdir {} +
"""
# The same as `ip link set lo up` where there is no ip: SIOCSIFFLAGS with IFF_UP | IFF_RUNNING (netdevice(7)).
_LOOPBACK = """
import fcntl, socket, struct
with socket.socket() as end:
    fcntl.ioctl(end, 0x8914, struct.pack("16sh14x", b"lo", 0x41))
"""


class Machine:
    """One running machine.

    Args:
        disks: the directories that its disk consists of, the uppermost first.
        directory: an empty one for what it writes; kept after the end.
        systemd: let systemd be its first process, in place of one that only collects the dead.
        network: let it have this machine's network, and with it what vouches for others there.
    """

    def __init__(self, disks: Sequence[Path], directory: Path, *, systemd: bool = False, network: bool = False) -> None:
        self.layer = directory / "layer"
        for path in (self.layer, directory / "work", directory / "root"):
            path.mkdir(parents=True)
        environ = {
            "PATH": _PATH,
            "LOWER": ":".join(str(disk.absolute()) for disk in disks),
            "UPPER": str(self.layer),
            "WORK": str(directory / "work"),
            "ROOT": str(directory / "root"),
            "LOOPBACK": _LOOPBACK,
            "REAPER": str(Path(__file__).with_name("reaper.py")),
            "GROUP": f"package-test-{os.getpid()}-{id(self)}",
        }
        self._group = environ["GROUP"] if systemd else None
        self._namespaces = (*_NAMESPACES, "--cgroup") if systemd else _NAMESPACES
        if network:
            self._namespaces = tuple(name for name in self._namespaces if name != "--net")
        boot = _BOOT + (_SYSTEMD if systemd else _PLAIN)
        begin = [*self._namespaces, "--fork", "--kill-child", "sh", "-eu", "-c", boot]
        self._directory = directory
        self._spawned: list[subprocess.Popen[bytes]] = []
        self._unshare = subprocess.Popen(
            [*_WITH_US, *(["--mount", "sh", "-eu", "-c", _GROUPED, "sh", *begin] if systemd else begin)],
            env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._first = until(self._find_first, 30.0, "the machine's first process")

    @property
    def root(self) -> Path:
        """Its file system, seen from here."""
        return Path(f"/proc/{self._first}/root")

    def run(
        self, command: str, *, user: str = "root", stdin: str = "", timeout: float = 240.0, env: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a line of shell on it as that user; what came of it, standard output and error in one."""
        return subprocess.run(
            self._entered(command, user, env), text=True, input=stdin, check=False, timeout=timeout,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace",
        )  # fmt: skip

    def done(self, command: str, **settings: object) -> str:
        """Run it, and see that it succeeds; what it printed."""
        ran = self.run(command, **settings)  # type: ignore[arg-type]
        assert ran.returncode == 0, f"{command}: {ran.returncode}\n{ran.stdout}"
        return ran.stdout

    def spawn(self, command: str, *, user: str = "root") -> None:
        """Start it in the background; it ends with the machine."""
        null = subprocess.DEVNULL
        started = subprocess.Popen(self._entered(f"exec {command}", user, ""), stdin=null, stdout=null, stderr=null)
        self._spawned.append(started)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file on its disk; one that is there keeps owner and mode."""
        file = self.root / path.lstrip("/")
        fresh = not file.exists()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        if fresh:
            file.chmod(mode)

    def read(self, path: str) -> str:
        """The text of a file on its disk."""
        return (self.root / path.lstrip("/")).read_text(encoding="utf-8", errors="replace")

    def exists(self, path: str) -> bool:
        """Whether there is something of that name, be it a dangling link."""
        return os.path.lexists(self.root / path.lstrip("/"))

    def close(self) -> None:
        """Switch it off: every process on it ends."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._first, signal.SIGKILL)
        for process in (self._unshare, *self._spawned):
            process.wait(30)
        if self._unshare.stdout:
            self._unshare.stdout.close()
        if self._group:
            place = self._directory / "groups"
            place.mkdir()
            subprocess.run(["unshare", "--mount", "sh", "-c", _UNGROUPED, "sh", place, self._group], check=False)
        shutil.rmtree(self._directory / "work", ignore_errors=True)

    def _find_first(self) -> int | None:
        """The machine's process 1, once it has become what it is to be."""
        if self._unshare.poll() is not None:
            assert self._unshare.stdout
            raise AssertionError(f"the machine does not start: {self._unshare.stdout.read().decode()}")
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children").read_text().split()
        for child in children:
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/root").readlink() != Path("/"):
                    return int(child)
        return None

    def _entered(self, command: str, user: str, env: str) -> list[str]:
        """The command line that runs it there, with the environment of a plain login."""
        become = ["runuser", "-u", user, "--"] if user != "root" else []
        home = "/root" if user == "root" else f"/home/{user}"
        plain = ["env", "-i", f"PATH={_PATH}", f"HOME={home}", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"]
        enter = ["nsenter", "--target", str(self._first), "--root", "--wdns=/", *self._namespaces]
        return [*enter, *become, *plain, *env.split(), "sh", "-c", command]


@contextlib.contextmanager
def machine(disks: Sequence[Path], directory: Path, *, systemd: bool = False) -> Iterator[Machine]:
    """A machine that is switched off at the end, its layer removed."""
    made = Machine(disks, directory, systemd=systemd)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(directory, ignore_errors=True)
