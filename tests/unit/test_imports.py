"""Imports run one way, SQL stands in two rooms, and `daemon status` loads nothing heavy."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "vkteams_daemon"

# What each room may import beside itself, also inside functions.
_GROUND = {file.stem for file in PACKAGE.glob("*.py")} - {"__init__"}
ALLOWED = dict.fromkeys(_GROUND, _GROUND) | {
    "errors": set(),
    "options": {"errors"},
    "botapi": _GROUND,
    "store": _GROUND | {"botapi"},
    "embedding": _GROUND | {"store"},
    "search": _GROUND | {"botapi", "store", "embedding"},
    "daemon": _GROUND | {"botapi", "store", "embedding"},
    "ctl": _GROUND | {"botapi", "store", "embedding", "search", "daemon", "mcp"},
    "mcp": _GROUND | {"botapi", "store", "embedding", "search", "daemon"},
}
_FILES = sorted(PACKAGE.rglob("*.py"))
_HEAVY = {
    "psycopg", "psycopg_pool", "pgvector", "numpy", "onnxruntime", "tokenizers", "requests", "rich", "mcp", "daemon",
    "lockfile",
}  # fmt: skip
# A statement: its verb and what must follow it, so that sentences are not taken for SQL.
_SQL = re.compile(
    r"\b(SELECT\b.+\bFROM|INSERT\s+INTO|UPDATE\s+\w+\s+(AS\s+)?\w*\s*SET|DELETE\s+FROM|CREATE\s+(TEMPORARY\s+)?TABLE"
    r"|CREATE\s+INDEX|ALTER\s+TABLE|DROP\s+TABLE|COPY\s+\w+\s+(FROM|TO)|PREPARE\s+TRANSACTION|LOCK\s+TABLE)\b",
    re.DOTALL,
)


def _room(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(file: Path) -> Iterator[str]:
    """The modules of this package that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("vkteams_daemon"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vkteams_daemon"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", _FILES, ids=_name)
def test_imports_run_one_way(file: Path) -> None:
    room = _room(file)
    if room == "__init__":
        return  # the library's face hands on what the rooms have
    wrong = set()
    for module in _imports(file):
        other = module.split(".")[1]
        if other not in (room, "__version__") and other not in ALLOWED[room]:
            wrong.add(module)
    assert not wrong, f"{room} must not import {', '.join(sorted(wrong))}"


@pytest.mark.parametrize("file", [f for f in _FILES if _room(f) not in ("store", "search")], ids=_name)
def test_sql_stands_in_the_store_and_in_search_alone(file: Path) -> None:
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _SQL.search(node.value):
            found.append(f"line {node.lineno}: {node.value[:60]!r}")
    assert not found


def test_what_is_taken_for_sql() -> None:
    for statement in ("SELECT a FROM b", "UPDATE bots SET x = 1", "INSERT INTO t", "DELETE FROM t", "LOCK TABLE t"):
        assert _SQL.search(statement)
    for sentence in ("select one of these", "Update the set", "an update of bots", "Copy it from there", "SELECT"):
        assert not _SQL.search(sentence)


def _loaded(program: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after this program."""
    report = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    ended = subprocess.run(
        [sys.executable, "-c", f"{program}\n{report}"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    return set(ended.stdout.rpartition("\n{")[2].split())


def test_daemon_status_loads_nothing_heavy(tmp_path: Path) -> None:
    file = tmp_path / "vkteamsd.toml"
    file.write_text(f'[daemon]\nruntime_dir = "{tmp_path}"\nstate_dir = "{tmp_path}"\n')
    loaded = _loaded(
        "from vkteams_daemon.ctl.main import main\n"
        f"assert main(['--config', {str(file)!r}, '--output', 'quiet', 'daemon', 'status']) == 3"
    )
    assert "vkteams_daemon" in loaded
    assert not loaded & _HEAVY


def test_the_mcp_server_shakes_hands_without_database_and_model() -> None:
    loaded = _loaded("import vkteams_daemon.mcp.serve, vkteams_daemon.mcp.stdio")
    assert "mcp" in loaded
    assert not loaded & (_HEAVY - {"mcp", "rich"})


def test_the_model_reports_to_nobody(tmp_path: Path) -> None:
    """onnxruntime on its own keeps the session of its reports in the directory of temporary files."""
    environ = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environ |= {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", "import vkteams_daemon.embedding.model"], env=environ, check=True)
    assert list(tmp_path.iterdir()) == []


def test_heavy_modules_would_be_seen() -> None:
    assert {"numpy", "psycopg"} <= _loaded("import numpy, psycopg")


@pytest.mark.parametrize("module", ["errors", "options", "config"])
def test_ground_is_light(module: str) -> None:
    assert not _loaded(f"import vkteams_daemon.{module}") & _HEAVY
