"""The notes of the archive in the reader's language, sentence by sentence. The page has its own words for each."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from vkteams_daemon.daemon import status
from vkteams_daemon.search import notes
from vkteams_daemon.store import gaps
from vkteams_daemon.web.language import Language

_REASONS = ("reason",)  # values that are notes themselves


def note_in(language: Language, note: str) -> str:
    """A note of the archive in the reader's language; a sentence that has no translation as it is."""
    sentences = _sentences(language.gettext)
    said = []
    rest = note
    while rest:
        for template, say in sentences.items():
            if match := _pattern(template).match(rest):
                values = {name: value.strip() for name, value in match.groupdict().items()}
                values |= {name: note_in(language, values[name]) for name in _REASONS if name in values}
                said.append(say % values if values else say)
                rest = rest[match.end() :].lstrip()
                break
        else:
            return " ".join([*said, rest])
    return " ".join(said)


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    """Finds a sentence of this template at the beginning of a text, and ends where the next sentence may begin."""
    pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.*?)", re.escape(template))
    return re.compile(rf"{pattern}(?=\s|$)" if template.endswith(".") else rf"{pattern}$", re.DOTALL)


def _sentences(gettext: Callable[[str], str]) -> dict[str, str]:
    _ = gettext
    unread = _("Events that are stored but could not be read: %(number)s.")
    old_terms = _("Older messages that some words miss until they are indexed anew: %(number)s.")
    too_long = _("Messages that are too long to be searched to the end: %(number)s.")
    spooled = _("Events that wait for the database and cannot be found yet: %(number)s.")
    one = {"number": "1"}
    return {
        notes.WORDS_ALONE: _("These were found by their words alone: their meanings are not ready yet."),
        notes.NO_WORD: _("This has no word that can be looked for."),
        notes.NO_WORD_NO_VECTOR: _("This has no word that can be looked for."),
        notes.NO_WORD_MEANING_ALONE: _("This has no word that can be looked for: these mean something like it."),
        notes.MEANING_ALONE: _("No message has these words: these mean something like it."),
        notes.ENGLISH_MODEL: _("The archive's model knows English alone: it guesses what Russian words mean."),
        notes.UNREADABLE: _("Nothing was found by its meaning: the archive's model does not know these words."),
        notes.LEFT_OUT: _("Messages with %(words)s were left out. To look for %(typed)s itself, put it in quotes."),
        notes.UNREAD_ONE: unread % one, notes.UNREAD: unread,
        notes.OLD_TERMS_ONE: old_terms % one, notes.OLD_TERMS: old_terms,
        notes.TOO_LONG_ONE: too_long % one, notes.TOO_LONG: too_long,
        notes.STANDBY: _("This shows the archive as of %(moment)s: what is newer is missing."),
        notes.STANDBY_EMPTY: _("This shows an older state of the archive, and not how old it is."),
        notes.MISSING_BETWEEN: _("Messages between %(start)s and %(end)s may be missing: %(reason)s."),
        notes.MISSING_AFTER: _("Messages after %(moment)s may be missing: %(reason)s."),
        notes.MISSING_BEFORE: _("Messages before %(moment)s may be missing: %(reason)s."),
        notes.MISSING: _("Messages of an unknown time may be missing: %(reason)s."),
        notes.NEVER_READ: _("its roster was never read"),
        notes.REFUSED: _("its roster is refused: %(reason)s"),
        notes.TOO_OLD: _("its roster is too old"),
        notes.BOT_LEFT: _("a bot has left it"),
        notes.NO_PARENT: _("its parent is unknown"),
        gaps.WENT_BACK: _("the database went back to an earlier state"),
        gaps.RESTORED: _("the archive was restored from a backup"),
        gaps.NOT_SAVED: _("the events were acknowledged without being stored"),
        gaps.SPOOL_LOST: _("the events that waited for the database were lost"),
        gaps.RESTARTED: _("the messenger's server started its ids over"),
        gaps.OUTAGE: _("the messenger could not be asked for longer than it keeps events"),
        gaps.POSSIBLE_OUTAGE: _("the messenger could not be asked for more than a day"),
        status.SPOOLED_ONE: spooled % one, status.SPOOLED: spooled,
        status.DATABASE_DOWN: _("The archive cannot reach its database; the newest messages may be missing."),
    }  # fmt: skip
