"""What the archive says beside an answer: each sentence in one place, so that a face can say it in another language.

`{name}` stands for a value. An answer has several of these sentences, one after the other.
"""

from __future__ import annotations

WORDS_ALONE = "These were found by their words alone: no message has a vector of a model that is installed here."
NO_WORD = "This query has no word that can be looked for."
NO_WORD_NO_VECTOR = (
    "This query has no word that can be looked for, and no message has a vector of a model that is installed here."
)
NO_WORD_MEANING_ALONE = "This query has no word that can be looked for: all this comes from its meaning alone."
MEANING_ALONE = "No word of this query was found: all this comes from its meaning alone."
ENGLISH_MODEL = (
    "The model {models} was made for English: what it takes for the meaning of Russian words is little more than a"
    " guess; {recommended} reads both."
)
UNREADABLE = "The model {models} knows nothing of this query: no message was found by its meaning."
LEFT_OUT = "Messages with {words} were left out. To look for {typed} itself, put it in quotes."

UNREAD_ONE = "1 event is stored but could not be read"
UNREAD = "{number} events are stored but could not be read"
OLD_TERMS_ONE = "1 older message gets new index terms after an upgrade; until then some words miss it"
OLD_TERMS = "{number} older messages get new index terms after an upgrade; until then some words miss them"
TOO_LONG_ONE = "1 message is too long to be searched to the end by words"
TOO_LONG = "{number} messages are too long to be searched to the end by words"
STANDBY = (
    "this is the answer of a standby of the database, which has the archive as of {moment}: what is newer is missing"
)
STANDBY_EMPTY = "this is the answer of a standby of the database, which does not say how old its copy of the archive is"
MISSING_BETWEEN = "messages between {start} and {end} may be missing: {reason}"
MISSING_AFTER = "messages after {moment} may be missing: {reason}"
MISSING_BEFORE = "messages before {moment} may be missing: {reason}"
MISSING = "messages of an unknown time may be missing: {reason}"

NEVER_READ = "its roster was never read"
REFUSED = "its roster is refused: {reason}"
TOO_OLD = "its roster is too old"
BOT_LEFT = "a bot has left it"
NO_PARENT = "its parent is unknown"
