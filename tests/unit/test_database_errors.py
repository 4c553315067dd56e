"""What the driver says of a connection becomes one sentence that names the server."""

from __future__ import annotations

import psycopg
import pytest

from vkteams_daemon.errors import ConfigError, DatabaseUnavailable
from vkteams_daemon.store.connections import as_store_error


@pytest.mark.parametrize("place", ["127.0.0.1", "/nowhere"])
def test_a_server_that_is_not_there_is_named(place: str) -> None:
    with pytest.raises(psycopg.OperationalError) as refused:
        psycopg.connect(host=place, port=9, user="nobody", connect_timeout=5)
    said = as_store_error(refused.value)
    assert isinstance(said, DatabaseUnavailable)
    assert place in str(said) and "?" not in str(said)
    assert "\n" not in str(said)


@pytest.mark.parametrize("error", [psycopg.errors.IdleInTransactionSessionTimeout, psycopg.errors.IdleSessionTimeout])
def test_a_session_that_the_server_has_ended_is_no_refused_statement(error: type[psycopg.Error]) -> None:
    assert isinstance(as_store_error(error("terminating connection")), DatabaseUnavailable)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("port=x", 'database.url: invalid integer value "x" for connection option "port"'),
        ("sslmode=perhaps", 'database.url: invalid sslmode value: "perhaps"'),
        ("service=nowhere", 'database.url: definition of service "nowhere" not found'),
    ],
)
def test_what_waiting_does_not_mend_is_a_wrong_url(wrong: str, said: str) -> None:
    with pytest.raises(psycopg.OperationalError) as refused:
        psycopg.connect(f"host=127.0.0.1 {wrong}")
    error = as_store_error(refused.value)
    assert isinstance(error, ConfigError)
    assert str(error) == said
