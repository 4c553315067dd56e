"""Reads the options from TOML, the environment and flags, and says exactly what is wrong with them.

Environment stands over the file, flags over the environment. Whatever is wrong is one `ConfigError` of the form
`section.key: what is wrong (FILE, line N)`, or with the variable that said it. The table of options is in options.py.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from vkteams_daemon.errors import ConfigError, PermissionRefused
from vkteams_daemon.options import ALIASES, SECTIONS, SYSTEM_DIRECTORY, Config, Option, options

_SECRETS = (("api.token", "api.token_file"), ("database.url", "database.url_file"))


def find_file(explicit: str | Path | None, instance: str, environ: Mapping[str, str]) -> Path | None:
    """The file to read: --config, VKTEAMS_BOT_CONFIG, the system's, the user's; None where there is none.

    A system's file that is closed to this user does not stand before the user's own.
    """
    named = explicit or environ.get("VKTEAMS_BOT_CONFIG")
    if named:
        return Path(named)
    name = f"{instance or 'vkteamsd'}.toml"
    user = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "/")) / ".config") / "vkteams" / name
    found = [path for path in (SYSTEM_DIRECTORY / name, user) if path.exists()]
    return next((path for path in found if os.access(path, os.R_OK)), found[0] if found else None)


def load(
    path: str | Path | None = None,
    *,
    instance: str = "",
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Read, merge and check the options.

    Args:
        path: the file given with --config, or None to look for one.
        instance: the name given with --instance, or "".
        flags: `{"section.key": value}` from the command line; None values are left out.
        environ: the environment, os.environ by default.

    Raises:
        ConfigError: the first thing that is wrong, with the file's line where it stands in a file.
        PermissionRefused: the file, or a file that holds a secret, may not be read by this user.
    """
    environ = os.environ if environ is None else environ
    if not re.fullmatch(r"[A-Za-z0-9_.-]*", instance) or instance.startswith("."):
        raise ConfigError(f"--instance: {instance!r} is not a name of letters, digits, '_', '-' and '.'")
    file = find_file(path, instance, environ)
    text = _read(file) if file else ""
    tables = _parse(text, file) if file else {}
    places: dict[str, str] = {}
    for name, variable, value in _environment(environ):
        _put(tables, name, value)
        places[name] = f" (${variable})"
    for name, value in (flags or {}).items():
        if value is not None:
            _put(tables, name, value)
            places[name] = " (command line)"
    for name, place in places.items():
        section, _, key = name.partition(".")
        if not _is_text(tables[section][key]):
            raise ConfigError(f"{name}: it is not UTF-8{place}")
    for direct, by_file in _SECRETS:
        # A file that the environment names stands over a secret that the configuration file itself holds.
        if by_file in places and direct not in places:
            _put(tables, direct, "")
    config = _convert(tables, lambda name: places.get(name) or _place(text, file, *name.split(".")))
    config = msgspec.structs.replace(config, source=str(file) if file else "", instance=instance)
    return _with_secrets(config, environ)


def masked(config: Config) -> dict[str, dict[str, Any]]:
    """The options as plain values, secrets as `***` (passwords inside a URL included)."""
    shown: dict[str, dict[str, Any]] = {}
    for option in options():
        value = getattr(getattr(config, option.section), option.key)
        if option.secret and value:
            value = "***"
        shown.setdefault(option.section, {})[option.key] = list(value) if isinstance(value, tuple) else value
    return shown


def parse_duration(duration: str) -> float:
    """`90s`, `15m`, `2h`, `7d`, `4w` in seconds; ConfigError for anything else."""
    match = re.fullmatch(r"([0-9]{1,9})([smhdw])", duration.strip())
    if not match:
        raise ConfigError(f"{duration!r} is not a duration such as 30m, 2h, 7d")
    return int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[match[2]]


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except PermissionError as error:
        raise PermissionRefused(f"{file}: this user may not read it") from error
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
            known = ", ".join(f"[{s}]" for s in SECTIONS)
            raise ConfigError(f"{name}: no such section{_place(text, file, name, '')}; there are {known}")
        if not isinstance(table, dict):
            raise ConfigError(f"{name}: is a section, not a value{_place(text, file, name, '')}")
    return tables


def _environment(environ: Mapping[str, str]) -> Iterator[tuple[str, str, Any]]:
    """(option, variable, value) of every variable that is set; what comes later stands over what came before."""
    variables = {option.variable: option for option in options()}
    # An option's own variable is the more exact word than a short name, which other programs may use too.
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


def _put(tables: dict[str, dict[str, Any]], name: str, value: Any) -> None:
    section, _, key = name.partition(".")
    tables.setdefault(section, {})[key] = value


def _is_text(value: Any) -> bool:
    """Whether what the environment or the command line gave was UTF-8, as a file has to be."""
    words = value if isinstance(value, list | tuple) else [value]
    return not any("\ud800" <= letter <= "\udfff" for word in words if isinstance(word, str) for letter in word)


def _convert(tables: Mapping[str, Any], place: Callable[[str], str]) -> Config:
    try:
        # strict=False reads the environment's "30" and "true"; a file has TOML's own types already.
        return msgspec.convert(tables, Config, strict=False)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        section, _, key = where.rstrip("`").partition(".")
        key = key.partition("[")[0]
        unknown = re.match(r"Object contains unknown field `(.+)`", what)
        if unknown:
            key, what = unknown[1], "no such option"
        name = f"{section}.{key}"
        option = next((option for option in options() if option.name == name), None)
        if option and not unknown:
            what = _wrong(what, tables[section][key], option)
        raise ConfigError(f"{name}: {what}{place(name)}") from error


def _wrong(what: str, value: Any, option: Option) -> str:
    """What msgspec says, in the option's own words where it has some."""
    if what.startswith("Invalid enum value"):
        return f"{value!r} is none of {option.type.replace(' | ', ', ')}"
    if re.search("`[a-z]+` [<>]", what):
        return f"{value} is out of range: {option.limits}"
    if "matching regex" in what:
        return f"{value!r} is not {option.limits}"
    return f"{what[:1].lower()}{what[1:]}".replace("`", "")


def _place(text: str, file: Path | None, section: str, key: str) -> str:
    """`(FILE, line N)` where the file sets the key, or opens the section where `key` is empty; otherwise nothing."""
    quoted = [rf"[\"']?{re.escape(name)}[\"']?" for name in (section, key)]
    inline = rf"\s*{quoted[0]}\s*=\s*" + (rf"\{{(.*[,\s])?{quoted[1]}\s*[.=]" if key else "")
    dotted = rf"\s*{quoted[0]}\s*\.\s*" + (rf"{quoted[1]}\s*[.=]" if key else "")
    current = ""
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[+\s*[\"']?([\w-]+)", line) if "=" not in line.partition("#")[0] else None
        if header:
            current = header[1]
        if current == section:
            found = header if not key else re.match(rf"\s*{quoted[1]}\s*[.=]", line)
        else:
            found = None if current else re.match(inline, line) or re.match(dotted, line)
        if found:
            return f" ({file}, line {number})"
    return ""


def _with_secrets(config: Config, environ: Mapping[str, str]) -> Config:
    token = config.api.token or _first_line(config.api.token_file, "api.token_file")
    url = config.database.url or _first_line(config.database.url_file, "database.url_file")
    token, url = token or _credential(environ, "token"), url or _credential(environ, "database_url")
    return msgspec.structs.replace(
        config,
        api=msgspec.structs.replace(config.api, token=token),
        database=msgspec.structs.replace(config.database, url=url),
    )


def _credential(environ: Mapping[str, str], name: str) -> str:
    """What systemd hands over under this name (systemd.exec(5), LoadCredential), or ""."""
    directory = environ.get("CREDENTIALS_DIRECTORY", "")
    try:
        there = bool(directory) and (Path(directory) / name).exists()
    except PermissionError as error:
        raise PermissionRefused(f"$CREDENTIALS_DIRECTORY: this user may not read {directory}") from error
    return _first_line(str(Path(directory) / name), "$CREDENTIALS_DIRECTORY") if there else ""


def _first_line(file: str, name: str) -> str:
    if not file:
        return ""
    try:
        line = Path(file).read_text(encoding="utf-8-sig").partition("\n")[0].strip()
    except PermissionError as error:
        raise PermissionRefused(f"{name}: this user may not read {file}") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{name}: {file} cannot be read: {reason}") from error
    if not line:
        raise ConfigError(f"{name}: {file} is empty")
    return line


def merge_reloadable(old: Config, new: Config) -> tuple[Config, list[str]]:
    """The running configuration with the reloadable options of a new one, and the names of changes that must wait."""
    waiting = []
    for option in options():
        value = getattr(getattr(new, option.section), option.key)
        if value == getattr(getattr(old, option.section), option.key):
            continue
        if option.reload:
            section = msgspec.structs.replace(getattr(old, option.section), **{option.key: value})
            old = msgspec.structs.replace(old, **{option.section: section})
        else:
            waiting.append(option.name)
    return old, waiting


__all__ = ["Config", "Option", "find_file", "load", "masked", "merge_reloadable", "options", "parse_duration"]
