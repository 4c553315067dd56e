"""Imports run one way, SQL stands in two rooms, and `daemon status` loads nothing heavy."""

from __future__ import annotations

import ast
import functools
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "vkteams_daemon"

# What each folder may import beside itself, also inside functions.
_MODULES = {file.stem for file in PACKAGE.glob("*.py")} - {"__init__"}
_GROUND = _MODULES | {"system"}
ALLOWED = dict.fromkeys(_MODULES, _MODULES) | {
    "errors": set(),
    "options": {"errors"},
    "simulator": {"errors"},
    "system": _MODULES,
    "botapi": _GROUND,
    "store": _GROUND | {"botapi"},
    "embedding": _GROUND,
    "search": _GROUND | {"botapi", "store", "embedding"},
    "daemon": _GROUND | {"botapi", "store", "embedding"},
    "serving": _GROUND,
    "mcp": _GROUND | {"botapi", "store", "embedding", "search", "daemon", "serving"},
    "web": _GROUND | {"botapi", "store", "embedding", "search", "daemon", "serving"},
    "ctl": _GROUND | {"botapi", "simulator", "store", "embedding", "search", "daemon", "mcp", "web"},
}
# What the parts of a folder may import of that folder, beside themselves.
_STORE = {"connections", "bulk", "connection_profiles", "blockers", "distribution"}
INSIDE = {
    "store": {
        "database_url": set(),
        "connection_refusal": set(),
        "connections": {"database_url", "connection_refusal"},
        "bulk": {"connections"},
        "connection_profiles": {"connections"},
        "blockers": {"connections", "bundled", "distribution"},
        "distribution": {"connections"},
        "server_check": {"connections", "distribution"},
        "schema": _STORE | {"server_check"},
        "database": _STORE | {"database_url", "server_check", "schema", "bundled"},
        "vector_index": _STORE,
        "vector_counts": _STORE | {"schema"},
        "embedding_models": _STORE | {"schema", "vector_counts", "vector_index"},
        "gaps": _STORE | {"schema"},
        "rosters": _STORE | {"schema"},
        "words": {"connections"},
        "derive": _STORE | {"vector_counts", "words"},
        "queue": _STORE | {"schema", "derive", "vector_counts"},
        "erasure_rules": _STORE | {"schema"},
        "ingest": _STORE | {"schema", "gaps", "erasure_rules", "derive", "words"},
        "rebuild": _STORE | {"schema", "erasure_rules", "derive", "ingest", "vector_counts", "words"},
        "admin": _STORE
        | {
            "schema",
            "gaps",
            "embedding_models",
            "vector_index",
            "erasure_rules",
            "derive",
            "ingest",
            "rebuild",
            "words",
        },
        "bundled": {"connections", "database_url"},
        "backup": _STORE | {"schema", "gaps", "bundled", "derive", "vector_counts"},
    },
    "embedding": {
        "language_axis": set(),
        "model_info": {"language_axis"},
        "catalogue": {"model_info"},
        "unigram": set(),
        "tokenizer": {"unigram"},
        "query_socket": {"language_axis"},
        "model": {"language_axis", "model_info", "tokenizer"},
        "install": {"language_axis", "model_info", "catalogue", "tokenizer", "unigram", "model"},
    },
    "search": {
        "names": {"scope"},
        "name_lookup": {"names", "scope", "spelling"},
        "messages": set(),
        "reference": set(),
        "scope": set(),
        "results": {"messages"},
        "cursor": {"results"},
        "question": {"results", "cursor", "scope"},
        "notes": set(),
        "archive_coverage": {"notes", "results", "scope"},
        "visibility": {"notes", "scope"},
        "links": {"messages"},
    },
    "daemon": {},
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


def _folder(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _imports(file: Path) -> Iterator[str]:
    """The modules of this package that a file imports, anywhere in it."""
    for node in ast.walk(_parsed(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("vkteams_daemon"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vkteams_daemon"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def test_imports_run_one_way() -> None:
    wrong = set()
    for file in _FILES:
        folder = _folder(file)
        if folder == "__init__":
            continue  # the library's face hands on what the folders have
        for module in _imports(file):
            other = module.split(".")[1]
            if other not in (folder, "__version__") and other not in ALLOWED[folder]:
                wrong.add(f"{_name(file)} must not import {module}")
    assert not wrong, "\n".join(sorted(wrong))


def test_one_module_opens_the_connections_to_the_database() -> None:
    openers = {
        _name(file)
        for root in (PACKAGE, ROOT / "bench", ROOT / "docs", ROOT / "bin")
        for file in root.rglob("*")
        if file.is_file() and file.suffix in ("", ".py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if re.search(r"psycopg\.(Async)?(connect|Connection\.connect)\(|[^b]ConnectionPool\(", line)
        and "urllib3" not in line
    }
    assert openers == {"vkteams_daemon/store/connections.py"}


# Where no profile is named, and why that does no harm.
_WITHOUT_PROFILE = {
    "vkteams_daemon/daemon/bot_listener.py": "the writer applies its own: another thread can end that, too",
    "vkteams_daemon/store/bundled/listener.py": "it asks one thing, outside of a transaction",
}


def _without_profile(program: str) -> list[str]:
    """The calls of what opens a connection, and the places that hand it on, where no profile is named."""
    if "connect" not in program:
        return []
    tree = ast.parse(program)
    outer = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    opener = r"(\w+\.)*_?database\.connect|connections\.connect"
    opener += r"|connect" if "connections import" in program and re.search(r"import .*\bconnect\b", program) else ""
    found = []
    for node in ast.walk(tree):
        name = getattr(node, "attr", getattr(node, "id", None))
        if name == "connect" and re.fullmatch(opener, ast.unparse(node)):
            call = ast.unparse(outer[node])
            if not re.search(r"\b(WRITER|WORKER|READER|MAINTENANCE|profile)\b", call):
                found.append(call)
    return found


def test_every_place_that_opens_a_connection_names_its_profile() -> None:
    found = {_name(file): calls for file in _FILES if (calls := _without_profile(file.read_text(encoding="utf-8")))}
    assert set(found) == set(_WITHOUT_PROFILE), found
    assert all(len(calls) == 1 for calls in found.values()), found


def test_a_connection_without_a_profile_would_be_seen() -> None:
    assert _without_profile("with self._database.connect() as c: pass")
    assert _without_profile("set_cursor(database.connect, bot)")
    assert _without_profile("from a.connections import connect\nconnect(url, None)")
    assert not _without_profile("functools.partial(database.connect, WORKER)")


def _module(name: str) -> str | None:
    """The module that an import of this dotted name loads; None where there is no such file."""
    path = PACKAGE.parent.joinpath(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return name
    return _module(name.rpartition(".")[0]) if "." in name else None


def _circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import one another, in a circle; empty where there is none."""
    done: set[str] = set()
    path: list[str] = []

    def visit(name: str) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        path.append(name)
        for other in sorted(graph.get(name, ())):
            if circle := visit(other):
                return circle
        path.pop()
        done.add(name)
        return []

    return next(filter(None, map(visit, sorted(graph))), [])


def test_no_modules_import_one_another_in_a_circle() -> None:
    graph = {}
    for file in _FILES:
        name = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        graph[name] = {module for imported in _imports(file) if (module := _module(imported))} - {
            name,
            "vkteams_daemon",
        }
    assert not _circle(graph)


def test_a_circle_would_be_seen() -> None:
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert not _circle({"a": {"b", "c"}, "b": {"c"}, "c": set()})


@pytest.mark.parametrize("folder", INSIDE)
def test_imports_inside_a_folder_run_one_way(folder: str) -> None:
    wrong = set()
    for file in (PACKAGE / folder).rglob("*.py"):
        part = file.relative_to(PACKAGE / folder).parts[0].removesuffix(".py")
        for module in _imports(file):
            names = module.split(".")
            other = names[2] if names[1] == folder and len(names) > 2 else part
            if other != part and part in INSIDE[folder] and other not in INSIDE[folder][part]:
                wrong.add(f"{file.relative_to(PACKAGE)}: {module}")
    assert not wrong, f"not the way of {folder}: {', '.join(sorted(wrong))}"


def test_sql_stands_in_the_store_and_in_search_alone() -> None:
    found = []
    for file in _FILES:
        if _folder(file) not in ("store", "search"):
            for node in ast.walk(_parsed(file)):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and _SQL.search(node.value):
                    found.append(f"{_name(file)}, line {node.lineno}: {node.value[:60]!r}")
    assert not found


def test_every_benchmark_finds_what_it_imports() -> None:
    """None of them runs with the tests."""
    for file in sorted((ROOT / "bench").glob("[!_]*.py")):
        importlib.import_module(f"bench.{file.stem}")


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


def test_questions_load_no_arrays() -> None:
    """A running daemon gives a search its vectors. Nor does a search load what answers other questions."""
    others = ("activity", "chat_view", "context", "counting", "directory", "export", "message_counts", "statistics")
    loaded = _loaded(
        "import vkteams_daemon.search.archive, vkteams_daemon.search.retrieval.answer, sys\n"
        f"assert not [n for n in {others} if f'vkteams_daemon.search.history.{{n}}' in sys.modules]"
    )
    assert "psycopg" in loaded
    assert not loaded & {"numpy", "onnxruntime", "tokenizers", "requests"}


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
