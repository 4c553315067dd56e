"""The driver's error about a connection becomes one sentence that names the server."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator

import psycopg
import pytest

from vkteams_daemon.errors import CannotWrite, ConfigError, DatabaseUnavailable, SchemaError, VkTeamsError
from vkteams_daemon.store.connections import as_store_error, connect


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
        ("port=99999", 'database.url: invalid port number: "99999"'),
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


@pytest.fixture
def server() -> Iterator[Refusing]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        made = Refusing(listening)
        threading.Thread(target=made.run, daemon=True).start()
        yield made


class Refusing:
    """A server that refuses every connection with one message, in its own language."""

    def __init__(self, listening: socket.socket) -> None:
        self.conninfo = f"host=127.0.0.1 port={listening.getsockname()[1]} user=x dbname=y passfile=/dev/null"
        self.message = b""
        self.asked = 0
        self._listening = listening

    def run(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
                self.asked += 1
            except OSError:
                return
            with client, client.makefile("rb") as stream:
                for _ in range(3):  # an SSLRequest, a GSSENCRequest, the StartupMessage
                    (length,) = struct.unpack(">I", stream.read(4))
                    if length != 8:
                        break
                    stream.read(4)
                    client.sendall(b"N")
                client.sendall(self.message)

    def refuse(self, code: str) -> None:
        fields = {
            "S": "\u0412\u0410\u0416\u041d\u041e",
            "V": "FATAL",
            "C": code,
            "M": f'\u043d\u0435\u0442 {code} C "00000"',
        }
        text = b"".join(key.encode() + value.encode() + b"\0" for key, value in fields.items()) + b"\0"
        self.message = b"E" + struct.pack(">I", len(text) + 4) + text

    def ask_for_password(self) -> None:
        self.message = b"R" + struct.pack(">II", 8, 3)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("28P01", ConfigError), ("28000", ConfigError), ("3D000", ConfigError), ("42501", SchemaError),
        ("53300", DatabaseUnavailable), ("57P03", DatabaseUnavailable), ("57P01", DatabaseUnavailable),
        ("42704", ConfigError), ("42601", ConfigError), ("22023", ConfigError),  # of PGOPTIONS, of PGTZ
    ],
)  # fmt: skip
def test_a_refusal_in_any_language_is_known_by_its_code(server: Refusing, code: str, kind: type[VkTeamsError]) -> None:
    server.refuse(code)
    with pytest.raises(psycopg.OperationalError) as refused:
        connect(server.conninfo, None)
    assert refused.value.sqlstate == code
    error = as_store_error(refused.value)
    assert type(error) is kind
    assert "\u043d\u0435\u0442" in str(error)


def test_a_server_that_refuses_again_and_again_is_asked_for_its_code_once(server: Refusing) -> None:
    server.refuse("53300")
    for _ in range(5):
        with pytest.raises(psycopg.OperationalError) as refused:
            connect(server.conninfo, None)
        assert refused.value.sqlstate == "53300"
    assert server.asked == 5 + 1


def test_a_password_that_is_wanted_and_not_given_is_a_config_error(server: Refusing) -> None:
    server.ask_for_password()
    with pytest.raises(psycopg.OperationalError) as refused:
        connect(server.conninfo, None)
    assert isinstance(as_store_error(refused.value), ConfigError)


@pytest.mark.parametrize(
    ("state", "hint"),
    [
        ("53100", "Free disk space on the database's server."),
        ("53400", "one of its limits is reached, such as temp_file_limit"),
        ("58030", "Look at the disk of the database's server"),
        ("25006", "as the daemon's user, who may write; if the server is a standby, name the writable one"),
    ],
)
def test_what_the_server_cannot_write_names_its_own_culprit(state: str, hint: str) -> None:
    error = as_store_error(psycopg.errors.lookup(state)("could not extend file\nDETAIL: of the server"))
    assert (type(error), error.exit_code, str(error)) == (
        CannotWrite, 73, "the database cannot write: could not extend file",
    )  # fmt: skip
    assert hint in error.hint


def test_a_full_disk_of_another_machine_is_known_by_the_text_that_the_coordinator_keeps() -> None:
    full, other = (
        psycopg.errors.InternalError_(f'could not extend file "x": {why}')
        for why in ("No space left on device", "Permission denied")
    )
    for error in (full, other):
        error.sqlstate = "XX000"  # as Citus answers
    assert isinstance(as_store_error(full), CannotWrite)
    assert not isinstance(as_store_error(other), CannotWrite)


def test_every_code_of_a_full_or_read_only_server_has_a_hint_of_its_own() -> None:
    hints = [as_store_error(psycopg.errors.lookup(state)("x")).hint for state in ("53100", "53400", "58030", "25006")]
    assert len(set(hints)) == 4 and all(hints)
    # Too many connections pass, and so does a server without memory: the daemon tries again.
    assert isinstance(as_store_error(psycopg.errors.lookup("53300")("x")), DatabaseUnavailable)
    assert isinstance(as_store_error(psycopg.errors.lookup("53200")("x")), DatabaseUnavailable)
