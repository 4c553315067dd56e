"""`vkteamsctl config check` refuses what vkteamsd would refuse, without asking anybody."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.temporary import SERVER_USER
from vkteams_daemon.ctl.main import main
from vkteams_daemon.options import options
from vkteams_daemon.store.bundled import programs
from vkteams_daemon.system.user import choose_owner

Check = Callable[..., str]
OTHERS = {"DATABASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}


@pytest.fixture
def check(open_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Check the configuration of these variables alone, and expect the code; what was said."""
    for name in [name for name in os.environ if name.startswith("VKTEAMS_") or name.upper() in OTHERS]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VKTEAMS_BOT_CONFIG", "/dev/null")
    monkeypatch.setenv("VKTEAMS_DAEMON_STATE_DIR", str(open_tmp))
    monkeypatch.setenv("VKTEAMS_DAEMON_RUNTIME_DIR", str(open_tmp))
    choose_owner(SERVER_USER).make_directory(open_tmp / "postgresql", 0o750)
    monkeypatch.setenv("VKTEAMS_DAEMON_ALLOW_ROOT", "1")

    def run(code: int, **environ: str) -> str:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        assert main(["--output", "json", "config", "check"]) == code
        return capsys.readouterr().out

    return run


SOCKS = "socks5h://anna:hidden@127.0.0.1:9"
# Of each option whose value is a text: a wrong value.
WRONG = {
    "api.url": "ftp://x", "api.token_file": "/nonexistent", "api.ca_file": "/nonexistent", "api.proxy": SOCKS,
    "daemon.user": "nosuch", "daemon.metrics": "hidden", "storage.retention": "hidden", "database.url": "mysql://anna/b",
    "database.url_file": "/nonexistent", "search.timezone": "hidden", "access.roster_max_age": "hidden",
    "access.audit_retention": "hidden",
    "api.retention": "hidden", "database.read_url": "mysql://anna/b", "mcp.metrics": "hidden", "mcp.url": "hidden",
    "web.url": "hidden", "web.message_link": "hidden", "web.user_header": "no header",
    "oidc.issuer": "hidden",
}  # fmt: skip
# Any text may be right for these; or a start makes the file, and nothing is made here; or vkteamsd does not read it.
ANY_TEXT = {
    "api.token", "daemon.runtime_dir", "daemon.state_dir", "daemon.pid_file", "daemon.status_file", "daemon.log_file",
    "embedding.models_dir", "mcp.tokens_file", "oidc.client_id", "oidc.client_secret_file", "oidc.claim",
    "oidc.users_file", "access.audit_dir", "mcp.audience",
}  # fmt: skip
ENVIRONMENT = {
    "HTTPS_PROXY": SOCKS, "https_proxy": SOCKS, "ALL_PROXY": SOCKS, "all_proxy": "ftp://anna:hidden@x:1",
    "REQUESTS_CA_BUNDLE": "/nonexistent.pem", "CURL_CA_BUNDLE": "/dev/null", "SSLKEYLOGFILE": "/nonexistent/keys",
}  # fmt: skip


def _wrong_values() -> list[tuple[str, str, str]]:
    """(variable, wrong value, what the error must name) of everything that can be wrong."""
    cases = [(name, value, name) for name, value in ENVIRONMENT.items()]
    for option in options():
        if option.type == "list" or option.name in ANY_TEXT:
            continue
        value = WRONG[option.name] if option.type == "str" else "hidden"
        cases += [(variable, value, option.name) for variable in option.variables]
    return cases


@pytest.mark.parametrize(("variable", "value", "name"), _wrong_values())
def test_error_names_the_option_or_variable_that_is_wrong(check: Check, variable: str, value: str, name: str) -> None:
    error = json.loads(check(78, **{variable: value}))["error"]
    assert error.startswith(f"{name}: "), error
    assert "anna" not in error, "what may be a secret is not repeated"


@pytest.mark.parametrize("variable", ENVIRONMENT)
def test_variables_of_other_programs_matter_only_on_the_way(check: Check, variable: str) -> None:
    value = ENVIRONMENT[variable]
    check(0, VKTEAMS_API_TOKEN="1.2.3:4", VKTEAMS_DAEMON_ROLE="embed", **{variable: value})
    if "all" not in variable.lower():
        check(0, VKTEAMS_DAEMON_ROLE="all", VKTEAMS_API_URL="http://x", **{variable: value})
    else:
        check(0, VKTEAMS_DAEMON_ROLE="all", VKTEAMS_API_URL="https://x", NO_PROXY="x", **{variable: value})


def _notes(said: str) -> list[Any]:
    notes: list[Any] = json.loads(said)["data"]["notes"]
    return notes


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("VKTEAMS_BOT_API_URL", "127.0.0.1:18765", "api.url: '127.0.0.1:18765' is not an http:// or https:// URL"),
        ("VKTEAMS_BOT_API_URL", "myteam.mail.ru", "api.url: 'myteam.mail.ru' is not an http:// or https:// URL"),
        ("VKTEAMS_BOT_API_URL", "ftp://x", "api.url: 'ftp://x' is not an http:// or https:// URL"),
        ("VKTEAMS_BOT_API_URL", "http://127.0.0.1:99999", "api.url: 'http://127.0.0.1:99999' is not a URL that can"),
        ("DATABASE_URL", "nonsense", "database.url: it is neither a postgresql:// URL nor"),
        ("DATABASE_URL", "mysql://a/b", "database.url: mysql:// is not PostgreSQL"),
        ("VKTEAMS_API_CA_FILE", "/nope", "api.ca_file: /nope cannot be used: No such file"),
        ("VKTEAMS_EMBEDDING_MODELS", "nope", "embedding.models: the model 'nope' is not installed in "),
        ("VKTEAMS_DAEMON_USER", "nosuch", "daemon.user: there is no user 'nosuch'"),
    ],
)
def test_refusals_of_vkteamsd_are_reported(check: Check, variable: str, value: str, said: str) -> None:
    assert json.loads(check(78, **{variable: value}))["error"].startswith(said)


def test_a_relative_path_in_the_file(check: Check, tmp_path: Path) -> None:
    file = tmp_path / "d.toml"
    file.write_text("[api]\nca_file = 'ca.pem'\n")
    said = check(78, VKTEAMS_BOT_CONFIG=str(file))
    assert "api.ca_file: 'ca.pem' is relative, and the daemon works in /" in said


def test_only_checks_of_the_role_are_made(check: Check) -> None:
    check(0, VKTEAMS_BOT_API_URL="ftp://x", VKTEAMS_DAEMON_ROLE="embed")
    check(78, VKTEAMS_DAEMON_ROLE="listen")
    check(0, VKTEAMS_BOT_API_URL="http://x", VKTEAMS_EMBEDDING_MODEL="nope")


def test_problem_of_this_host_is_a_note(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who checks is not always who starts it, and systemd hands a token over only then."""
    monkeypatch.setattr(programs, "available", lambda: True)
    assert _notes(check(0)) == ["api.token is not set: vkteamsd will not start with role all or listen"]
    assert _notes(check(0, VKTEAMS_API_TOKEN="1.2.3:4")) == []
    monkeypatch.setattr(programs, "available", lambda: False)
    assert _notes(check(0)) == ["database.url is not set, and the bundled PostgreSQL is not installed"]
    assert _notes(check(0, DATABASE_URL="postgresql://x/y")) == []
    assert _notes(check(0, VKTEAMS_STORAGE_SAVE="no")) == [
        "storage.save is false: vkteamsd will start with --foreground alone"
    ]


def test_missing_permission_is_a_note(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    notes = _notes(check(0, VKTEAMS_DAEMON_USER="root", VKTEAMS_API_TOKEN="1.2.3:4", DATABASE_URL="postgresql://x/y"))
    assert notes == ["for this user: only root can start vkteamsd as root"]
