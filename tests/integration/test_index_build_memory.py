"""An index is built even if shared memory is short, as in a container."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.harness.temporary import DISK

# The server's directory may be below /dev/shm, which the small one hides.
_SMALL = 'mount --bind "$1" "$2" && shift 2 && mount -t tmpfs -o size=32m tmpfs /dev/shm && exec "$@"'
_BUILD = """
import sys
import psycopg
from vkteams_daemon.config import Config
from vkteams_daemon.options import Daemon
from vkteams_daemon.store import embedding_models, vector_index
from vkteams_daemon.store.database import Database

state, run = sys.argv[1:]
with Database(Config(daemon=Daemon(state_dir=state, runtime_dir=run)), application="test") as database:
    with database.connection() as connection:
        model = embedding_models.register(connection, "m", "m", 3)
        connection.execute(
            "INSERT INTO messages (chat_id, msg_id, sent_at, received_at) SELECT 'c', n::text, now(), now()"
            " FROM generate_series(1, 1000) AS n"
        )
        connection.execute(
            "INSERT INTO embeddings (chat_id, msg_id, model_id, kind, chunk, text_hash, embedding)"
            " SELECT 'c', n::text, %s, 'message', 0, '', ('[' || n || ',1,0]')::halfvec"
            " FROM generate_series(1, 1000) AS n", (model.model_id,)
        )
        try:
            connection.execute("SET maintenance_work_mem = '256MB'; SET min_parallel_table_scan_size = 0;"
                               " SET max_parallel_maintenance_workers = 1")
            connection.execute("CREATE INDEX ON embeddings USING hnsw ((embedding::halfvec(3)) halfvec_cosine_ops)")
        except psycopg.errors.DiskFull as error:
            print("short:", error)
        print("built:", vector_index.ensure_index(connection, model.model_id, model.dims))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a mount of its own")
def test_index_is_built_in_one_process_when_shared_memory_is_short(bundled_copy: Path) -> None:
    with tempfile.TemporaryDirectory(dir=DISK) as directory:
        Path(directory).chmod(0o711)
        program = [sys.executable, "-c", _BUILD, f"{directory}/state", f"{directory}/run"]
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", _SMALL, "sh", bundled_copy, directory, *program],
            text=True, capture_output=True, timeout=120, check=False,
        )  # fmt: skip
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip("this machine lets nobody make a mount of their own")
    assert done.returncode == 0, done.stderr
    assert "short: could not resize shared memory segment" in done.stdout, (
        "shared memory must be too short for the parallel build"
    )
    assert done.stdout.endswith("built: True\n")
