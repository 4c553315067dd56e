"""The driver's error about a connection becomes one sentence that names the server."""

from __future__ import annotations

import psycopg
import pytest

from vkteams_daemon.errors import ConfigError, DatabaseUnavailable
from vkteams_daemon.store.connections import as_store_error


@pytest.mark.parametrize("place", ["127.0.0.1", "/nowhere"])
def test_message_names_the_unreachable_server(place: str) -> None:
    with pytest.raises(psycopg.OperationalError) as refused:
        psycopg.connect(host=place, port=9, user="nobody", connect_timeout=5)
    error = as_store_error(refused.value)
    assert isinstance(error, DatabaseUnavailable)
    assert place in str(error) and "?" not in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("error", [psycopg.errors.IdleInTransactionSessionTimeout, psycopg.errors.IdleSessionTimeout])
def test_ended_session_is_unavailable_and_no_refused_statement(error: type[psycopg.Error]) -> None:
    assert isinstance(as_store_error(error("terminating connection")), DatabaseUnavailable)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("port=x", 'database.url: invalid integer value "x" for connection option "port"'),
        ("sslmode=perhaps", 'database.url: invalid sslmode value: "perhaps"'),
        ("service=nowhere", 'database.url: definition of service "nowhere" not found'),
    ],
)
def test_permanent_connection_failure_is_a_config_error(options: str, message: str) -> None:
    with pytest.raises(psycopg.OperationalError) as refused:
        psycopg.connect(f"host=127.0.0.1 {options}")
    error = as_store_error(refused.value)
    assert isinstance(error, ConfigError)
    assert str(error) == message
