"""Reads the options from a TOML file, the environment and flags, and checks them.

The environment overrides the file, and flags override the environment. The first mistake is raised as a `ConfigError`
of the form `section.key: what is wrong (FILE, line N)`, or with the variable that holds the value. The table of options
is in options.py.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from vkteams_daemon import plain_file
from vkteams_daemon.errors import ConfigError, PermissionRefused
from vkteams_daemon.options import (
    ALIASES,
    READERS,
    READERS_GROUP,
    SECTIONS,
    SYSTEM_DIRECTORY,
    Config,
    Option,
    has_credentials,
    hide_credentials,
    is_token,
    masked_value,
    options,
)

_SECRETS = (("api.token", "api.token_file"), ("database.url", "database.url_file"))


def find_file(explicit: str | Path | None, instance: str, environ: Mapping[str, str]) -> Path | None:
    """The file to read: that of --config, of VKTEAMS_BOT_CONFIG, the system's or the user's; None if there is none.

    The user's own file comes before a system file that this user may not read. Where neither can be read, the file of
    the same name is taken that the system has for readers.
    """
    path = explicit or environ.get("VKTEAMS_BOT_CONFIG")
    if path:
        return Path(path)
    name = f"{instance or 'vkteamsd'}.toml"
    user = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "/")) / ".config") / "vkteams" / name
    files = [file for file in (SYSTEM_DIRECTORY / name, user, SYSTEM_DIRECTORY / READERS / name) if _exists(file)]
    return next((file for file in files if os.access(file, os.R_OK)), files[0] if files else None)


def _exists(file: Path) -> bool:
    """Whether there is such a file; not if this user may not look."""
    try:
        return file.exists()
    except OSError:
        return False


def load(
    path: str | Path | None = None,
    *,
    instance: str = "",
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Read, merge and check the options.

    Args:
        path: the file given with --config, or None to use the first of the usual files.
        instance: the name given with --instance, or "".
        flags: `{"section.key": value}` from the command line; None values are ignored.
        environ: the environment, os.environ by default.

    Raises:
        ConfigError: an option is wrong; the message names the file's line, if the value stands in a file. It never
            repeats a value that has the form of a secret: somebody may have put the token in a wrong place.
        PermissionRefused: this user may not read the file, or a file that holds a secret.
    """
    try:
        return _load(path, instance, flags, environ)
    except (ConfigError, PermissionRefused) as error:
        sentence = hide_credentials(str(error))
        if sentence == str(error):
            raise
        raise type(error)(sentence, hint=hide_credentials(error.hint)) from None


def _load(
    path: str | Path | None, instance: str, flags: Mapping[str, Any] | None, environ: Mapping[str, str] | None
) -> Config:
    environ = os.environ if environ is None else environ
    if not re.fullmatch(r"[A-Za-z0-9_.-]*", instance) or instance.startswith("."):
        raise ConfigError(f"--instance: {instance!r} is not a name of letters, digits, '_', '-' and '.'")
    file = find_file(path, instance, environ)
    if instance and file is None:
        raise ConfigError(
            f"--instance: there is no {SYSTEM_DIRECTORY / instance}.toml, and no {instance}.toml of this user",
            hint=f"Make it with `vkteamsctl --instance {instance} config init`.",
        )
    text = _read(file) if file else ""
    tables = _parse(text, file) if file else {}
    sources: dict[str, str] = {}
    for name, variable, value in _environment(environ):
        _set(tables, name, value)
        sources[name] = f" (${variable})"
    for name, value in (flags or {}).items():
        if value is not None:
            _set(tables, name, value)
            sources[name] = " (command line)"
    for name, source in sources.items():
        section, _, key = name.partition(".")
        if not _is_utf8(tables[section][key]):
            raise ConfigError(f"{name}: it is not UTF-8{source}")
    for secret, secret_file in _SECRETS:
        # A secret file that the environment names overrides a secret in the configuration file.
        if secret_file in sources and secret not in sources:
            _set(tables, secret, "")

    def location(name: str) -> str:
        return sources.get(name) or _location(text, file, *name.split("."))

    config = _convert(tables, location)
    _check_misplaced_secrets(config, location)
    source = sources.get("search.timezone") or _location(text, file, "search", "timezone")
    _check_timezone(config.search.timezone, source)
    config = msgspec.structs.replace(config, source=str(file) if file else "", instance=instance)
    _check_files(config)
    return _with_secrets(config, environ, sources)


def _check_misplaced_secrets(config: Config, location: Callable[[str], str]) -> None:
    """Refuse a secret in an option that is none: messages, status and `config show` would repeat it as a name."""
    for option in options():
        value = getattr(getattr(config, option.section), option.key)
        texts = value if isinstance(value, tuple) else (value,)
        # The client refuses a password in api.url and says how to write it.
        has_form = is_token if option.name == "api.url" else has_credentials
        if not option.secret and any(isinstance(text, str) and has_form(text) for text in texts):
            raise ConfigError(
                f"{option.name}: its value looks like a secret{location(option.name)}",
                hint="The bot's token belongs into the file of api.token_file, a database's URL into that of"
                " database.url_file.",
            )


def _check_files(config: Config) -> None:
    """Refuse a file that the daemon would write in the place of another one: its status would replace the token."""
    written = {
        "daemon.pid_file": config.pid_file, "daemon.status_file": config.status_file,
        "daemon.log_file": config.log_file,
    }  # fmt: skip
    read = {
        "the configuration": config.source, "api.token_file": config.api.token_file, "api.ca_file": config.api.ca_file,
        "database.url_file": config.database.url_file, "mcp.tokens_file": config.mcp.tokens_file,
        "oidc.client_secret_file": config.oidc.client_secret_file, "oidc.users_file": config.oidc.users_file,
    }  # fmt: skip
    known = {_identity(Path(file)): name for name, file in read.items() if file}
    for name, path in written.items():
        other = known.setdefault(_identity(path), name)
        if other != name:
            raise ConfigError(f"{name}: {path} is the file of {other} too", hint="Give each a file of its own.")


def _identity(path: Path) -> object:
    """What is equal for two names of one file. A device such as /dev/null may stand for several."""
    try:
        about = path.stat()
    except OSError:
        return os.path.realpath(path)
    return object() if stat.S_ISCHR(about.st_mode) else (about.st_dev, about.st_ino)


def masked(config: Config) -> dict[str, dict[str, Any]]:
    """The options as plain values. Each secret is `***`, also a URL that contains a password."""
    tables: dict[str, dict[str, Any]] = {}
    for option in options():
        value = getattr(getattr(config, option.section), option.key)
        value = masked_value(value, secret=option.secret)
        _set(tables, option.name, list(value) if isinstance(value, tuple) else value)
    return tables


def parse_duration(duration: str) -> float:
    """`90s`, `15m`, `2h`, `7d` or `4w` in seconds; ConfigError for anything else."""
    match = re.fullmatch(r"([0-9]{1,9})([smhdw])", duration.strip())
    if not match:
        raise ConfigError(f"{duration!r} is not a duration such as 30m, 2h, 7d")
    return int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[match[2]]


def read_tables(file: Path) -> dict[str, dict[str, Any]]:
    """The sections of a configuration file as they are written, unchecked.

    Raises:
        ConfigError, PermissionRefused: it cannot be read, or is no TOML.
    """
    return _parse(_read(file), file)


def _read(file: Path) -> str:
    try:
        return plain_file.read_text(file)
    except PermissionError as error:
        hint = f"To search, join the group {READERS_GROUP}." if file.parent == SYSTEM_DIRECTORY else ""
        raise PermissionRefused(f"{file}: this user may not read it", hint=hint) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{file}: cannot be read: {reason}") from error


def _parse(text: str, file: Path) -> dict[str, dict[str, Any]]:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from error
    for name, table in tables.items():
        if name not in SECTIONS:
            sections = ", ".join(f"[{section}]" for section in SECTIONS)
            raise ConfigError(f"{name}: no such section{_location(text, file, name, '')}; there are {sections}")
        if not isinstance(table, dict):
            raise ConfigError(f"{name}: is a section, not a value{_location(text, file, name, '')}")
    return tables


def _environment(environ: Mapping[str, str]) -> Iterator[tuple[str, str, Any]]:
    """(option, variable, value) of every variable that is set; a later value overrides an earlier one."""
    variables = {option.variable: option for option in options()}
    # An option's own variable overrides its short name, because other programs may use the short name too.
    for name, variable in [*ALIASES.items(), *((own, own) for own in variables)]:
        value = environ.get(name)
        if not value:
            continue
        option = variables[variable]
        parsed: Any = value
        if option.type == "list":
            parsed = [part.strip() for part in value.split(",") if part.strip()]
        elif option.type == "bool":
            parsed = {"yes": True, "on": True, "no": False, "off": False}.get(value.lower(), value)
        yield option.name, name, parsed


def _set(tables: dict[str, dict[str, Any]], name: str, value: Any) -> None:
    section, _, key = name.partition(".")
    tables.setdefault(section, {})[key] = value


def _is_utf8(value: Any) -> bool:
    """Whether a value of the environment or the command line was UTF-8. Python maps other bytes to surrogates."""
    texts = value if isinstance(value, list | tuple) else [value]
    return not any("\ud800" <= letter <= "\udfff" for text in texts if isinstance(text, str) for letter in text)


def _convert(tables: Mapping[str, Any], location: Callable[[str], str]) -> Config:
    try:
        # strict=False converts the environment's "30" and "true"; the values of a file have TOML's types already.
        return msgspec.convert(tables, Config, strict=False)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$.")
        section, _, key = path.rstrip("`").partition(".")
        key = key.partition("[")[0]
        unknown = re.match(r"Object contains unknown field `(.+)`", problem)
        if unknown:
            key, problem = unknown[1], _no_such_option(section, unknown[1])
        name = f"{section}.{key}"
        option = next((option for option in options() if option.name == name), None)
        if option and not unknown:
            problem = _explain(problem, tables[section][key], option)
        raise ConfigError(f"{name}: {problem}{location(name)}") from error


def _check_timezone(name: str, location: str) -> None:
    if not name:
        return
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ConfigError(
            f"search.timezone: {name!r} is not a time zone, such as Europe/Moscow{location}",
            hint="The names are those of the package tzdata, if it is installed.",
        ) from None


def _no_such_option(section: str, key: str) -> str:
    import difflib

    near = difflib.get_close_matches(key, [option.key for option in options() if option.section == section], 1, 0.8)
    return f"no such option; is {near[0]} meant?" if near else "no such option"


def _explain(problem: str, value: Any, option: Option) -> str:
    """Replace msgspec's message by one with the option's choices or limits, if it is about them."""
    if problem.startswith("Invalid enum value"):
        return f"{value!r} is none of {option.type.replace(' | ', ', ')}"
    if re.search("`[a-z]+` [<>]", problem):
        return f"{value} is out of range: {option.limits}"
    if "matching regex" in problem:
        return f"{value!r} is not {option.limits}"
    return f"{problem[:1].lower()}{problem[1:]}".replace("`", "")


def _location(text: str, file: Path | None, section: str, key: str) -> str:
    """` (FILE, line N)` of the line that sets the key, or opens the section if `key` is empty; "" if none does."""
    quoted = [rf"[\"']?{re.escape(name)}[\"']?" for name in (section, key)]
    inline = rf"\s*{quoted[0]}\s*=\s*" + (rf"\{{(.*[,\s])?{quoted[1]}\s*[.=]" if key else "")
    dotted = rf"\s*{quoted[0]}\s*\.\s*" + (rf"{quoted[1]}\s*[.=]" if key else "")
    current = ""
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[+\s*[\"']?([\w-]+)", line) if "=" not in line.partition("#")[0] else None
        if header:
            current = header[1]
        if current == section:
            match = header if not key else re.match(rf"\s*{quoted[1]}\s*[.=]", line)
        else:
            match = None if current else re.match(inline, line) or re.match(dotted, line)
        if match:
            return f" ({file}, line {number})"
    return ""


def _with_secrets(config: Config, environ: Mapping[str, str], sources: Mapping[str, str]) -> Config:
    token = config.api.token or _first_line(config.api.token_file, "api.token_file")
    token_source = f"api.token{sources.get('api.token', '')}"
    if not config.api.token:
        token_source = f"api.token_file ({config.api.token_file})" if token else "the credential `token` of systemd"
    url = config.database.url or _first_line(config.database.url_file, "database.url_file")
    token, url = token or _credential(environ, "token"), url or _credential(environ, "database_url")
    return msgspec.structs.replace(
        config,
        token_source=token_source if token else config.token_source,
        api=msgspec.structs.replace(config.api, token=token),
        database=msgspec.structs.replace(config.database, url=url),
    )


def _credential(environ: Mapping[str, str], name: str) -> str:
    """The credential of this name from systemd (systemd.exec(5), LoadCredential), or ""."""
    directory = environ.get("CREDENTIALS_DIRECTORY", "")
    try:
        exists = bool(directory) and (Path(directory) / name).exists()
    except PermissionError as error:
        raise PermissionRefused(f"$CREDENTIALS_DIRECTORY: this user may not read {directory}") from error
    return _first_line(str(Path(directory) / name), "$CREDENTIALS_DIRECTORY") if exists else ""


def _first_line(file: str, name: str) -> str:
    if not file:
        return ""
    try:
        line = plain_file.read_text(Path(file)).partition("\n")[0].strip()
    except PermissionError as error:
        raise PermissionRefused(f"{name}: this user may not read {file}") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        if _looks_secret(file):
            raise ConfigError(
                f"{name}: its value looks like a secret, not like the name of a file",
                hint="Write the secret into a file that others cannot read, and name that file here.",
            ) from None
        raise ConfigError(f"{name}: {file} cannot be read: {reason}") from error
    if not line:
        raise ConfigError(f"{name}: {file} is empty")
    return line


def _looks_secret(value: str) -> bool:
    """Whether it has the form of a token or of a URL with a password, or is one long word of letters and digits."""
    word = value.rpartition("/")[2]
    long = re.fullmatch(r"[A-Za-z0-9+=_.:~-]*[A-Za-z0-9]{20,}[A-Za-z0-9+=_.:~-]*", word) is not None
    mixed = re.search(r"[0-9]", word) is not None and re.search(r"[A-Za-z]", word) is not None
    return hide_credentials(value) != value or (long and mixed)


def merge_reloadable(old: Config, new: Config) -> tuple[Config, list[str]]:
    """The old configuration with the new values of reloadable options, and the names of the other changed options."""
    need_restart = []
    for option in options():
        value = getattr(getattr(new, option.section), option.key)
        if value == getattr(getattr(old, option.section), option.key):
            continue
        if option.reload:
            section = msgspec.structs.replace(getattr(old, option.section), **{option.key: value})
            old = msgspec.structs.replace(old, **{option.section: section})
        else:
            need_restart.append(option.name)
    return old, need_restart


__all__ = [
    "Config",
    "Option",
    "find_file",
    "load",
    "masked",
    "merge_reloadable",
    "options",
    "parse_duration",
    "read_tables",
]
