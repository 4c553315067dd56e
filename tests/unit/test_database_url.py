"""A database URL that libpq does not understand is refused by the part that is wrong, and no part's value is shown."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict

from vkteams_daemon.errors import ConfigError
from vkteams_daemon.store.connections import build_conninfo
from vkteams_daemon.store.database_url import blamed_variables, check_values, parse

_SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql+psycopg://u:hunter2@h/x", "postgresql+psycopg:// is not understood"),
        ("postgres+asyncpg://u:hunter2@h/x", "postgres+asyncpg:// is not understood"),
        ("jdbc:postgresql://h/x?user=u&password=hunter2", "jdbc:postgresql:// is not understood"),
        ("POSTGRESQL://u:hunter2@h/x", "POSTGRESQL:// is not understood"),
        ("mysql://u:hunter2@h/x", "mysql:// is not PostgreSQL"),
        ("sqlite:////hunter2.db", "sqlite:// is not PostgreSQL"),
        ("'postgresql://u:hunter2@h/x'", "it stands in quotation marks"),
        ("postgresql://u:hunter2@h/x?schema=public", "the parameter schema is not understood"),
        ("postgresql://u:hunter2@h/x?sslmode=require&pgbouncer=true", "the parameter pgbouncer is not understood"),
        ("postgresql://u:hunter2@h/x?currentSchema=hunter2", "the parameter currentSchema is not understood"),
        ("postgresql://u:hunter2@h/x?sslmode", "the parameter sslmode has no value"),
        ("postgresql://u:hunter2@h/x?hunter2%40=1", "the parameter of another name is not understood"),
        ("postgresql://u:hunter2%@h/x", "the password holds a bare %"),
        ("postgresql://u:50%hunter2@h/x", "the password holds a bare %"),
        ("postgresql://u%:hunter2@h/x", "the user holds a bare %"),
        ("postgresql://u:hunter2@h/x%", "the database holds a bare %"),
        ("postgresql://u:hunter2@h/x?options=-csearch_path=hunter2", "the parameter options holds a ="),
        ("postgresql://u:hunter2@h/x?options=%", "the parameter options holds a bare %"),
        ("postgresql://u:p@hunter2@h/x", "the user or the password holds a letter that has a meaning in URLs"),
        ("postgresql://u:p/hunter2@h/x", "the user or the password holds a letter that has a meaning in URLs"),
        ("postgresql://u:p?hunter2@h/x", "the user or the password holds a ?, or a parameter holds an @"),
        ("postgresql://u:p?hunter2=@h/x", "the user or the password holds a ?, or a parameter holds an @"),
        ("postgresql://u:p#hunter2@h:x/x", "the port is not a number"),
        ("postgresql://h:hunter2/x", "the port is not a number"),
        ("postgresql://u:hunter2@[::1]:x/x", "the port is not a number"),
        ("host=h dbnam=x", "libpq has no option dbnam"),
        ("host=h password=p hunter2=x", "it is neither a postgresql:// URL nor a conninfo string"),
        ("host=h password=my hunter2", "it is neither a postgresql:// URL nor a conninfo string"),
        ("hunter2", "it is neither a postgresql:// URL nor a conninfo string"),
    ],
)
def test_wrong_part_is_named_without_its_value(url: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        build_conninfo(url, 5, "test")
    assert str(refused.value) == f"database.url: {message}"
    assert _SECRET not in str(refused.value) + refused.value.hint
    assert refused.value.hint or "option" in message or "number" in message or "value" in message


@pytest.mark.parametrize(
    "part",
    [
        "sslmode=no", "target_session_attrs=no", "connect_timeout=no", "service=no", "port=1,99999", "port=0",
        "port=no", "hostaddr=300.1.1.1", "hostaddr=no", "sslmode=verify-full&sslrootcert=/no", "sslmode=verify-ca",
    ],
)  # fmt: skip
def test_value_that_libpq_does_not_take_is_found_without_a_connection(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    with pytest.raises(ConfigError, match=f"^database.url: .*{part.partition('=')[0]}"):
        check_values(parse(f"postgresql://u:hunter2@h1,h2/x?{part}"))


def test_values_that_libpq_takes_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://u:hunter2@h1:1,h2:2/x?sslmode=verify-full&target_session_attrs=read-write&hostaddr=1.2.3.4,::1"
    for certificates in ("system", __file__):
        check_values(parse(f"{url}&sslrootcert={certificates}"))
    monkeypatch.setenv("PGSSLMODE", "no")
    with pytest.raises(ConfigError, match="PGSSLMODE in the environment"):
        check_values(parse("postgresql://u:hunter2@h/x"))


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("postgres://u:p%25%40w@h:1/x", {"user": "u", "password": "p%@w", "host": "h", "port": "1", "dbname": "x"}),
        ("postgresql:///x?host=/run/postgresql", {"dbname": "x", "host": "/run/postgresql"}),
        ("postgresql://h1:1,h2:2/x?target_session_attrs=read-write",
         {"host": "h1,h2", "port": "1,2", "dbname": "x", "target_session_attrs": "read-write"}),
        ("postgresql://[::1]:5/x", {"host": "::1", "port": "5", "dbname": "x"}),
        ("postgresql://%2Frun/x?ssl=true", {"host": "/run", "dbname": "x", "sslmode": "require"}),
        ("postgresql://u@h/x?options=-csearch_path%3Dours\n",
         {"user": "u", "host": "h", "dbname": "x", "options": "-csearch_path=ours"}),
        ("host=h password='a b%c'", {"host": "h", "password": "a b%c"}),
    ],
)  # fmt: skip
def test_url_that_libpq_understands_is_taken(url: str, options: dict[str, str]) -> None:
    assert parse(url) == options


def test_variable_is_blamed_unless_the_url_overrides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "perhaps")
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGTZ", "Nowhere/At_All")
    assert blamed_variables({"port": "2"}, "it failed") == ["PGSSLMODE", "PGTZ"]
    assert blamed_variables({"port": "2"}, 'invalid sslmode value: "perhaps"') == ["PGSSLMODE"]


def test_application_name_of_a_url_stands_behind_ours() -> None:
    """A process ends a silent session only if it knows it as ours, by the beginning of this name."""
    made = conninfo_to_dict(build_conninfo("postgresql://h/x?application_name=archive", 5, "vkteamsd"))
    assert made["application_name"] == "vkteamsd archive"
