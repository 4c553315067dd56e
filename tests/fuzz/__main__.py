"""Runs the fuzzer: `python -m tests.fuzz [--seconds N] [TARGET …]`, or one file again: `… TARGET --file FILE`.

Each target runs in a process of its own, for N seconds. What it finds is written to `tests/fuzz/found/TARGET/`, and
`make test` calls the target with it from then on. What has led to new code is kept in `build/fuzz/` for the next run.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOUND = ROOT / "tests" / "fuzz" / "found"
WORK = ROOT / "build" / "fuzz"
NAMES = ("answers", "storing", "configuration", "spool", "acknowledged", "cursors", "words", "mcp")
LONGEST = 20  # seconds of one call; a longer one is a finding
MEMORY = 2048  # MB


def main() -> int:
    """Run what the command line names; 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(NAMES)}; all of them by default")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument("--file", type=Path, help="call the target with this file, once and without the fuzzer")
    parser.add_argument("--in", dest="place", nargs=2, metavar=("DIRECTORY", "URL"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    targets = arguments.targets or list(NAMES)
    for name in targets:
        if name not in NAMES:
            parser.error(f"there is no target {name}")
    if arguments.place:
        _fuzz(targets[0], Path(arguments.place[0]), arguments.place[1], arguments.seconds)
    if arguments.file:
        with _place(targets[0]) as (directory, url):
            from tests.fuzz.targets import TARGETS, Place

            with TARGETS[targets[0]].open(Place(directory, url)) as check:
                check(arguments.file.read_bytes())
        return 0
    failed = [name for name in targets if not _run(name, arguments.seconds)]
    for name in failed:
        newest = max((FOUND / name).glob("*"), key=lambda file: file.stat().st_mtime, default=None)
        print(f"{name}: found {newest}; again: {sys.executable} -m tests.fuzz {name} --file {newest}")
    return 1 if failed else 0


def _run(name: str, seconds: int) -> bool:
    """Fuzz one target in a process of its own; whether nothing was found."""
    print(f"== {name}: {seconds} s", flush=True)
    (FOUND / name).mkdir(parents=True, exist_ok=True)
    with _place(name) as (directory, url):
        command = [sys.executable, "-m", "tests.fuzz", name, "--seconds", str(seconds), "--in", str(directory), url]
        ended = subprocess.run(command, cwd=ROOT, check=False).returncode
    with contextlib.suppress(OSError):
        (FOUND / name).rmdir()  # where nothing was ever found
    return ended == 0


@contextlib.contextmanager
def _place(name: str) -> Iterator[tuple[Path, str]]:
    """An empty directory and an empty archive, or "" for a target that needs none."""
    from tests.fuzz.targets import TARGETS
    from tests.harness.postgres import PostgresServer

    with tempfile.TemporaryDirectory(prefix="vkteams-fuzz-", dir="/tmp") as temporary:
        directory = Path(temporary)
        directory.chmod(0o711)
        (directory / "work").mkdir()
        if not TARGETS[name].archive:
            yield directory / "work", ""
            return
        server = PostgresServer(directory, durable=False)
        server.start()
        try:
            with server.fresh() as url:
                yield directory / "work", url
        finally:
            server.stop("immediate")


def _fuzz(name: str, directory: Path, url: str, seconds: int) -> None:
    """Fuzz one target in this process; never returns."""
    import atheris

    with atheris.instrument_imports(include=["vkteams_daemon"]):
        from tests.fuzz.targets import TARGETS, Place
    logging.disable(logging.CRITICAL)
    target = TARGETS[name]
    corpus, seeds, words = WORK / name / "corpus", WORK / name / "seeds", WORK / name / "words"
    for each in (corpus, seeds):
        each.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (seeds / str(number)).write_bytes(seed)
    options = [f"-max_total_time={seconds}", f"-timeout={LONGEST}", f"-rss_limit_mb={MEMORY}",
               f"-artifact_prefix={FOUND / name}/", "-max_len=4096", "-print_final_stats=1"]  # fmt: skip
    if lines := [f'"{_escaped(word)}"\n' for word in target.words() if word]:
        words.write_text("".join(lines), encoding="ascii")
        options.append(f"-dict={words}")
    found = [str(FOUND / name)] if any((FOUND / name).iterdir()) else []
    with target.open(Place(directory, url)) as check:
        atheris.Setup([sys.argv[0], *options, str(corpus), str(seeds), *found], lambda data: check(data) and None)
        atheris.Fuzz()


def _escaped(word: bytes) -> str:
    """A word as libFuzzer's dictionaries have it."""
    return "".join(chr(one) if 32 <= one < 127 and one not in (34, 92) else f"\\x{one:02x}" for one in word)


if __name__ == "__main__":
    sys.exit(main())
