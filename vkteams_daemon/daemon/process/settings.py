"""Reads the daemon's configuration, at the start and again on HUP, and makes every path absolute.

The meaning of an unset or relative path depends on the working directory and the user, and the daemon changes both. So
the paths of the start hold until the daemon ends. If the file names other paths later, they need a restart.
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
}  # option: the property of Config with its effective value
_FILES = (("api", "token_file"), ("api", "ca_file"), ("database", "url_file"))
_VARIABLES = ("VKTEAMS_BOT_CONFIG", *(f"VKTEAMS_{section}_{key}".upper() for section, key in _FILES))


class Settings:
    """The sources of the configuration: the file, the environment and the flags of the daemon's start.

    Args:
        path: the value of --config, or None.
        instance: the value of --instance, or "".
        flags: `{"section.key": value}`.
        environ: os.environ at the start.

    Raises:
        UsageError: the working directory no longer exists.
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
        # The file is looked for only once: another user, after root is dropped, would find another file.
        file = configuration.find_file(self._path, self._instance, self._environ)
        self._path = str(self._directory / file) if file else None
        self._as_written = config = self._load()
        for option, name in _PATHS.items():
            config = _replace(config, option, str(self._directory / getattr(self._as_written, name)))
        self._in_force = config
        return config

    def read_again(self) -> Config:
        """The configuration as it is now. A path that has not changed keeps the value that `read` returned.

        Raises:
            ConfigError, PermissionRefused: as config.load.
        """
        config = self._load()
        for option in _PATHS:
            changed = _value(config, option) != _value(self._as_written, option)
            path = str(self._directory / _value(config, option)) if changed else _value(self._in_force, option)
            config = _replace(config, option, path)
        return config

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


def _replace(config: Config, option: tuple[str, str], value: str) -> Config:
    section, key = option
    struct = msgspec.structs.replace(getattr(config, section), **{key: value})
    return msgspec.structs.replace(config, **{section: struct})
