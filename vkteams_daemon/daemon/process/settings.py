"""The daemon's configuration, read at the start and again on HUP, with every path nailed down.

A daemon changes its working directory and its user, and both decide what an unset or relative path means: so the paths
that held when it was started hold until it ends, unless the file names others (which wait for a restart).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from vkteams_daemon import config as configuration
from vkteams_daemon.config import Config
from vkteams_daemon.errors import ConfigError, UsageError

_PATHS = {
    ("daemon", "runtime_dir"): "runtime_dir",
    ("daemon", "state_dir"): "state_dir",
    ("daemon", "pid_file"): "pid_file",
    ("daemon", "status_file"): "status_file",
    ("daemon", "log_file"): "log_file",
    ("embedding", "models_dir"): "models_dir",
}  # option: the property of Config that says what it comes to
_FILES = (("api", "token_file"), ("api", "ca_file"), ("database", "url_file"))
_VARIABLES = ("VKTEAMS_BOT_CONFIG", *(f"VKTEAMS_{section}_{key}".upper() for section, key in _FILES))


class Settings:
    """Where the configuration comes from: the file, the environment and the flags that the daemon was started with.

    Args:
        path: --config, or None.
        instance: --instance, or "".
        flags: `{"section.key": value}`.
        environ: os.environ at the start.

    Raises:
        UsageError: the directory that relative paths start from is gone.
    """

    def __init__(
        self, path: str | None, instance: str, flags: Mapping[str, Any], environ: Mapping[str, str] | None = None
    ) -> None:
        try:
            self._directory = Path.cwd()
        except FileNotFoundError as error:
            raise UsageError("the working directory no longer exists", hint="Change to another one.") from error
        self._environ = dict(os.environ if environ is None else environ)
        for name in _VARIABLES:
            if self._environ.get(name):
                self._environ[name] = str(self._directory / self._environ[name])
        self._path = str(self._directory / path) if path else None
        self._instance = instance
        self._flags = dict(flags)
        self._as_written = Config()
        self._in_force = Config()

    def read(self) -> Config:
        """The configuration of a daemon that starts now.

        Raises:
            ConfigError, PermissionRefused: as config.load.
        """
        # Found once: after root has been dropped, the place to look for a file would be another one.
        found = configuration.find_file(self._path, self._instance, self._environ)
        self._path = str(self._directory / found) if found else None
        self._as_written = written = self._load()
        for option, name in _PATHS.items():
            written = _replaced(written, option, str(self._directory / getattr(self._as_written, name)))
        self._in_force = written
        return written

    def read_again(self) -> Config:
        """The configuration as it reads now; its paths as in `read` where nobody has changed them.

        Raises:
            ConfigError, PermissionRefused: as config.load.
        """
        fresh = self._load()
        for option in _PATHS:
            changed = _value(fresh, option) != _value(self._as_written, option)
            source = str(self._directory / _value(fresh, option)) if changed else _value(self._in_force, option)
            fresh = _replaced(fresh, option, source)
        return fresh

    def _load(self) -> Config:
        config = configuration.load(self._path, instance=self._instance, flags=self._flags, environ=self._environ)
        for option in _FILES:
            value = _value(config, option)
            if value and not Path(value).is_absolute():
                raise ConfigError(
                    f"{'.'.join(option)}: {value!r} is relative, and the daemon works in /",
                    hint="Write the whole path.",
                )
        return config


def _value(config: Config, option: tuple[str, str]) -> str:
    return str(getattr(getattr(config, option[0]), option[1]))


def _replaced(config: Config, option: tuple[str, str], value: str) -> Config:
    section, key = option
    changed = msgspec.structs.replace(getattr(config, section), **{key: value})
    return msgspec.structs.replace(config, **{section: changed})
