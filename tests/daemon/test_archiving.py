"""The main job, end to end: from events/get to rows and vectors, by the real daemon."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
import termios
from collections.abc import Callable
from pathlib import Path

from tests.harness.daemon import DaemonProcess
from tests.harness.oracle import BOT, Oracle
from tests.harness.waiting import until
from vkteams_daemon.simulator import Simulator
from vkteams_daemon.simulator.event_log import Draft

Make = Callable[..., DaemonProcess]

OPS, SALES = "681869378@chat.agent", "681869379@chat.agent"
ANNA, PETR = "a.ivanova@corp.example", "p.petrov@corp.example"


def _say(simulator: Simulator, count: int, chat_id: str = OPS) -> None:
    for number in range(count):
        simulator.say(chat_id, (ANNA, PETR)[number % 2], f"сообщение {number} из чата {chat_id}")


def test_messages_are_stored_and_embedded(
    vkteamsd: Make, simulator: Simulator, oracle: Oracle, models_dir: Path
) -> None:
    _say(simulator, 5)
    daemon = vkteamsd(
        api_url=simulator.url, database_url=oracle.url, options={"embedding.models_dir": str(models_dir)}
    ).started()
    _say(simulator, 5, SALES)
    oracle.wait()
    embedded = "SELECT count(*) FROM embeddings"
    until(lambda: oracle.rows(embedded)[0][0] == 10, 30, "ten vectors")
    oracle.check()
    assert oracle.rows("SELECT bot_id, nick, generation, last_event_id FROM bots") == [(BOT, "opsbot", 1, 10)]
    until(lambda: (s := daemon.status()) and s.events.saved == 10 and s.events.last_event_id == 10, 30, "ten saved")
    until(lambda: (s := daemon.status()) and s.embedding.embedded == 10 and s.embedding.queued == 0, 30, "ten embedded")
    assert daemon.stop() < 5
    assert not daemon.pid_file.exists()
    assert daemon.ctl("daemon", "status").returncode == 3


def test_ten_thousand_events_at_once(vkteamsd: Make, simulator: Simulator, oracle: Oracle) -> None:
    payload = simulator.say(OPS, ANNA, "первое")["payload"]
    texts = [payload | {"msgId": str(7576322310144100000 + n), "text": f"сообщение {n}"} for n in range(9_999)]
    simulator.issue([Draft("newMessage", text) for text in texts])
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url).started()
    oracle.wait()
    oracle.check()
    polls = sum(entry.kind == "poll" for entry in simulator.log())
    # Every row carries the transaction that wrote it.
    assert oracle.rows("SELECT count(DISTINCT xmin::text) FROM events")[0][0] <= polls
    assert daemon.stop() < 5


def test_without_a_model_the_archive_still_runs(vkteamsd: Make, simulator: Simulator, oracle: Oracle) -> None:
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url).started()
    _say(simulator, 3)
    oracle.wait()
    status = daemon.wait_state("listening")
    assert status.embedding.state == "off"
    done = daemon.ctl("search", "semantic", "сообщение")
    assert done.returncode == 78
    assert "vkteamsctl model install" in done.stderr


THREAD = "693938330@chat.agent"


def _reply_in_thread(simulator: Simulator, parent: str, number: int) -> None:
    """A message of a thread; the first one says whose thread it is."""
    topic = (
        {"parent_topic": {"chatId": parent, "messageId": 7576322310144000017, "type": "message"}} if number == 0 else {}
    )
    chat = {"chatId": THREAD, "type": "group"}
    who = {"userId": ANNA, "firstName": "Anna"}
    message = {"msgId": str(7576322735345762309 + number), "chat": chat, "from": who, "timestamp": 1764000099}
    simulator.event("newMessage", message | {"text": f"в ветке {number}"} | topic)


def test_only_named_chats_and_their_threads_are_stored(vkteamsd: Make, simulator: Simulator, oracle: Oracle) -> None:
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url).started("--chat-id", OPS)
    _say(simulator, 2)
    _say(simulator, 3, SALES)
    _reply_in_thread(simulator, OPS, 0)
    until(lambda: (s := daemon.status()) and s.events.filtered == 3 and s.events.saved == 3, 20, "the counts")
    daemon.stop()
    daemon.started("--chat-id", OPS)
    _reply_in_thread(simulator, OPS, 1)  # it is a thread of the chat, as the archive remembers
    until(lambda: (s := daemon.status()) and s.events.saved == 1, 20, "the thread's next message")
    assert oracle.rows("SELECT DISTINCT chat_id FROM events ORDER BY chat_id") == [(OPS,), (THREAD,)]
    assert oracle.rows("SELECT last_event_id FROM bots") == [(7,)], "the cursor passes what is not kept"


def test_no_save_prints_and_stores_nothing(vkteamsd: Make, simulator: Simulator) -> None:
    daemon = vkteamsd(api_url=simulator.url)
    process = daemon.spawn("--foreground", "--no-save", "--chat-id", OPS)
    try:
        _say(simulator, 1, SALES)
        _say(simulator, 2)
        _reply_in_thread(simulator, OPS, 0)
        assert process.stdout
        lines = [json.loads(process.stdout.readline()) for _ in range(3)]
        assert [line["payload"]["text"][:11] for line in lines] == ["сообщение 0", "сообщение 1", "в ветке 0"]
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "nothing is stored" in log
        assert "INFO daemon.process.daemon_process: ready" in log
    finally:
        process.kill()
        process.communicate()


def test_no_save_ends_when_stdout_is_closed(vkteamsd: Make, simulator: Simulator) -> None:
    daemon = vkteamsd(api_url=simulator.url)
    with Path("/dev/full").open("w") as full:
        process = daemon.spawn("--foreground", "--no-save", stdout=full)
        try:
            _say(simulator, 1)
            _, log = process.communicate(timeout=30)
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == 73
    assert log.endswith("vkteamsd: standard output cannot be written: No space left on device\n")
    assert "Traceback" not in log
    assert simulator.state()["acknowledged"] == 0


def test_no_save_stops_while_its_reader_does_not_read(vkteamsd: Make, simulator: Simulator) -> None:
    _say(simulator, 1000)
    process = vkteamsd(api_url=simulator.url).spawn("--foreground", "--no-save")
    try:
        assert process.stdout
        waiting = bytearray(4)

        def full() -> bool:
            fcntl.ioctl(process.stdout, termios.FIONREAD, waiting)
            return int.from_bytes(waiting, sys.byteorder) > 60_000

        until(full, 30, "a full pipe")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert simulator.state()["acknowledged"] == 0
    finally:
        process.kill()
        process.communicate()


def test_foreground_logs_to_terminal_and_notifies_service_manager(
    vkteamsd: Make, simulator: Simulator, oracle: Oracle
) -> None:
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(daemon.directory / "notify"))
        manager.settimeout(30)
        daemon.environ["NOTIFY_SOCKET"] = str(daemon.directory / "notify")
        process = daemon.spawn("--foreground")
        try:
            assert manager.recv(4096).startswith(b"READY=1\nMAINPID=%d" % process.pid)
            assert daemon.pid == process.pid
            process.send_signal(signal.SIGTERM)
            assert manager.recv(4096).startswith(b"STOPPING=1")
            _, log = process.communicate(timeout=60)
            assert process.returncode == 0
            assert "INFO daemon.service: stopped" in log
        finally:
            process.kill()
            process.communicate()
    assert not daemon.pid_file.exists()


def test_a_separate_worker_embeds_what_a_listener_stores(
    vkteamsd: Make, simulator: Simulator, oracle: Oracle, models_dir: Path
) -> None:
    options = {"embedding.models_dir": str(models_dir)}
    listener = vkteamsd(api_url=simulator.url, database_url=oracle.url, options=options).started("--role", "listen")
    worker = vkteamsd(database_url=oracle.url, token="", options=options)
    worker.pid_file = worker.directory / "run" / "vkteamsd-embed.pid"
    worker.status_path = worker.pid_file.with_suffix(".status.json")
    worker.log_file = worker.log_file.with_name("vkteamsd-embed.log")
    worker.started("--role", "embed")
    worker.wait_state("embedding")
    _say(simulator, 4)
    oracle.wait()
    until(lambda: oracle.rows("SELECT count(*) FROM embeddings")[0][0] == 4, 30, "four vectors")
    assert listener.wait_state("listening").embedding.embedded == 0


def test_daemon_is_detached(vkteamsd: Make, simulator: Simulator, oracle: Oracle) -> None:
    """Session leader of nobody, no terminal, cwd /, umask 027, only its own descriptors."""
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url).started()
    proc = Path(f"/proc/{daemon.pid}")
    stat = (proc / "stat").read_text().rpartition(")")[2].split()
    parent, group, session, terminal = (int(field) for field in stat[1:5])
    assert session == group != daemon.pid, "it leads no session, so it can never get a terminal"
    assert terminal == 0
    assert (proc / "cwd").readlink() == Path("/")
    assert "Umask:\t0027" in (proc / "status").read_text()
    assert (proc / "comm").read_text() == "vkteamsd\n"
    assert parent != os.getpid()
    assert (proc / "fd" / "0").readlink() == Path("/dev/null")
    assert daemon.status_path.stat().st_mode & 0o777 == 0o640
    assert daemon.log_file.stat().st_mode & 0o777 == 0o640
