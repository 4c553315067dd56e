"""libpq's variables never steer the bundled server's connections. For another server, an error names the variable."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from psycopg import pq

from tests.harness.cluster import on_cluster
from vkteams_daemon.config import Config
from vkteams_daemon.errors import DatabaseUnavailable, VkTeamsError
from vkteams_daemon.options import Daemon
from vkteams_daemon.options import Database as DatabaseOptions
from vkteams_daemon.store.bundled.server import BundledServer
from vkteams_daemon.store.database import Database

_VARIABLES = sorted({option.envvar.decode() for option in pq.Conninfo.get_defaults() if option.envvar})
# libpq reads these too, without an option.
_UNLISTED = ("PGSERVICEFILE", "PGSYSCONFDIR", "PGDATESTYLE", "PGTZ", "PGGEQO")
_HOSTILE = {
    "PGHOSTADDR": "127.0.0.1", "PGOPTIONS": "-csearch_path=nosuch -cdefault_transaction_read_only=on",
    "PGPORT": "1", "PGCONNECT_TIMEOUT": "x", "PGREQUIREAUTH": "scram-sha-256", "PGCHANNELBINDING": "require",
    "PGGSSENCMODE": "require", "PGSSLMODE": "verify-full", "PGTARGETSESSIONATTRS": "standby",
    "PGAPPNAME": "other", "PGCLIENTENCODING": "LATIN1", "PGDATESTYLE": "German", "PGTZ": "Asia/Tokyo",
}  # fmt: skip


def _bundled(base: Path) -> Database:
    return Database(Config(daemon=Daemon(state_dir=str(base / "state"), runtime_dir=str(base / "run"))))


@pytest.mark.parametrize("hostile", [False, True], ids=["nonsense", "plausible"])
def test_no_variable_steers_the_bundled_server(
    bundled_base: Path,
    make_server: Callable[[Path, Path], BundledServer],
    monkeypatch: pytest.MonkeyPatch,
    hostile: bool,
) -> None:
    for variable in (*_VARIABLES, *_UNLISTED):
        monkeypatch.setenv(variable, _HOSTILE.get(variable, "/nowhere") if hostile else "nonsense")
    make_server(bundled_base / "state", bundled_base / "run").acquire()
    with _bundled(bundled_base) as database, database.connection() as pooled, database.connect() as single:
        for connection in (pooled, single):
            assert (connection.info.dbname, connection.info.user) == ("vkteams", "vkteams")
            assert connection.execute(
                "SELECT current_schema(), current_setting('application_name'), current_setting('TimeZone'),"
                " current_setting('DateStyle'), current_setting('client_encoding'),"
                " current_setting('default_transaction_read_only')"
            ).fetchone() == ("public", "vkteams", "UTC", "ISO, MDY", "UTF8", "off")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PGSERVICE", "corp"), ("PGHOSTADDR", "127.0.0.2"), ("PGSSLMODE", "require"), ("PGREQUIREAUTH", "none"),
        ("PGTARGETSESSIONATTRS", "standby"), ("PGCHANNELBINDING", "require"), ("PGOPTIONS", "-csearch_path=nosuch"),
        ("PGOPTIONS", "-cnosuch=1"), ("PGTZ", "Nowhere/At_All"), ("PGDATESTYLE", "never"), ("PGGEQO", "x"),
        ("PGSSLMINPROTOCOLVERSION", "TLSv9"),
    ],
)  # fmt: skip
def test_error_that_a_variable_causes_names_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    if variable == "PGREQUIREAUTH" and on_cluster(database_url):
        pytest.skip("the cluster asks for no password")
    monkeypatch.setenv("PGPASSWORD", "in the URL already")
    monkeypatch.setenv(variable, value)
    database = Database(Config(database=DatabaseOptions(url=database_url, connect_timeout=5)))
    with pytest.raises(VkTeamsError) as refused:
        database.open(migrate=False)
    assert str(refused.value).endswith(f" ({variable} is set in the environment)")
    assert "\n" not in str(refused.value)


def test_variables_lead_to_a_server_of_ones_own(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    location, _, name = database_url.rpartition("/")
    login, _, server = location.rpartition("@")
    user, _, password = login.removeprefix("postgresql://").partition(":")
    host, _, port = server.partition(":")
    for variable, value in {"PGPASSWORD": password, "PGHOST": host, "PGPORT": port, "PGDATABASE": name}.items():
        monkeypatch.setenv(variable, value)
    config = Config(database=DatabaseOptions(url=f"postgresql://{user}@"))
    with Database(config) as database, database.connect() as connection:
        assert connection.info.dbname == name
    assert os.environ["PGDATABASE"] == name


def test_closed_database_connects_nowhere(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "127.0.0.1")
    monkeypatch.setenv("PGDATABASE", database_url.rpartition("/")[2])
    database = Database(Config(database=DatabaseOptions(url=database_url)))
    database.open()
    database.close()
    with pytest.raises(DatabaseUnavailable, match="the database is not open"):
        database.connect()
    with pytest.raises(DatabaseUnavailable, match="the database is not open"), database.connection():
        pass
    with pytest.raises(DatabaseUnavailable, match="the database is not open"):
        Database(Config()).connect()
    database.open()
    database.connect().close()
    database.close()
