"""The errors of this package, as one tree. Each class carries an exit code of sysexits(3).

::

    VkTeamsError                70  a fault of this program
    ├── UsageError              64  the command line is wrong
    ├── ConfigError             78  the configuration is wrong
    │   └── ModelAbsent         78  the named model is not installed
    ├── NotFound                69  the archive does not have what the command names
    ├── CannotCreate            73  a file or directory cannot be created
    ├── PermissionRefused       77  this user may not do that
    ├── AlreadyRunning          75  another process holds what this one needs
    ├── ErasureRefused          69  an erasure would go by a wrong clock, take too much, or miss what waits in the spool
    ├── BackupDamaged           65  a file is no backup, or not a whole one
    ├── NotRunning              69  the command needs a running daemon
    ├── DaemonUnproven           4  the process that holds the PID file is not proven to be vkteamsd
    ├── StoppedEarly            75  the daemon was told to stop before it was ready
    ├── ApiError                69  a request to the Bot API failed
    │   ├── Unauthorised        78  the Bot API refused the token
    │   ├── ApiMisconfigured    78  the URL, the proxy or the certificates cannot be used (a ConfigError too)
    │   ├── NotBotApi           69  another server than the Bot API answers at the URL
    │   ├── RateLimited         75  the Bot API asks to wait (`retry_after`, seconds)
    │   ├── ApiServerError      69  the Bot API failed on its side (5xx)
    │   ├── ApiRefused          69  the Bot API answered ok: false
    │   ├── ApiProtocolError    69  the answer cannot be read
    │   └── ApiUnreachable      69  no connection, or no answer in time
    │       └── CertificateRefused 69  the certificate cannot be verified
    ├── StoreError              69  an operation on the database failed
    │   ├── DatabaseUnavailable 69  no connection, or the connection broke
    │   │   └── DatabaseSlow    69  the database did not finish in time
    │   ├── CannotWrite         73  the disk or the database refuses to write
    │   ├── SchemaError         78  the schema does not fit this version
    │   │   └── SchemaNewer     78  the schema is newer than this program
    │   └── FenceLost           75  another writer has taken over this bot
    └── ModelError              69  a model cannot be loaded, converted or installed
        └── ModelRefused        78  a model's files are not the expected ones

The text of an error is one sentence that says what is wrong. Its `hint` says what to do.
"""

from __future__ import annotations


class VkTeamsError(Exception):
    """The base of every error that this package raises on purpose.

    Attributes:
        exit_code: the exit code of a command that ends with this error (sysexits(3)).
        hint: one sentence that says what to do, or an empty string.
    """

    exit_code = 70

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(VkTeamsError):
    """The command line asks for something that does not exist or does not fit together."""

    exit_code = 64


class ConfigError(VkTeamsError):
    """An option is unknown, has a wrong value, or is needed and missing."""

    exit_code = 78


class ModelAbsent(ConfigError):
    """The model that the configuration or the command names is not installed."""


class NotFound(VkTeamsError):
    """The archive does not have what the command names: a chat, a message, a person, a gap."""

    exit_code = 69


class CannotCreate(VkTeamsError):
    """A needed file or directory cannot be created or written."""

    exit_code = 73


class PermissionRefused(VkTeamsError):
    """This user may not read, signal or run what the command needs."""

    exit_code = 77


class AlreadyRunning(VkTeamsError):
    """Another process holds what this one needs: the PID file, a bot's lock, the lock of an installation.

    `pid` is its number, or None if that is not known.
    """

    exit_code = 75

    def __init__(self, message: str, *, pid: int | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.pid = pid


class ErasureRefused(VkTeamsError):
    """An erasure was not begun: a clock is wrong, it would take too much at once, or miss what waits in the spool."""

    exit_code = 69


class BackupDamaged(VkTeamsError):
    """The file is no backup of this program, was cut off, or has changed since it was written."""

    exit_code = 65


class NotRunning(VkTeamsError):
    """The command needs a running daemon, and there is none."""

    exit_code = 69


class DaemonUnproven(VkTeamsError):
    """A process holds the PID file and is not proven to be vkteamsd: it gets no signal, and the state is unknown."""

    exit_code = 4


class StoppedEarly(VkTeamsError):
    """TERM or INT came before the daemon was ready."""

    exit_code = 75


class ApiError(VkTeamsError):
    """A request to the Bot API failed. No message of this branch ever contains the token."""

    exit_code = 69


class Unauthorised(ApiError):
    """The Bot API refused the token."""

    exit_code = 78


class ApiMisconfigured(ConfigError, ApiError):
    """A request cannot be made as configured: the URL, the proxy or the certificates are wrong."""


class NotBotApi(ApiError):
    """Another server than the Bot API answers at the URL: a wrong URL, or for a while a proxy or a maintenance page."""


class RateLimited(ApiError):
    """The Bot API asks the client to wait; `retry_after` is that wait in seconds, or None if it named none."""

    exit_code = 75

    def __init__(self, message: str, *, retry_after: float | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class ApiServerError(ApiError):
    """The Bot API, or a proxy before it, failed on its side (5xx); `retry_after` as in RateLimited."""

    def __init__(self, message: str, *, retry_after: float | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class ApiRefused(ApiError):
    """The Bot API answered `ok: false`, with a description that fits no other class."""


class ApiProtocolError(ApiError):
    """The answer is cut off, is not JSON, or does not have the form of the Bot API's answers."""


class ApiUnreachable(ApiError):
    """No connection to the Bot API, or no answer in time."""


class CertificateRefused(ApiUnreachable):
    """The certificate of the Bot API cannot be verified."""


class StoreError(VkTeamsError):
    """An operation on the database failed."""

    exit_code = 69


class DatabaseUnavailable(StoreError):
    """There is no connection to the database, or the connection broke."""


class DatabaseSlow(DatabaseUnavailable):
    """The database did not finish a transaction within `[database] write_timeout`, and the connection was closed."""


class CannotWrite(StoreError):
    """The database answers and refuses to write (disk full, read-only)."""

    exit_code = 73


class SchemaError(StoreError):
    """The schema in the database is newer than this program, or another program made it."""

    exit_code = 78


class SchemaNewer(SchemaError):
    """A newer program has migrated the schema. This program must not write any more, and an upgrade alone helps."""


class FenceLost(StoreError):
    """Another writer has taken over this bot. The open transaction was not committed."""

    exit_code = 75


class ModelError(VkTeamsError):
    """A model cannot be loaded, converted, downloaded or run."""

    exit_code = 69


class ModelRefused(ModelError):
    """A model's files do not match their hashes, or the converted model differs too much from its source."""

    exit_code = 78


def quoted(word: str) -> str:
    """A word that somebody wrote, as an error shows it: quoted, and not longer than 40 characters."""
    return repr(word if len(word) <= 40 else f"{word[:40]}…")
