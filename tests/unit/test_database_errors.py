"""What the driver says of a connection becomes one sentence that names the server."""

from __future__ import annotations

import psycopg
import pytest

from vkteams_daemon.errors import DatabaseUnavailable
from vkteams_daemon.store.database import as_store_error


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
