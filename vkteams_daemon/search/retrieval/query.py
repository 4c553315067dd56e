"""A query in web search syntax: words, "phrases", -without, this OR that; and the tsquery that finds its messages.

A query is cut into words as messages are (`store.words.tokens`). A term of several words (JIRA-1234, host-01.corp, a
date, a phone number) is looked for as a phrase, and in its other forms. Every text can be read as a query, also a
command line from a terminal: its flags exclude nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.words import letters, numbers
from vkteams_daemon.store.words.lexicon import Lexemes, Lexicon, form_lexemes, lexemes_of, words_of
from vkteams_daemon.store.words.tokens import Tokens, normal_forms, tokens

MAX_TERMS = 64
"""Terms of one query; further ones are ignored."""

_TERM = re.compile(r'(-?)"([^"]*)"?|(\S+)')
# What only a command line has: an option, a flag with or without a number, a path, and what joins two commands.
_OF_COMMAND = re.compile(r"--[A-Za-z]\S*|-[^\W\d_]\d*|\.|(?:\.{1,2}|~|\$\w*)?/\S*|\||&&|\|\||>>?|sudo")
# Commands whose flags of several letters are often the only sign of one: ls -la, grep -rn foo.
_COMMAND_NAMES = (
    "ls ll ps grep egrep zgrep rg awk sed tar gzip gunzip zip unzip cat tail head xargs chmod chown cp mv rm mkdir ln"
    " df du htop killall pkill ssh scp sftp rsync curl wget netstat ss lsof nc nmap dig nslookup traceroute tcpdump"
    " ifconfig iptables systemctl journalctl umount fdisk lsblk dd crontab useradd usermod passwd su apt-get yum dnf"
    " rpm dpkg psql pg_dump pg_restore mysqldump redis-cli openssl keytool ffmpeg javac java mvn gradle gcc pip pip3"
    " npm npx git docker kubectl uname ping ipconfig robocopy"
)
_COMMANDS = frozenset(_COMMAND_NAMES.split())
_CMDLET = re.compile("[A-Z][a-z]+-[A-Z][A-Za-z]+")  # Get-Process
# What a question begins with. The server's list of stop words has the others: кто, когда, где, who, why.
_ASKING = (
    "почему отчего откуда сколько скольких скольким насколько чей чья чье чьи чьего чьей чьих кого кому кем ком чему"
    " какие каких каким какими какого какому каком какую который которая которое которые которого которой которых"
    " которому которым которую котором которыми whose"
)
_QUESTION_WORDS = frozenset(_ASKING.split())
_GLUE = "\ue000"  # stands for the spaces within a number, so that it is one term
_DIGIT = re.compile(r"\d")
_LEXEME = re.compile(r"'((?:[^'\\]|''|\\\\)+)'(:\*)?")
_UNITS = {
    "кг": "kg",
    "км": "km",
    "см": "cm",
    "мм": "mm",
    "мл": "ml",
    "мс": "ms",
    "кб": "kb",
    "мб": "mb",
    "гб": "gb",
    "тб": "tb",
}
_UNITS |= {latin: cyrillic for cyrillic, latin in _UNITS.items()}
_MONTH = re.compile(r"\d{4}-\d{2}")
_TIMES = re.compile(r"(?<=\d)\s+([xXхХ×*])\s+(?=\d)")


@dataclass(frozen=True, slots=True)
class Term:
    """A word or phrase of a query.

    Attributes:
        typed: the text as it was typed, without quotes and minus.
        phrase: whether its words must follow one another.
        excluded: whether messages that hold it are left out.
        tsquery: finds it, in PostgreSQL's notation; "" for a stop word, which is never looked for (the, и).
        correction: the word that is looked for in its place; None if it is looked for as typed, or in other forms.
        guessed: whether that word is one within a few typos: it may be another word.
    """

    typed: str
    phrase: bool = False
    excluded: bool = False
    tsquery: str = ""
    correction: str | None = None
    guessed: bool = False

    @property
    def word(self) -> str:
        """The correction, or else the text as typed."""
        return self.typed if self.correction is None else self.correction

    @property
    def text(self) -> str:
        """The term as a query writes it."""
        return ("-" if self.excluded else "") + (f'"{self.word}"' if self.phrase else self.word)


@dataclass(frozen=True, slots=True)
class Query:
    """A query: a message matches if it matches every term of one of the alternatives."""

    alternatives: tuple[tuple[Term, ...], ...] = field(default=())

    @property
    def terms(self) -> list[Term]:
        """The terms of every alternative that are looked for."""
        return [term for terms in self.alternatives for term in terms if not term.excluded and term.tsquery]

    @property
    def without(self) -> str:
        """A tsquery for the messages that must not be in the answer; "" if nothing is excluded."""
        return " | ".join(
            f"({term.tsquery})" for terms in self.alternatives for term in terms if term.excluded and term.tsquery
        )

    @property
    def tsquery(self) -> str:
        """Finds the messages that match; "" if nothing is looked for."""
        parts = []
        for terms in self.alternatives:
            factors = [f"!({t.tsquery})" if t.excluded else f"({t.tsquery})" for t in terms if t.tsquery]
            if factors:
                parts.append(" & ".join(factors))
        return " | ".join(f"({part})" for part in parts)

    @property
    def is_corrected(self) -> bool:
        """Whether any term has a correction."""
        return any(term.correction is not None for terms in self.alternatives for term in terms)

    @property
    def text(self) -> str:
        """The query in web search syntax."""
        return " OR ".join(" ".join(term.text for term in terms) for terms in self.alternatives)

    @property
    def plain_text(self) -> str:
        """The query as a sentence would say it: without syntax, and without the terms that it excludes."""
        return " ".join(term.word for terms in self.alternatives for term in terms if not term.excluded)

    def without_question_words(self) -> Query:
        """The query without the words that only ask (почему, сколько), unless it has no others: answers lack them."""

        def asks(term: Term) -> bool:
            return not (term.phrase or term.excluded) and letters.fold(term.typed).strip("?").lower() in _QUESTION_WORDS

        if all(asks(term) for term in self.terms):
            return self
        return Query(
            tuple(tuple(replace(t, tsquery="") if asks(t) else t for t in terms) for terms in self.alternatives)
        )

    def with_terms(self, terms: dict[str, Term]) -> Query:
        """The query with these terms in the place of the words that were typed so; phrases and exclusions stay."""
        return Query(
            tuple(
                tuple(t if t.phrase or t.excluded else terms.get(t.typed, t) for t in alternative)
                for alternative in self.alternatives
            )
        )


def parse(text: str) -> Query:
    """The query as it is written; its terms have no tsqueries yet."""
    alternatives: list[list[Term]] = [[]]
    found = list(_TERM.finditer(_glued(text.replace("\x00", " "))))[:MAX_TERMS]
    words = [match[3] for match in found if match[3] is not None]
    is_command = any(w in _COMMANDS or _OF_COMMAND.fullmatch(w) or _CMDLET.fullmatch(w) for w in words)
    for match in found:
        minus, phrase, word = match.groups()
        if word is None:
            if phrase.strip():
                alternatives[-1].append(Term(_unglued(phrase.strip()), phrase=True, excluded=bool(minus)))
        elif word.lower() == "or":
            alternatives.append([])
        elif _excludes(word, is_command):
            alternatives[-1].append(Term(_unglued(word[1:]), excluded=True))
        else:
            alternatives[-1].append(Term(_unglued(word)))
    return Query(tuple(tuple(terms) for terms in alternatives if terms))


def _excludes(word: str, is_command: bool) -> bool:
    """Whether a word excludes: a minus before a letter does, but not the flag of a command, nor a negative number."""
    if not word.startswith("-") or not word[1:2].isalpha() or "=" in word:
        return False
    return len(word) > 2 and not (is_command and word[1].isascii())


def _glued(text: str) -> str:
    """The text with `_GLUE` for the spaces within numbers: +7 999 123-45-67, 1 250 000, 24 ноября 2026, 10 x 20."""
    if _DIGIT.search(text) is None:
        return text
    folded, places = letters.fold_with_places(text)
    glued = list(text)
    for begin, end, _ in numbers.forms(folded):
        for place in range(places[begin], places[end]):
            if text[place].isspace():
                glued[place] = _GLUE
    for match in _TIMES.finditer(text):
        glued[match.start() : match.start(1)] = _GLUE * (match.start(1) - match.start())
        glued[match.end(1) : match.end()] = _GLUE * (match.end() - match.end(1))
    return "".join(glued)


def _unglued(text: str) -> str:
    return text.replace(_GLUE, " ")


def read(connection: Connection, text: str) -> Query:
    """The query with the tsquery of each of its terms."""
    query = parse(text)
    tsquery = iter(tsqueries(connection, [term for terms in query.alternatives for term in terms]))
    return Query(tuple(tuple(replace(term, tsquery=next(tsquery)) for term in terms) for terms in query.alternatives))


def tsqueries(connection: Connection, terms: Sequence[Term]) -> list[str]:
    """The tsquery of each of these terms, in PostgreSQL's notation; "" for stop words."""
    cut = [tokens(term.typed) for term in terms]
    others = [[_looks_like(word, each) for word in each.words] for each in cut]
    words = words_of((each, 0) for each in cut) | {word for each in others for word in each if word}
    words |= {part for word in words for part in normal_forms(word)[1:]} | {
        one for each in cut if (one := _joined(each))
    }
    lexemes = Lexicon(whole=True).lexemes(connection, words)
    return [_tsquery(term, each, other, lexemes) for term, each, other in zip(terms, cut, others, strict=True)]


def _looks_like(word: str, cut: Tokens) -> str | None:
    """The same code in letters of the other script: РО-512 with Russian letters, PO-512 with Latin ones; a unit's."""
    if (unit := _UNITS.get(word.lower())) is not None:
        return unit
    if (len(word) > 1 and word.isupper()) or any(map(str.isdigit, "".join(cut.words))):
        return letters.alike(letters.fold(word))
    return None


def _joined(cut: Tokens) -> str | None:
    """The words of an identifier (node.js, user_id) as one word; None if it is no identifier of letters alone."""
    return "".join(cut.words).lower() if 1 < len(cut.words) < 4 and all(map(str.isalpha, cut.words)) else None


def _tsquery(term: Term, cut: Tokens, others: Sequence[str | None], lexemes: Lexemes) -> str:
    steps = []
    for word, other in zip(cut.words, others, strict=True):
        if not lexemes[word]:
            other = None  # a stop word's place stays empty in the index
        found = dict.fromkeys(lexeme for each in (word, other) if each for lexeme in lexemes_of(each, lexemes))
        steps.append(" | ".join([*map(quoted, found), *_together(word, lexemes)]))
    phrase = _phrase(steps)
    if term.phrase:
        return phrase
    whole = [form for form in cut.forms if form.width == len(cut.words)]
    forms = [lexeme for form in whole for lexeme in form_lexemes(cut, form, lexemes)]
    if named := [form for form in forms if form[-1] in "#+"]:
        return quoted(named[0])
    forms += [other.lower() for form in forms if (other := letters.alike(form.upper()))]
    if negative := [form for form in forms if form[0] == "-" and form[1:2].isdigit()]:
        return quoted(negative[0])
    if any(not form.startswith("--") for form in forms):
        forms = [form for form in forms if not form.startswith("--") or ("." in term.typed and len(steps) == 2)]
    # `1с` without its stop word would find every 1.
    alternatives = [phrase] if phrase and (all(steps) or not forms) else []
    if all(steps) and (joined := _joined(cut)) and not any(map(str.isspace, term.typed)):
        # Written together, and as parts of one word: userid, userId.
        alternatives += [quoted(lexeme) for lexeme in lexemes_of(joined, lexemes)]
        alternatives.append(" <0> ".join(f"({step})" for step in steps))
    if months := [form for form in forms if _MONTH.fullmatch(form)]:
        # All days of that month, and its name and its year apart from each other.
        alternatives += [f"{quoted(form)}:*" for form in months]
        if all(steps) and any(map(str.isalpha, cut.words)):
            alternatives.append("(" + " & ".join(f"({step})" for step in steps) + ")")
    return " | ".join(dict.fromkeys([*alternatives, *map(quoted, forms)]))


def _together(word: str, lexemes: Lexemes) -> list[str]:
    """Tsqueries of the words that a word is written together of: within another one, and apart; none for others."""
    parts = [quoted(lexeme) for part in normal_forms(word)[1:] for lexeme in lexemes_of(part, lexemes)]
    if len(parts) < 2 or len(normal_forms(word, whole=True)) > 1:
        return []
    return [f"({f' {sign} '.join(parts)})" for sign in ("<0>", "<->")]


def _phrase(steps: Sequence[str]) -> str:
    """The words one after the other; "" stands for a stop word, whose place stays empty."""
    phrase, distance = "", 0
    for step in steps:
        distance += 1
        if not step:
            continue
        step = f"({step})" if " | " in step else step
        phrase = f"{phrase} {'<->' if distance == 1 else f'<{distance}>'} {step}" if phrase else step
        distance = 0
    return phrase


def lexemes_in(tsquery: str) -> list[str]:
    """The lexemes of a tsquery in PostgreSQL's notation."""
    return [match.replace("''", "'").replace("\\\\", "\\") for match, _ in _LEXEME.findall(tsquery)]


def own_words(tsquery: str) -> str:
    """The same tsquery for a message's own words alone (weight D, see `store.words.searched_texts`)."""
    return _LEXEME.sub(lambda match: f"'{match[1]}':{'*' if match[2] else ''}D", tsquery)


def quoted(lexeme: str) -> str:
    """The tsquery of one lexeme."""
    return "'" + lexeme.replace("\\", "\\\\").replace("'", "''") + "'"
