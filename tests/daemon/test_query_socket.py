"""The query socket: the running daemon gives the vectors of a question, so that the command loads no model."""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.harness.bundled import as_user
from tests.harness.daemon import DaemonProcess
from tests.harness.oracle import Oracle
from tests.harness.waiting import until
from vkteams_daemon.embedding import query_socket
from vkteams_daemon.embedding.model import Model
from vkteams_daemon.simulator import Simulator

OPS, ANNA = "681869378@chat.agent", "a.ivanova@corp.example"


@pytest.fixture
def daemon(
    vkteamsd: Callable[..., DaemonProcess], simulator: Simulator, oracle: Oracle, models_dir: Path
) -> DaemonProcess:
    """A running daemon whose model is loaded, with two messages and their vectors."""
    simulator.say(OPS, ANNA, "почтовый сервер не отвечает")
    simulator.say(OPS, ANNA, "обед в час")
    options = {"embedding.models_dir": str(models_dir)}
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url, options=options).started()
    until(lambda: oracle.rows("SELECT count(*) FROM embeddings") == [(2,)], 60, "two vectors")
    return daemon


def file_of(daemon: DaemonProcess) -> Path:
    return daemon.pid_file.with_name("vkteamsd.query")


def answer(daemon: DaemonProcess, *words: str) -> dict[str, Any]:
    done = daemon.ctl("--output", "json", "search", *words)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_question_needs_no_model_while_the_daemon_runs(
    daemon: DaemonProcess, models_dir: Path, tmp_path: Path
) -> None:
    expected = answer(daemon, "semantic", "почтовый сервер не отвечает")["data"]["hits"]
    daemon.configure(**{"embedding.models_dir": str(tmp_path / "nothing")})
    found = answer(daemon, "semantic", "почтовый сервер не отвечает")["data"]["hits"]
    assert [(hit["msg_id"], round(hit["score"], 4)) for hit in found] == [
        (hit["msg_id"], round(hit["score"], 4)) for hit in expected
    ]
    assert found[0]["score"] > 0.99
    daemon.stop()
    assert not file_of(daemon).exists()
    assert "is not installed here" in answer(daemon, "semantic", "сервер")["error"]
    daemon.configure(**{"embedding.models_dir": str(models_dir)})
    assert answer(daemon, "semantic", "почтовый сервер не отвечает")["data"]["hits"][0]["score"] > 0.99


def test_who_may_read_the_status_file_may_ask(daemon: DaemonProcess) -> None:
    until(lambda: file_of(daemon).exists(), 30, "the socket")
    mode = file_of(daemon).stat()
    assert stat.S_IMODE(mode.st_mode) == 0o660
    assert (mode.st_uid, mode.st_gid) == (daemon.status_path.stat().st_uid, daemon.status_path.stat().st_gid)


def test_vectors_are_those_of_the_model(daemon: DaemonProcess, tiny_model_dir: Path) -> None:
    model = Model.load(tiny_model_dir)
    file = file_of(daemon)
    assert query_socket.loaded(file) == {model.fingerprint}
    assert query_socket.vector(file, model.fingerprint, "почтовый сервер") == model.query("почтовый сервер")
    assert query_socket.vector(file, "another", "почтовый сервер") is None
    assert query_socket.vector(file, model.fingerprint, "я" * query_socket.MAX_BYTES) is None


def test_clients_that_are_silent_or_talk_nonsense_keep_nobody_waiting(daemon: DaemonProcess) -> None:
    file = file_of(daemon)
    silent = []
    for content in (b"", b"\0", struct.pack(">I", 1 << 30), struct.pack(">I", 5) + b"\xc1\xc1\xc1\xc1\xc1"):
        silent.append(socket.socket(socket.AF_UNIX))
        with query_socket.short_path(file) as address:
            silent[-1].connect(address)
        silent[-1].sendall(content)
    try:
        until(lambda: query_socket.loaded(file), 30, "an answer behind them")
    finally:
        for connection in silent:
            connection.close()
    status = daemon.status()
    assert status and status.warnings == []


def test_a_socket_that_was_removed_is_made_again(daemon: DaemonProcess) -> None:
    file_of(daemon).unlink()
    until(lambda: query_socket.loaded(file_of(daemon)), 30, "the new socket")


def _serve(file: Path) -> bytes:
    """Take one connection at this socket; returns what it brings."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{file}.new")
    listener.listen(1)
    Path(f"{file}.new").rename(file)
    connection, _ = listener.accept()
    return connection.recv(100)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_server_of_another_user_is_told_nothing() -> None:
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(1) as pool:
        Path(directory).chmod(0o777)
        file = Path(directory) / "vkteamsd.query"
        told = pool.submit(as_user, "nobody", lambda: _serve(file))
        until(file.exists, 30, "the other user's socket")
        assert query_socket.loaded(file) == frozenset()
        assert told.result(30) == b""
