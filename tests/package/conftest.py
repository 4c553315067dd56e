"""The package as it was built, the disk that it is installed on, and machines with it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.package.machine import Machine, machine
from tests.package.service import Service

PROJECT = Path(__file__).parents[2]
ROOT = PROJECT / "build" / "package" / "root"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever only runs the test suite is not made to build a package first."""
    missing = _missing()
    if missing:
        for item in items:
            if Path(__file__).parent in item.path.parents and "needs_package" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.skip(reason=missing))


def _missing() -> str:
    if os.environ.get("PACKAGE_TEST") != "1":
        return "`make package-test` builds the package and runs this"
    if os.geteuid() != 0:
        return "only root can make the machines"
    if subprocess.run(["unshare", "--mount", "--pid", "--net", "--fork", "true"], check=False).returncode:
        return "this machine lets root make no namespaces"
    if not ROOT.is_dir():
        return f"{ROOT} is not there: tests/package/make-root makes it"
    return "" if list((PROJECT / "dist").glob("*.deb")) else "dist/ holds no package: make deb"


@pytest.fixture(scope="session")
def needs_package() -> None:
    """Marks what is about the built package; see _missing."""


@pytest.fixture(scope="session")
def package(needs_package: None) -> Path:
    """The package."""
    return max((PROJECT / "dist").glob("vkteams-daemon_*.deb"))


@pytest.fixture(scope="session")
def disks(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """The disks of a machine on which the package was installed and nothing was configured; `install.log` says how."""
    place = tmp_path_factory.mktemp("installed") / "machine"
    with machine([ROOT], place) as made:
        shutil.copy(package, made.root / "root" / "package.deb")
        said = made.done("apt-get install -y /root/package.deb")
        made.write("/root/install.log", said)
        # There is no init there that would say at which run level services may start.
        made.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 0\n", 0o755)
        made.done("useradd --create-home anna && useradd --create-home --groups vkteams-readers boris")
        made.close()
        # The layer is read from now on, never written.
        yield [made.layer, ROOT]


@pytest.fixture(scope="session")
def configured(disks: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """The disks of a machine on which it was then configured, started for the first time and stopped."""
    place = tmp_path_factory.mktemp("configured") / "machine"
    with machine(disks, place) as made:
        Service(made).configured().started()
        made.done("service vkteamsd stop")
        made.close()
        yield [made.layer, *disks]


@pytest.fixture
def bare(disks: list[Path], tmp_path: Path) -> Iterator[Machine]:
    """A machine with the package, as the installation left it; anna is a user, boris a reader."""
    with machine(disks, tmp_path / "machine") as made:
        yield made


@pytest.fixture
def service(configured: list[Path], tmp_path: Path) -> Iterator[Service]:
    """The service on a machine where it has run before, configured for a simulator there; neither is started."""
    with machine(configured, tmp_path / "machine") as made:
        yield Service(made)


@pytest.fixture(scope="session")
def later(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same package as a later version whose configuration file has changed."""
    place = tmp_path_factory.mktemp("later")
    tree, file = place / "tree", place / "later.deb"
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    control = tree / "DEBIAN" / "control"
    control.write_text(re.sub(r"(?m)^(Version: .*)$", r"\1+later", control.read_text()))
    with (tree / "etc" / "vkteams" / "vkteamsd.toml").open("a") as conffile:
        conffile.write("# As the later version has it.\n")
    subprocess.run(["dpkg-deb", "-Znone", "--build", tree, file], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)
    yield file
    file.unlink()
