from __future__ import annotations

import grp
import json
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tests.harness.daemon import ROOT
from vkteams_daemon import config as configuration
from vkteams_daemon import config_template
from vkteams_daemon.config import find_file, load, masked, merge_reloadable, parse_duration
from vkteams_daemon.errors import ConfigError, PermissionRefused
from vkteams_daemon.options import ALIASES, SECTIONS, Config, options
from vkteams_daemon.secret_exposure import exposed_files

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def into(text: str) -> Path:
        file = tmp_path / "d.toml"
        file.write_text(text, encoding="utf-8")
        return file

    return into


def _refused(expected: str, *arguments: Any, **settings: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(*arguments, **({"environ": {}} | settings))
    assert str(caught.value) == expected
    return caught.value


# Files


@pytest.mark.parametrize("option", ["daemon.pid_file", "daemon.status_file", "daemon.log_file"])
def test_no_file_is_written_in_the_place_of_another(write: Write, tmp_path: Path, option: str) -> None:
    """The status would replace the token."""
    source = write("")
    file, link = tmp_path / "file", tmp_path / "link"
    link.symlink_to(file)
    others = ["api.token_file", "api.ca_file", "database.url_file", "mcp.tokens_file", "oidc.client_secret_file",
              "oidc.users_file", "daemon.pid_file", "daemon.status_file", "daemon.log_file"]  # fmt: skip
    for make in (lambda: None, lambda: file.write_text("secret", encoding="utf-8")):
        make()
        for other in others:
            if other != option:
                with pytest.raises(ConfigError, match=r"is the file of .* too") as caught:
                    load(source, environ={}, flags={option: str(file), other: str(link)})
                assert option in str(caught.value) and other in str(caught.value)
    with pytest.raises(ConfigError, match=f"{option}: .* is the file of the configuration too"):
        load(source, environ={}, flags={option: str(source)})
    null = {"VKTEAMS_BOT_CONFIG": "/dev/null"}
    assert load(environ=null, flags={"daemon.log_file": "/dev/null"}).log_file == Path("/dev/null")


# Which source overrides which


def test_defaults_without_file_and_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(configuration, "SYSTEM_DIRECTORY", tmp_path)
    assert load(environ={"HOME": str(tmp_path)}) == Config()


def test_environment_over_file_and_flags_over_environment(write: Write) -> None:
    file = write("[api]\npoll_time = 10\nread_margin = 1\nbackoff_max = 5\n[daemon]\npid_file = '/f'\n")
    environ = {"VKTEAMS_API_POLL_TIME": "20", "VKTEAMS_API_READ_MARGIN": "2.5", "VKTEAMS_DAEMON_PID_FILE": "/e"}
    config = load(file, environ=environ, flags={"api.poll_time": 30, "daemon.pid_file": None})
    assert (config.api.poll_time, config.api.read_margin, config.api.backoff_max) == (30, 2.5, 5.0)
    assert config.daemon.pid_file == "/e"
    assert config.source == str(file)


@pytest.mark.parametrize(("alias", "variable"), ALIASES.items())
def test_short_names(write: Write, alias: str, variable: str) -> None:
    option = next(option for option in options() if option.variable == variable)
    file = write("[api]\nurl = 'http://f'\ntoken = 'f'\n[storage]\nchat_ids = ['f']\n[database]\nurl = 'f'\n")

    def value(environ: dict[str, str]) -> Any:
        return getattr(getattr(load(file, environ=environ), option.section), option.key)

    wrap = (lambda text: (text,)) if option.type == "list" else (lambda text: text)
    assert value({alias: "short"}) == wrap("short")
    assert value({alias: ""}) == value({})
    assert value({alias: "short", variable: "own"}) == wrap("own"), "the exact name is meant for us alone"
    assert value({variable: "own", alias: "short"}) == wrap("own")


@pytest.mark.parametrize("option", list(options()), ids=lambda option: option.name)
def test_every_option_has_its_variable(option: configuration.Option, write: Write) -> None:
    said = {"int": "64", "float": "1.5", "bool": "yes", "list": "a, b,"}.get(option.type, option.type.split(" | ")[-1])
    value = {"64": 64, "1.5": 1.5, "yes": True, "a, b,": ("a", "b")}.get(said, said)
    if option.name in ("api.token_file", "database.url_file"):
        said = value = str(write("secret"))
    if option.name in ("storage.retention", "access.roster_max_age", "access.audit_retention", "api.retention"):
        said = value = "365d"
    if option.name == "search.timezone":
        said = value = "Europe/Moscow"
    if option.name == "web.message_link":
        said = value = "https://chat.corp.example/{chat_id}/{msg_id}"
    if option.name in ("web.url", "mcp.url", "oidc.issuer"):
        said = value = "https://archive.corp.example"
    if option.name in ("daemon.metrics", "mcp.metrics"):
        said = value = "127.0.0.1:9187"
    config = load(ROOT / "etc" / "vkteamsd.toml", environ={option.variable: said})
    assert getattr(getattr(config, option.section), option.key) == value


@pytest.mark.parametrize(
    ("said", "value"),
    [(said, True) for said in ("true", "TRUE", "1", "on", "Yes")]
    + [(said, False) for said in ("false", "False", "0", "off", "NO")],
)
def test_yes_and_no_in_the_environment(write: Write, said: str, value: bool) -> None:
    assert load(write(""), environ={"VKTEAMS_DAEMON_ALLOW_ROOT": said}).daemon.allow_root is value


# Which file


def test_which_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system, home, own = tmp_path / "etc", tmp_path / "home", tmp_path / "xdg"
    monkeypatch.setattr(configuration, "SYSTEM_DIRECTORY", system)
    for directory in (system, home / ".config" / "vkteams", own / "vkteams"):
        directory.mkdir(parents=True)
    environ = {"HOME": str(home), "XDG_CONFIG_HOME": str(own), "VKTEAMS_BOT_CONFIG": "/named"}
    assert find_file("given", "", environ) == Path("given")
    assert find_file(None, "", environ) == Path("/named")
    environ.pop("VKTEAMS_BOT_CONFIG")
    assert find_file(None, "", environ) is None
    (home / ".config" / "vkteams" / "vkteamsd.toml").touch()
    assert find_file(None, "", environ) is None
    assert find_file(None, "", {"HOME": str(home)}) == home / ".config" / "vkteams" / "vkteamsd.toml"
    (own / "vkteams" / "vkteamsd.toml").touch()
    (own / "vkteams" / "sales.toml").touch()
    assert find_file(None, "", environ) == own / "vkteams" / "vkteamsd.toml"
    assert find_file(None, "sales", environ) == own / "vkteams" / "sales.toml"
    (system / "sales.toml").touch()
    assert find_file(None, "sales", environ) == system / "sales.toml"


def test_a_reader_without_a_file_gets_the_readers_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "SYSTEM_DIRECTORY", tmp_path)
    environ = {"HOME": str(tmp_path / "home")}
    (tmp_path / "readers").mkdir()
    for name in ("vkteamsd", "sales"):
        file = tmp_path / "readers" / f"{name}.toml"
        file.write_text(f"[database]\nread_url = 'postgresql://reader@h/{name}'\n")
        assert find_file(None, "" if name == "vkteamsd" else name, environ) == file
    (tmp_path / "vkteamsd.toml").touch()
    assert find_file(None, "", environ) == tmp_path / "vkteamsd.toml"
    may_read = os.access
    monkeypatch.setattr(os, "access", lambda file, mode: file != tmp_path / "vkteamsd.toml" and may_read(file, mode))
    assert load(environ=environ).database.read_url == "postgresql://reader@h/vkteamsd"


@pytest.mark.parametrize("name", ["../etc", "a/b", ".hidden", "a b", "ё", "a\n", ".."])
def test_an_instance_is_a_name(name: str) -> None:
    _refused(f"--instance: {name!r} is not a name of letters, digits, '_', '-' and '.'", instance=name)


def test_instances_do_not_share_files(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/r")
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    config = load(write(""), instance="sales-1.b_2", environ={})
    assert config.instance == "sales-1.b_2"
    for path in (config.pid_file, config.status_file, config.log_file, config.state_dir):
        assert "/sales-1.b_2" in str(path)


def test_instances_share_the_models_unless_one_has_its_own(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    config = load(write(""), instance="sales", environ={})
    assert config.models_dir == load(write(""), environ={}).models_dir == tmp_path / "vkteams" / "models"
    config.state_dir.joinpath("models").mkdir(parents=True)
    assert config.models_dir == tmp_path / "vkteams" / "sales" / "models"


def test_an_instance_without_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "SYSTEM_DIRECTORY", tmp_path)
    with pytest.raises(ConfigError, match=r"there is no .*/sales\.toml") as refused:
        load(instance="sales", environ={"HOME": str(tmp_path)})
    assert "--instance sales config init" in refused.value.hint


def test_the_source_of_the_token_is_known(write: Write, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    named = load(write(f"[api]\ntoken_file = '{tmp_path}/token'"), environ={})
    assert named.token_source == f"api.token_file ({tmp_path}/token)"
    assert load(write("[api]\ntoken = 't'"), environ={}).token_source == "api.token"
    environ = {"VKTEAMS_BOT_API_TOKEN": "t"}
    assert load(write(""), environ=environ).token_source == "api.token ($VKTEAMS_BOT_API_TOKEN)"
    assert "systemd" in load(write(""), environ={"CREDENTIALS_DIRECTORY": str(tmp_path)}).token_source


# Mistakes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[api]\npoll_time = 0", "api.poll_time: 0 is out of range: at least 1, at most 300 (FILE, line 2)"),
        ("[api]\n\n poll_time=301", "api.poll_time: 301 is out of range: at least 1, at most 300 (FILE, line 3)"),
        ("[api]\npoll_time = 1.5", "api.poll_time: expected int, got float (FILE, line 2)"),
        ("[api]\nread_margin = 0", "api.read_margin: 0 is out of range: above 0, at most 120 (FILE, line 2)"),
        ("[api]\nurl = 5", "api.url: expected str, got int (FILE, line 2)"),
        ("[ api ] # x\n'url' = []", "api.url: expected str, got array (FILE, line 2)"),
        ("[storage]\nchat_ids = 'a'", "storage.chat_ids: expected array, got str (FILE, line 2)"),
        ("[storage]\nchat_ids = ['a', 5]", "storage.chat_ids: expected str, got int (FILE, line 2)"),
        ("[daemon]\nrole = 'king'", "daemon.role: 'king' is none of all, listen, embed (FILE, line 2)"),
        ("[log]\nlevel = 'INFO'", "log.level: 'INFO' is none of debug, info, warning, error (FILE, line 2)"),
        ("[daemon]\nallow_root = 'maybe'", "daemon.allow_root: expected bool, got str (FILE, line 2)"),
        ("[log]\n[daemon]\ncolour = 'red'", "daemon.colour: no such option (FILE, line 3)"),
        ("[log]\ncolour = 1\n[daemon]\ncolour = 'red'", "log.colour: no such option (FILE, line 2)"),
        ("[daemon]\n[daemon.deep]\nx = 1", "daemon.deep: no such option"),
        ("# [api]\n[log]\n[api]\n#colour = 1\ncolour = 1", "api.colour: no such option (FILE, line 5)"),
        ("api.url='x'\napi.poll_time=0", "api.poll_time: 0 is out of range: at least 1, at most 300 (FILE, line 2)"),
        ("api={url='x', poll_time = 0}", "api.poll_time: 0 is out of range: at least 1, at most 300 (FILE, line 1)"),
        ("[log]\n\n[king]\nx = 1", "king: no such section (FILE, line 3); there are SECTIONS"),
        ("x = 1", "x: no such section (FILE, line 1); there are SECTIONS"),
        ("king.x = 1", "king: no such section (FILE, line 1); there are SECTIONS"),
        ("api = 5", "api: is a section, not a value (FILE, line 1)"),
        ("\n[[api]]\nurl = 'x'", "api: is a section, not a value (FILE, line 2)"),
        ("[api", "FILE: not valid TOML: Expected ']' at the end of a table declaration (at end of document)"),
        ("[api]\nurl = http", "FILE: not valid TOML: Invalid value (at line 2, column 7)"),
        ("[api]\nurl = 'a'\nurl = 'b'\n", "FILE: not valid TOML: Cannot overwrite a value (at line 3, column 10)"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_with_file_and_line(write: Write, text: str, said: str) -> None:
    file = write(text)
    sections = ", ".join(f"[{section}]" for section in SECTIONS)
    _refused(said.replace("FILE", str(file)).replace("SECTIONS", sections), file)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("VKTEAMS_API_POLL_TIME", "soon", "api.poll_time: expected int, got str"),
        ("VKTEAMS_API_POLL_TIME", "0", "api.poll_time: 0 is out of range: at least 1, at most 300"),
        ("VKTEAMS_API_READ_MARGIN", "nan", "api.read_margin: nan is out of range: above 0, at most 120"),
        ("VKTEAMS_DAEMON_ALLOW_ROOT", "maybe", "daemon.allow_root: expected bool, got str"),
        ("VKTEAMS_LOG_LEVEL", "loud", "log.level: 'loud' is none of debug, info, warning, error"),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_named_and_not_the_line_of_the_file(
    write: Write, variable: str, value: str, said: str
) -> None:
    file = write("[api]\npoll_time = 30\n[log]\nlevel = 'info'\n")
    _refused(f"{said} (${variable})", file, environ={variable: value})


def test_a_value_that_is_not_utf_8_is_refused(write: Write) -> None:
    file = write("[api]\npoll_time = 30\n")
    _refused("api.token: it is not UTF-8 ($VKTEAMS_BOT_API_TOKEN)", file, environ={"VKTEAMS_BOT_API_TOKEN": "\udcff"})
    chats = ("1@chat.agent", "\udcff")
    _refused("storage.chat_ids: it is not UTF-8 (command line)", file, flags={"storage.chat_ids": chats})


def test_a_wrong_flag_is_reported_as_command_line(write: Write) -> None:
    file = write("[daemon]\nrole = 'all'\n")
    said = "daemon.role: 'king' is none of all, listen, embed (command line)"
    _refused(said, file, flags={"daemon.role": "king"})


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    _refused(f"{tmp_path}/no: cannot be read: No such file or directory", tmp_path / "no")
    _refused(f"{tmp_path}: cannot be read: Is a directory", tmp_path)
    (tmp_path / "latin").write_bytes(b"# \xff\n")
    _refused(f"{tmp_path}/latin: cannot be read: it is not UTF-8", tmp_path / "latin")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_is_closed(write: Write) -> None:
    file = write("")
    file.chmod(0)
    with pytest.raises(PermissionRefused, match="this user may not read it"):
        load(file, environ={})


def test_a_file_from_windows(tmp_path: Path) -> None:
    (tmp_path / "d.toml").write_bytes(b"\xef\xbb\xbf[api]\r\npoll_time = 9\r\n")
    assert load(tmp_path / "d.toml", environ={}).api.poll_time == 9


# Secrets


def test_secrets_from_files(write: Write, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"\xef\xbb\xbf 001.1.2:3 \r\nsecond line\n")
    (tmp_path / "url").write_text("postgresql://u:p@h/d")
    config = load(
        write(f"[api]\ntoken_file = '{tmp_path}/token'\n[database]\nurl_file = '{tmp_path}/url'\n"), environ={}
    )
    assert (config.api.token, config.database.url) == ("001.1.2:3", "postgresql://u:p@h/d")


def test_secrets_from_the_credentials_directory(write: Write, tmp_path: Path) -> None:
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert load(write(""), environ=environ).api.token == ""
    (tmp_path / "token").write_text("credential\n")
    (tmp_path / "database_url").write_text("postgresql://credential\n")
    config = load(write(""), environ=environ)
    assert (config.api.token, config.database.url) == ("credential", "postgresql://credential")
    config = load(write("[api]\ntoken = 'file'\n[database]\nurl = 'file'\n"), environ=environ)
    assert (config.api.token, config.database.url) == ("file", "file")


def test_a_secret_itself_stands_over_its_file_of_the_same_rank(write: Write, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from file")
    file = write(f"[api]\ntoken = 'itself'\ntoken_file = '{tmp_path}/token'\n")
    assert load(file, environ={}).api.token == "itself"
    assert load(file, environ={"VKTEAMS_BOT_API_TOKEN": "variable"}).api.token == "variable"


def test_a_file_that_the_environment_names_stands_over_a_secret_in_the_file(write: Write, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("new")
    file = write("[api]\ntoken = 'old'\n[database]\nurl = 'old'\n")
    environ = {"VKTEAMS_API_TOKEN_FILE": f"{tmp_path}/secret", "VKTEAMS_DATABASE_URL_FILE": f"{tmp_path}/secret"}
    config = load(file, environ=environ)
    assert (config.api.token, config.database.url) == ("new", "new")
    config = load(file, environ=environ | {"VKTEAMS_BOT_API_TOKEN": "itself", "DATABASE_URL": "itself"})
    assert (config.api.token, config.database.url) == ("itself", "itself")


def test_secrets_that_cannot_be_read(write: Write, tmp_path: Path) -> None:
    file = write(f"[api]\ntoken_file = '{tmp_path}/secret'\n")
    _refused(f"api.token_file: {tmp_path}/secret cannot be read: No such file or directory", file)
    (tmp_path / "secret").write_text("\n001.1:1\n")
    _refused(f"api.token_file: {tmp_path}/secret is empty", file)
    (tmp_path / "secret").write_bytes(b"\xff")
    _refused(f"api.token_file: {tmp_path}/secret cannot be read: it is not UTF-8", file)
    (tmp_path / "token").write_text("")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    _refused(f"$CREDENTIALS_DIRECTORY: {tmp_path}/token is empty", write(""), environ=environ)


def test_no_secret_is_shown(write: Write) -> None:
    assert all(value == option.default for option in options() if option.secret for value in [_shown(Config(), option)])
    file = write(
        "[api]\ntoken = 'SECRET'\nproxy = 'http://u:SECRET@p'\n[database]\nurl = 'postgresql://u:SECRET@h'\n"
        "[storage]\nchat_ids = ['a']\n"
    )
    shown = masked(load(file, environ={}))
    assert "SECRET" not in str(shown)
    assert (shown["api"]["token"], shown["database"]["url"], shown["api"]["proxy"]) == ("***", "***", "***")
    assert shown["storage"]["chat_ids"] == ["a"]
    assert shown.keys() == SECTIONS.keys()


def _shown(config: Config, option: configuration.Option) -> Any:
    return masked(config)[option.section][option.key]


# Reloading


def test_only_reloadable_options_are_taken_over(write: Write) -> None:
    old = load(write("[api]\npoll_time = 10\nurl = 'http://old'\n[log]\nlevel = 'info'\n"), environ={})
    new = load(write("[api]\npoll_time = 20\nurl = 'http://new'\n[log]\nlevel = 'debug'\n"), environ={})
    merged, waiting = merge_reloadable(old, new)
    assert (merged.api.poll_time, merged.log.level, merged.api.url) == (20, "debug", "http://old")
    assert waiting == ["api.url"]
    assert merge_reloadable(old, old) == (old, [])
    assert merged.source == old.source


@pytest.mark.parametrize("option", list(options()), ids=lambda option: option.name)
def test_reload_does_what_the_table_says(option: configuration.Option) -> None:
    value = {bool: not option.default, tuple: ("x",)}.get(type(option.default), f"{option.default}x")
    if isinstance(option.default, int | float) and not isinstance(option.default, bool):
        value = option.default + 1
    section = msgspec.structs.replace(getattr(Config(), option.section), **{option.key: value})
    merged, waiting = merge_reloadable(Config(), msgspec.structs.replace(Config(), **{option.section: section}))
    assert (getattr(getattr(merged, option.section), option.key) == value) is option.reload
    assert waiting == ([] if option.reload else [option.name])


# Durations, the table and its file


@pytest.mark.parametrize(
    ("said", "value"), [("90s", 90), ("15m", 900), (" 2h ", 7200), ("7d", 604800), ("4w", 2419200)]
)
def test_durations(said: str, value: float) -> None:
    assert parse_duration(said) == value


@pytest.mark.parametrize("said", ["", "5", "h", "-5s", "1.5h", "5 m", "5min", "٥s", "5s\n5s"])
def test_a_text_that_is_no_duration_is_refused(said: str) -> None:
    with pytest.raises(ConfigError, match="is not a duration such as 30m, 2h, 7d"):
        parse_duration(said)


def test_every_option_says_what_it_is() -> None:
    seen = set()
    for option in options():
        assert re.fullmatch(r"\S.*[^.\s]\.", option.help), option.name
        assert option.name not in seen
        seen.add(option.name)
    assert {option.section for option in options()} == set(SECTIONS)


def test_the_file_of_all_options_is_the_table() -> None:
    file = ROOT / "etc" / "vkteamsd.toml"
    assert file.read_text(encoding="utf-8") == config_template.toml(), "run `vkteamsctl config show --template`"


def test_the_file_of_all_options_changes_nothing_and_is_right_without_its_marks(write: Write) -> None:
    text = config_template.toml()
    assert load(write(text), environ={}) == msgspec.structs.replace(Config(), source=str(write(text)))
    assert all(not table for table in tomllib.loads(text).values())
    opened = re.sub(r"(?m)^#(\w+ = )", r"\1", text)
    assert len(re.findall(r"(?m)^\w+ = ", opened)) == len(list(options()))
    assert load(write(opened), environ={}) == msgspec.structs.replace(Config(), source=str(write(opened)))


def test_the_file_of_all_options_says_what_can_be_reloaded() -> None:
    for option in options():
        help_line = re.search(rf"# (.*)\n#{option.key} = ", config_template.toml().split(f"[{option.section}]")[1])
        assert help_line is not None
        assert option.help in help_line[1]
        assert help_line[1].endswith("(reload)") is option.reload


_SECRET_TOKEN = "001.1234567890.0987654321:1000000042"


@pytest.mark.parametrize("secret", [_SECRET_TOKEN, "postgresql://anna:s3cret@db/x", "Zx81kPq0LmN4vT7rWc2Ys9"])
@pytest.mark.parametrize(
    "option",
    [
        "api.token_file", "database.url_file", "api.poll_time", "log.level", "daemon.user", "daemon.state_dir",
        "api.ca_file", "storage.chat_ids", "embedding.model",
    ],
)  # fmt: skip
def test_secret_in_the_place_of_another_option_is_not_repeated(tmp_path: Path, option: str, secret: str) -> None:
    if option not in ("api.token_file", "database.url_file", "api.poll_time") and secret.startswith("Zx"):
        return  # a word or a name stands there, and this one may be a mistake
    section, key = option.split(".")
    file = tmp_path / "d.toml"
    file.write_text(f"[{section}]\n{key} = {[secret] if key == 'chat_ids' else json.dumps(secret)}\n")
    with pytest.raises(ConfigError, match=option) as refusal:
        load(file, environ={})
    for hidden in (secret, "s3cret"):
        assert hidden not in f"{refusal.value} {refusal.value.hint}"


def test_every_file_with_a_secret_is_held_to_one_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token, url, tokens, secret, credential = (tmp_path / name for name in ("t", "u", "tokens", "secret", "token"))
    for file in (token, url, tokens, secret, credential):
        file.write_text("x\n")
    source = tmp_path / "d.toml"
    text = f"[api]\ntoken_file = '{token}'\n[database]\nurl_file = '{url}'\n[mcp]\ntokens_file = '{tokens}'\n"
    text += f"[oidc]\nclient_secret_file = '{secret}'\n"
    source.write_text(text)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    files = (token, url, tokens, secret, credential)

    def exposed() -> list[str]:
        return [line.partition(":")[0] for line in exposed_files(load(source, environ=environ), environ)]

    for mode in (0o644, 0o660, 0o602):
        for file in files:
            file.chmod(mode)
        assert exposed() == [str(file) for file in files], "the configuration itself has no secret"
    for file in files:
        file.chmod(0o640)
    assert exposed() == []
    with monkeypatch.context() as patch:
        group = SimpleNamespace(gr_name="_vkteams", gr_mem=["_vkteams", "boris"])
        patch.setattr(grp, "getgrgid", lambda _: group)
        assert exposed() == [str(file) for file in files], "whoever may search had the token, too"
        group.gr_mem = ["_vkteams"]
        assert exposed() == []
        group.gr_name = "vkteams-readers"
        assert exposed() == [str(file) for file in files], "whoever joins it"
    password, key = tmp_path / "pgpass", tmp_path / "client.key"
    for file in (password, key):
        file.touch()
        file.chmod(0o644)
    for database_url in (
        f"postgresql://x/y?passfile={password}&sslkey={key}",
        f"host=x passfile='{password}' sslkey={key}",
    ):
        url.write_text(f"{database_url}\n")
        assert exposed() == [str(password), str(key)]
    url.write_text("x\n")
    source.write_text(text.replace("[database]", "proxy = 'http://u:s3cret@proxy'\n[database]"))
    source.chmod(0o644)
    assert exposed() == [str(source)]
