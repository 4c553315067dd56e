"""Everything that can go wrong, as one tree; each class carries the exit code of sysexits(3).

::

    VkTeamsError                70  a fault of this program
    ├── UsageError              64  the command line is wrong
    ├── ConfigError             78  the configuration is wrong
    │   └── ModelAbsent         78  the named model is not installed
    ├── NotFound                69  what was asked for does not exist
    ├── CannotCreate            73  a file or directory cannot be made
    ├── PermissionRefused       77  this user may not do that
    ├── AlreadyRunning          75  another daemon holds the PID file
    ├── NotRunning              69  the command needs a running daemon
    ├── StoppedEarly            75  the daemon was told to stop before it was ready
    ├── ApiError                69  the Bot API did not do what was asked
    │   ├── Unauthorised        78  it refused the token
    │   ├── NotBotApi           78  what answers at the URL is not the Bot API
    │   ├── RateLimited         75  it asks to wait (`retry_after`, seconds)
    │   ├── ApiServerError      69  it failed on its side (5xx)
    │   ├── ApiRefused          69  it answered ok: false
    │   ├── ApiProtocolError    69  its answer cannot be read
    │   └── ApiUnreachable      69  no connection, or none in time
    ├── StoreError              69  the database did not do what was asked
    │   ├── DatabaseUnavailable 69  no connection, or it broke
    │   │   └── DatabaseSlow    69  it did not finish in time
    │   ├── CannotWrite         73  the disk or the database refuses to write
    │   ├── SchemaError         78  the schema does not fit this version
    │   └── FenceLost           75  another writer has taken over this bot
    └── ModelError              69  a model cannot be loaded, converted or installed
        └── ModelRefused        78  a model's files are not what they should be

The text of an error is one sentence saying what is wrong; `hint` says what to do about it.
"""

from __future__ import annotations


class VkTeamsError(Exception):
    """Base of every error this package raises on purpose.

    Attributes:
        exit_code: what a command that ends with this error exits with (sysexits(3)).
        hint: one sentence on what to do, or an empty string.
    """

    exit_code = 70

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(VkTeamsError):
    """The command line asks for something that does not exist or does not fit together."""

    exit_code = 64


class ConfigError(VkTeamsError):
    """An option is unknown, has a wrong value, or a needed one is missing."""

    exit_code = 78


class ModelAbsent(ConfigError):
    """The model that the configuration or the command names is not installed."""


class NotFound(VkTeamsError):
    """What the command names (a chat, a message, an event) is not in the archive."""

    exit_code = 69


class CannotCreate(VkTeamsError):
    """A file or directory that is needed cannot be created or written."""

    exit_code = 73


class PermissionRefused(VkTeamsError):
    """This user may not read, signal or run what the command needs."""

    exit_code = 77


class AlreadyRunning(VkTeamsError):
    """A daemon holds the PID file's lock; `pid` is its process, where it could be read."""

    exit_code = 75

    def __init__(self, message: str, *, pid: int | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.pid = pid


class NotRunning(VkTeamsError):
    """The command needs a running daemon, and there is none."""

    exit_code = 69


class StoppedEarly(VkTeamsError):
    """TERM or INT came before the daemon was ready."""

    exit_code = 75


class ApiError(VkTeamsError):
    """The Bot API did not do what was asked. No message of this branch ever holds the token."""

    exit_code = 69


class Unauthorised(ApiError):
    """The Bot API refused the token."""

    exit_code = 78


class NotBotApi(ApiError):
    """Something answers at the URL, and it is not the Bot API."""

    exit_code = 78


class RateLimited(ApiError):
    """The Bot API asks to slow down; `retry_after` is the wait it named, in seconds, or None."""

    exit_code = 75

    def __init__(self, message: str, *, retry_after: float | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class ApiServerError(ApiError):
    """The Bot API, or a proxy before it, failed on its side (5xx); `retry_after` as for RateLimited."""

    def __init__(self, message: str, *, retry_after: float | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class ApiRefused(ApiError):
    """The Bot API answered `ok: false` with a description that fits no other class."""


class ApiProtocolError(ApiError):
    """The answer is cut off, is not JSON, or does not have the Bot API's form."""


class ApiUnreachable(ApiError):
    """No connection to the Bot API, or no answer in time."""


class StoreError(VkTeamsError):
    """The database did not do what was asked."""

    exit_code = 69


class DatabaseUnavailable(StoreError):
    """No connection to the database can be had, or the one there was broke."""


class DatabaseSlow(DatabaseUnavailable):
    """The database had not done within `[database] write_timeout` what it was to do, and the connection was ended."""


class CannotWrite(StoreError):
    """The database is there and refuses to write (disk full, read-only)."""

    exit_code = 73


class SchemaError(StoreError):
    """The schema in the database is newer than this program, or is not ours."""

    exit_code = 78


class FenceLost(StoreError):
    """Another writer has taken over this bot; what this one held was not committed."""

    exit_code = 75


class ModelError(VkTeamsError):
    """A model cannot be loaded, converted, downloaded or run."""

    exit_code = 69


class ModelRefused(ModelError):
    """A model's files do not match their hashes, or its converted form is too far from its source."""

    exit_code = 78
