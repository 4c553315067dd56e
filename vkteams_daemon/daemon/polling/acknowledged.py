"""The file that remembers which cursor was sent last: what the API has forgotten for good, whatever the database says.

It is written before a cursor is sent for the first time. So after a crash it is never behind what was acknowledged. If
the file cannot be written or read, the daemon goes on. Then it does not notice a database that goes back.

The file has two slots (`system/slot_file.py`), because it is written for each move of the cursor. The content is JSON.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import msgspec

from vkteams_daemon.store.gaps import Missing, Polls, Position
from vkteams_daemon.system.slot_file import SlotFile

log = logging.getLogger(__name__)

SUFFIX = ".acknowledged"
_POLLS_INTERVAL = 60.0  # seconds between two notes of the polls


class _Content(msgspec.Struct, kw_only=True):
    """The file: the last cursor sent for each archive, what only the spool has, what no archive got, and the polls."""

    archives: dict[str, Position] = {}
    spooled: Missing | None = None
    unsaved: list[Missing] = []
    archive: str = ""  # where the polls go, the last one that was used
    polls: Polls | None = None


class AcknowledgedFile:
    """One bot's file. It belongs to one thread of one process.

    Args:
        directory: the state directory.
        bot_id: the bot.
        warn: called with a sentence when the file cannot be written, and with None when it is written again.
    """

    def __init__(
        self, directory: Path, bot_id: str, warn: Callable[[str | None], None] = lambda sentence: None
    ) -> None:
        self._file = SlotFile(directory / f"{quote(bot_id, safe='@')[:100]}{SUFFIX}", 0o640)
        self._warn = warn
        self._failure: str | None = None
        self._content = self._read()

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    def position(self, archive_id: str) -> Position | None:
        """The last cursor that was sent while this archive was used; None if there is none."""
        return self._content.archives.get(archive_id)

    def remember(self, archive_id: str, position: Position) -> None:
        """Remember a cursor, before it is sent. Never raises."""
        if archive_id != self._content.archive:
            self._content.archive, self._content.polls = archive_id, None  # what another archive got is missing here
        known = self.position(archive_id)
        if known is None or replace(known, at=position.at) != position or self._failure:
            self._content.archives[archive_id] = replace(position, at=datetime.now(UTC))
            self._write()

    @property
    def spooled(self) -> Missing | None:
        """What was acknowledged and only the spool has: it is missing if the spool is lost."""
        return self._content.spooled

    def note_spooled(self, missing: Missing | None) -> None:
        """Note what only the spool has, before it is acknowledged; None: nothing. Never raises."""
        if missing != self._content.spooled:
            self._content.spooled = missing
            self._write()

    def spool_lost(self, missing: Missing) -> None:
        """Note that the spool has lost this. It replaces what `note_spooled` has noted. Never raises."""
        self._content.spooled = None
        self._content.unsaved = [*self._content.unsaved, missing]
        self._write()

    def unsaved(self) -> Sequence[Missing]:
        """What was acknowledged and did not reach the archive: with --no-save, or in a spool that was lost."""
        return tuple(self._content.unsaved)

    def note_unsaved(self, missing: Missing) -> None:
        """Note what --no-save is about to acknowledge; replaces a note that begins at the same time. Never raises."""
        others = [note for note in self._content.unsaved if note.from_time != missing.from_time]
        self._content.unsaved = [*others, missing]
        self._write()

    def forget_unsaved(self) -> None:
        """Forget what `unsaved` has returned: it is in the archive's table of gaps now."""
        if self._content.unsaved:
            self._content.unsaved = []
            self._write()

    @property
    def polls(self) -> Polls | None:
        """The answered polls of this host for the archive in use; None if it has noted none."""
        return self._content.polls

    def note_polls(self, polls: Polls) -> None:
        """Note the answered polls, once a minute: without the database nobody else does. Never raises."""
        known = self._content.polls
        if (
            known is None
            or (polls.last - known.last).total_seconds() >= _POLLS_INTERVAL
            or polls.pauses[-1:] != (known.pauses[-1:])
        ):
            self._content.polls = polls
            self._write()

    def _read(self) -> _Content:
        try:
            content = self._file.read()
            return _Content() if content is None else msgspec.json.decode(content, type=_Content)
        except (OSError, ValueError) as error:
            log.error("%s cannot be read, so a database that went back is not noticed: %s", self.path, error)
            return _Content()

    def _write(self) -> None:
        failure: str | None = None
        try:
            self._file.write(msgspec.json.encode(self._content))
        except OSError as error:
            failure = f"{self.path} cannot be written: {error.strerror}; a database that goes back is not noticed"
        if failure != self._failure:
            self._failure = failure
            self._warn(failure)
