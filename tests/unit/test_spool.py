"""The spool's file: what was appended comes back as the same events, whatever the disk and the process went through."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.harness.batches import batch, new
from tests.harness.hostile import FRAGMENTS
from vkteams_daemon import options
from vkteams_daemon.botapi.events import Event
from vkteams_daemon.daemon.polling import spool as module
from vkteams_daemon.daemon.polling import spool_records
from vkteams_daemon.daemon.polling.spool import Spool, SpoolRefused
from vkteams_daemon.daemon.polling.spooler import Spooler, make_spooler
from vkteams_daemon.options import Config

BOT = "1000000001"
Open = Callable[..., Spool]


@pytest.fixture
def open_spool(tmp_path: Path) -> Any:
    """Opens the spool of this test's directory, as a new process would."""
    opened: list[Spool] = []

    def make(bot: str = BOT, max_bytes: int = 1 << 20) -> Spool:
        for earlier in opened:
            earlier.close()
        opened.append(Spool(tmp_path, bot, max_bytes=max_bytes))
        return opened[-1]

    yield make
    for spool in opened:
        spool.close()


def put_aside(directory: Path) -> list[Path]:
    """The files that were put aside, as `diagnostic health` finds them."""
    return sorted(directory.glob("*.spool.aside-*"))


def drained(spool: Spool) -> list[Event]:
    """Everything in it, taken out as a database would."""
    events: list[Event] = []
    while (pending := spool.next_batch()) is not None:
        events += pending.events
        spool.discard_batch()
    return events


def filled(spool: Spool, answers: int = 3) -> list[Event]:
    """Some answers of two events each, appended."""
    events: list[Event] = []
    for n in range(1, 2 * answers, 2):
        answer = batch(new(n), new(n + 1))
        spool.append(answer, 1, n - 1)
        events += answer
    return events


def test_what_was_appended_comes_back_after_a_restart(open_spool: Open) -> None:
    events = filled(open_spool())
    spool = open_spool()
    assert (spool.events, spool.last_event_id, spool.generation) == (6, 6, 1)
    assert spool.since is not None
    assert spool.size == spool.path.stat().st_size
    assert drained(spool) == events
    assert (spool.events, spool.size, spool.last_event_id, spool.since) == (0, 0, None, None)
    assert not spool.path.exists()


def test_the_file_is_for_the_daemon_and_its_group(open_spool: Open) -> None:
    spool = open_spool()
    assert not spool.path.exists(), "nothing waits"
    before = os.umask(0)
    try:
        filled(spool)
    finally:
        os.umask(before)
    assert spool.path.stat().st_mode & 0o777 == 0o640


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(fragments=st.lists(st.sampled_from(sorted(FRAGMENTS)), min_size=1, max_size=3))
def test_hostile_events_come_back_as_they_were(tmp_path: Path, fragments: list[str]) -> None:
    texts = [
        b'{"eventId":%d,"type":"newMessage","more":%s,"payload":{"msgId":"%d","text":%s}}'
        % (n, FRAGMENTS[name], n, FRAGMENTS[name])
        for n, name in enumerate(fragments, 1)
    ]
    events = batch(*(text.decode("utf-8", "surrogateescape") for text in texts))
    spool = Spool(tmp_path, BOT, max_bytes=1 << 26)
    if sorted(e.event_id for e in events if e.numbered) == []:
        return
    spool.append(events, 1, 0)
    assert drained(spool) == events
    spool.close()


def test_the_disk_has_it_before_append_returns(open_spool: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fsync sees the whole record, and the name of the file is on the disk as well."""
    synced: list[tuple[int, int]] = []
    fsync = os.fsync

    def recording(descriptor: int) -> None:
        stat = os.fstat(descriptor)
        synced.append((stat.st_ino, stat.st_size))
        fsync(descriptor)

    spool = open_spool()
    monkeypatch.setattr(os, "fsync", recording)
    for n in (1, 2):
        spool.append(batch(new(n)), 1, n - 1)
        assert synced[-1] == (spool.path.stat().st_ino, spool.path.stat().st_size)
        assert spool.path.parent.stat().st_ino in {inode for inode, _ in synced}


def test_a_record_that_a_dead_process_wrote_is_on_the_disk_before_it_counts(
    open_spool: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(open_spool())
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    spool = open_spool()
    assert synced == [spool.size]


def test_a_torn_end_is_cut_at_the_last_whole_record(open_spool: Open) -> None:
    """Wherever the last record was torn: what went before it is there, and goes on from there."""
    spool = open_spool()
    events = filled(spool, 2)
    whole = spool.path.read_bytes()
    spool.append(batch(new(5)), 1, 4)
    torn = spool.path.read_bytes()
    for end in range(len(whole), len(torn)):
        for rest in (torn[:end], torn[:end] + bytes(len(torn) - end)):
            spool.path.write_bytes(rest)
            again = open_spool()
            assert (again.events, again.last_event_id) == (4, 4)
            assert again.path.stat().st_size == len(whole)
            again.close()
    again = open_spool()
    last = batch(new(5))
    again.append(last, 1, 4)
    assert drained(again) == events + last


def test_a_file_whose_beginning_was_torn_holds_nothing(open_spool: Open) -> None:
    spool = open_spool()
    filled(spool, 1)
    start = spool.path.read_bytes()
    header = spool_records.HEAD.size + spool_records.HEAD.unpack(start[: spool_records.HEAD.size])[1]
    for size in (*range(spool_records.HEAD.size + 1), header):
        spool.path.write_bytes(start[:size])
        assert open_spool().events == 0
        assert not spool.path.exists()
    assert put_aside(spool.path.parent) == []


def test_damage_in_the_middle_costs_one_record_and_the_file_stays(
    open_spool: Open, caplog: pytest.LogCaptureFixture
) -> None:
    spool = open_spool()
    spool.append(batch(new(1)), 1, 0)
    at = spool.size
    spool.append(batch(new(2)), 1, 1)
    spool.append(batch(new(3)), 1, 2)
    content = bytearray(spool.path.read_bytes())
    for place in (at, at + 5, at + 9, at + 40):  # mark, length, checksum, content
        bad = content.copy()
        bad[place] ^= 0xFF
        spool.path.write_bytes(bad)
        again = open_spool()
        assert [event.event_id for event in drained(again)] == [1, 3]
        [aside] = put_aside(spool.path.parent)
        assert aside.read_bytes() == bad
        assert "damaged" in caplog.text
        aside.unlink()


@pytest.mark.parametrize("content", [b"not a spool at all, but long enough", b"\0" * 100])
def test_what_is_no_spool_is_put_aside(
    open_spool: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / f"{BOT}.spool").write_bytes(content)
    spool = open_spool()
    assert spool.events == 0
    [aside] = put_aside(tmp_path)
    assert aside.read_bytes() == content
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1
    assert len(filled(spool)) == 6


@given(line=st.binary(max_size=60), body=st.binary(max_size=60), first=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_a_record_with_a_right_checksum_and_wrong_contents_ends_nothing(
    tmp_path: Path, line: bytes, body: bytes, first: bool
) -> None:
    """A later version may have written it, or somebody who wants the daemon to fail."""
    path = tmp_path / f"{BOT}.spool"
    spool = Spool(tmp_path, BOT, max_bytes=1 << 20)
    events = filled(spool, 1)
    spool.close()
    content = line + b"\n" + body
    crafted = spool_records.encode(content)
    path.write_bytes(crafted + path.read_bytes() if first else path.read_bytes() + crafted)
    spool = Spool(tmp_path, BOT, max_bytes=1 << 20)
    assert drained(spool) == ([] if first else events)
    spool.close()
    [aside] = put_aside(tmp_path)
    aside.unlink()


@pytest.mark.parametrize(
    "line", [b'{"generation":1,"after":0,"last_event_id":9,"events":%d,"received_at":"2026-01-01T00:00:00Z"}' % count
             for count in (0, 1, 99)],
)  # fmt: skip
def test_a_count_that_is_wrong_costs_no_event(open_spool: Open, line: bytes) -> None:
    spool = open_spool()
    spool.append(batch(new(7)), 1, 6)
    content = line + b'\n{"events":[' + json.dumps(new(8)).encode() + b"," + json.dumps(new(9)).encode() + b"]}"
    crafted = spool_records.encode(content)
    spool.path.write_bytes(spool.path.read_bytes() + crafted)
    again = open_spool()
    again.append(batch(new(10)), 1, 9)
    assert [event.event_id for event in drained(again)] == [7, 8, 9, 10]


def test_a_file_that_somebody_has_removed_takes_nothing_more(open_spool: Open) -> None:
    """What is written into it would be gone with this process."""
    spool = open_spool()
    events = filled(spool, 1)
    spool.path.unlink()
    with pytest.raises(SpoolRefused, match="was removed"):
        spool.append(batch(new(3)), 1, 2)
    assert drained(spool) == events, "this process still has it"
    spool.append(batch(new(3)), 1, 2)
    assert open_spool().events == 1


def test_another_bots_spool_stays_where_it_is(open_spool: Open) -> None:
    """Its events were acknowledged: they wait until the daemon listens to that bot again."""
    other = open_spool("2000000002")
    events = filled(other)
    assert open_spool().events == 0
    assert drained(open_spool("2000000002")) == events


def test_a_spool_that_says_it_is_another_bots_is_put_aside(open_spool: Open, tmp_path: Path) -> None:
    other = open_spool("2000000002")
    filled(other)
    other.path.rename(tmp_path / f"{BOT}.spool")
    assert open_spool().events == 0
    assert len(put_aside(tmp_path)) == 1


def test_a_link_is_not_followed(open_spool: Open, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"precious")
    (tmp_path / f"{BOT}.spool").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SpoolRefused, match="cannot be opened"):
        open_spool()
    assert (tmp_path / "elsewhere").read_bytes() == b"precious"


def test_two_processes_do_not_write_one_spool(open_spool: Open, tmp_path: Path) -> None:
    filled(open_spool())
    with pytest.raises(SpoolRefused, match="another process writes the spool"):
        Spool(tmp_path, BOT, max_bytes=1 << 20)


@pytest.mark.parametrize("ids", [(7,), (6, 8), (9, 8), ("none",)])
def test_ids_that_do_not_ascend_are_refused(open_spool: Open, ids: tuple[Any, ...]) -> None:
    """The order of ids tells of restarts, and only the database can tell which."""
    spool = open_spool()
    spool.append(batch(new(7)), 1, 6)
    before = spool.path.read_bytes()
    with pytest.raises(SpoolRefused, match="do not ascend from 7"):
        spool.append(batch(*map(new, ids)), 1, 7)
    assert spool.path.read_bytes() == before
    assert (spool.events, spool.last_event_id) == (1, 7)


def test_a_late_event_is_no_beginning_of_a_spool(open_spool: Open) -> None:
    with pytest.raises(SpoolRefused, match="do not ascend from 9"):
        open_spool().append(batch(new(8)), 1, 9)


def test_an_event_without_an_id_goes_with_its_answer(open_spool: Open) -> None:
    spool = open_spool()
    answer = batch(new(1), new("none", "x"), new(2), new(2, "twin"))
    spool.append(answer, 1, 0)
    assert spool.last_event_id == 2
    assert drained(open_spool()) == answer


def test_a_full_spool_refuses_and_keeps_what_it_has(open_spool: Open) -> None:
    spool = open_spool(max_bytes=4096)
    n = 0
    with pytest.raises(SpoolRefused, match=r"is full \(4096 bytes\)"):
        while True:
            spool.append(batch(new(n + 1, text="x" * 200)), 1, n)
            n += 1
    assert 3000 < spool.path.stat().st_size == spool.size <= 4096
    spool.max_bytes = 8192
    spool.append(batch(new(n + 1)), 1, n)
    assert len(drained(open_spool())) == n + 1


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
@pytest.mark.parametrize("first", [True, False], ids=["the first", "a later one"])
def test_a_disk_that_refuses_leaves_the_spool_as_it_was(
    open_spool: Open, monkeypatch: pytest.MonkeyPatch, call: str, first: bool
) -> None:
    """A part of the record may have been written; the next attempt writes it whole."""
    spool = open_spool()
    events = [] if first else filled(spool, 1)
    size, last = spool.size, spool.last_event_id or 0
    real = getattr(os, call)

    def refusing(descriptor: int, *arguments: Any) -> int:
        if call == "pwrite":
            content, at = arguments
            os.ftruncate(descriptor, at)
            real(descriptor, content[: len(content) // 2], at)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    answer = batch(new(last + 1), new(last + 2))
    with monkeypatch.context() as patch:
        patch.setattr(os, call, refusing)
        with pytest.raises(SpoolRefused, match="No space left on device"):
            spool.append(answer, 1, last)
    assert (spool.size, spool.events) == (size, len(events))
    assert spool.path.exists() != first
    assert first or spool.path.stat().st_size == size
    spool.append(answer, 1, last)
    assert drained(open_spool()) == events + answer


def test_a_crash_between_commit_and_removal_brings_everything_again(open_spool: Open) -> None:
    """The database recognises it as stored."""
    spool = open_spool()
    events = filled(spool)
    assert spool.next_batch() is not None
    assert drained(open_spool()) == events


def test_what_is_appended_while_it_goes_in_goes_in_last(open_spool: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    spool = open_spool()
    events = filled(spool)
    first = spool.next_batch()
    assert first is not None
    assert first.events == events[:2]
    spool.discard_batch()
    assert spool.events == 4
    last = batch(new(7))
    spool.append(last, 1, 6)
    assert spool.path.exists()
    assert drained(spool) == events[2:] + last
    assert not spool.path.exists()


def test_a_batch_is_of_one_generation(open_spool: Open) -> None:
    spool = open_spool()
    spool.append(batch(new(1)), 1, 0)
    spool.append(batch(new(2)), 2, 1)
    pending = spool.next_batch()
    assert pending is not None
    assert (pending.generation, len(pending.events)) == (1, 1)
    spool.discard_batch()
    pending = spool.next_batch()
    assert pending is not None
    assert (pending.generation, len(pending.events)) == (2, 1)


def test_what_was_put_aside_is_no_older_than_the_archive_may_be(tmp_path: Path) -> None:
    old, fresh = tmp_path / "1.spool.aside-20260101T000000", tmp_path / "1.spool.aside-20260102T000000"
    for path, age in ((old, 100.0), (fresh, 10.0), (tmp_path / "1.spool", 100.0)):
        path.touch()
        os.utime(path, (time.time() - age, time.time() - age))
    module.delete_aside(tmp_path, datetime.now(UTC) - timedelta(seconds=50))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.spool", fresh.name]


@pytest.mark.parametrize(
    ("url", "single", "after", "expected"),
    [("", False, 60, 60), ("postgresql://db", False, 60, 0), ("postgresql://db", True, 60, 60), ("", True, 0, 0)],
    ids=["bundled", "own", "own, single host", "never"],
)
def test_who_may_spool(url: str, single: bool, after: float, expected: float) -> None:
    """Only a process that nobody on another host can take over from."""
    config = Config(
        database=options.Database(url=url),
        daemon=options.Daemon(single_host=single),
        storage=options.Storage(spool_after=after),
    )
    spooler = Spooler()
    spooler.configure(config)
    assert spooler.after == expected


def test_a_reload_changes_the_size_of_an_open_spool(tmp_path: Path) -> None:
    spooler = Spooler(tmp_path, max_bytes=1)
    spooler.open(BOT)
    spooler.configure(Config(storage=options.Storage(spool_max_bytes=2)))
    assert spooler.spool and spooler.spool.max_bytes == 2
    spooler.close()


def test_no_save_has_no_spool(tmp_path: Path) -> None:
    config = Config(daemon=options.Daemon(state_dir=str(tmp_path)), storage=options.Storage(save=False))
    spooler = make_spooler(config)
    spooler.open(BOT)
    assert spooler.spool is None


_WRITER = """
import sys
from pathlib import Path
from tests.harness.batches import batch, new
from vkteams_daemon.daemon.polling.spool import Spool

spool = Spool(Path(sys.argv[1]), sys.argv[2], max_bytes=1 << 26)
last = spool.last_event_id or 0
print("ready", flush=True)
while True:
    spool.append(batch(new(last + 1), new(last + 2, text="слово " * (last % 50))), 1, last)
    last += 2
    print(last, flush=True)
"""


def test_kill_9_at_any_moment_keeps_what_was_acknowledged(open_spool: Open, tmp_path: Path) -> None:
    """Real processes that append as fast as they can: what one has said to be safe is there for the next."""
    acknowledged = 0
    for round_ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path), BOT], stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        # The kill meets the writer after a number of appends, whatever the machine's pace.
        lines = [process.stdout.readline() for _ in range(5 * round_)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.read().split()
        process.stdout.close()
        process.wait()
        acknowledged = max([acknowledged, *map(int, lines)])
        spool = open_spool()
        assert (spool.last_event_id or 0) >= acknowledged
        acknowledged = spool.last_event_id or 0
        spool.close()
    ids = [event.event_id for event in drained(open_spool())]
    assert ids == list(range(1, acknowledged + 1))
    assert acknowledged >= 2 * sum(5 * round_ for round_ in range(6))
