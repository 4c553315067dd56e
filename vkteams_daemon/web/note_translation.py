"""The notes of the archive in the reader's language. What has no translation here is shown as it is."""

from __future__ import annotations

import re
from collections.abc import Callable

from vkteams_daemon.web.language import Language


def note_in(language: Language, note: str) -> str:
    """A note of the archive in the reader's language."""
    for pattern, say in _patterns(language.gettext):
        if match := re.fullmatch(pattern, note, re.DOTALL):
            return say % match.groupdict() if match.groupdict() else say
    return note


def _patterns(gettext: Callable[[str], str]) -> list[tuple[str, str]]:
    _ = gettext
    return [
        (r"(?P<n>\d+) events? (?:is|are) stored but could not be read",
         _("Events that are stored but could not be read: %(n)s.")),
        (r"the API started its ids over (?:once|\d+ times): check for gaps",
         _("The messenger's server started its ids over; messages may be missing.")),
        (r"messages between (?P<start>.+?) and (?P<end>.+?) may be missing: .*",
         _("Messages between %(start)s and %(end)s may be missing.")),
        (r"messages (?:after|before) (?P<moment>.+?) may be missing: .*",
         _("Messages around %(moment)s may be missing.")),
        (r"(?P<n>\d+) events? waits? in the daemon's spool.*",
         _("Events that wait for the database and cannot be found yet: %(n)s.")),
        (r"the daemon cannot reach its database, so the newest messages may be missing",
         _("The archive cannot reach its database; the newest messages may be missing.")),
        (r"messages of an unknown time may be missing: .*", _("Messages of an unknown time may be missing.")),
        (r"(?P<n>\d+) older messages? gets? new index terms.*",
         _("Older messages that some words miss until they are indexed anew: %(n)s.")),
        (r"(?P<n>\d+) messages? (?:is|are) too long to be searched to the end by words",
         _("Messages that are too long to be searched to the end: %(n)s.")),
        (r"These were found by their words alone.*",
         _("These were found by their words alone: their meanings are not ready yet.")),
        (r"This query has no word that can be looked for.*", _("This has no word that can be looked for.")),
        (r"No word of this query was found: all this comes from its meaning alone.*",
         _("No message has these words: these mean something like it.")),
        (r"Messages with (?P<words>.+) were left out\. To look for (?P<typed>.+) itself, put it in quotes\.",
         _("Messages with %(words)s were left out. To look for %(typed)s itself, put it in quotes.")),
    ]  # fmt: skip
