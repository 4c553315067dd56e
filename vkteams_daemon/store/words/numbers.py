"""Numbers as people write them: each spelling of a phone number, a sum or a date has one form by which it is found.

A form is an index term beside the digits as they stand:

    9991234567     a Russian phone number without 7 or 8; another country's number with its code
    1250000.5      a number without groups, with a point
    4276123456789012   the number of a card or an account
    -15            a negative number
    2026-11-24     a date; --11-24 a date of any year; 2026-11 a month
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

_MONTHS = (
    "янв января январь январе январю jan january", "фев февр февраля февраль феврале февралю feb february",
    "мар марта март марте марту mar march", "апр апреля апрель апреле апрелю apr april", "мая май мае маю may",
    "июн июня июнь июне июню jun june", "июл июля июль июле июлю jul july", "авг августа август августе августу aug"
    " august", "сен сент сентября сентябрь сентябре сентябрю sep sept september",
    "окт октября октябрь октябре октябрю oct october", "ноя нояб ноября ноябрь ноябре ноябрю nov november",
    "дек декабря декабрь декабре декабрю dec december",
)  # fmt: skip
_MONTH = {name: number for number, names in enumerate(_MONTHS, 1) for name in names.split()}
MONTH_WORDS = frozenset(form for name in _MONTH for form in (name, name.title(), name.upper()))
"""The words that name a month."""

_GAP = r"[\s.\-]{0,2}"
_TAIL = rf"{_GAP}\d{{2}}{_GAP}\d{{2}}(?!\w)"  # the last four digits of a Russian phone number
_RUSSIAN_PHONE = re.compile(
    rf"(?<![\w.,])(?:(?:(?:\+?[78]{_GAP}\(?\d{{3}}\)?|\(\d{{3}}\)|9\d{{2}}){_GAP}\d{{3}}"
    # A small town's number is shorter, and its code longer.
    rf"|\+?[78]{_GAP}\(?\d{{4}}\)?{_GAP}\d{{2}}|\+?[78]{_GAP}\(?\d{{5}}\)?{_GAP}\d){_TAIL}"
    r"|\d{3}[\s\-]\d{3}-\d{2}-\d{2}(?!\w))"
)
_PHONE = re.compile(r"(?<![\w])\+\d{1,3}[\s.\-]?(?:\(\d{1,5}\)[\s.\-]?)?\d(?:[\s.\-]?\d){5,12}(?!\w)")
_LOCAL_PHONE = re.compile(r"(?<![\w\-])\d{2,3}-\d{2}-\d{2}(?![\w\-])")
_GROUPS = re.compile(r"(?<![\w.,])\d{1,3}(?:([\s'.,_])\d{3})(?:\1\d{3})*(?:[.,](\d{1,2}))?(?![\d_]|[.,]\d)")
_IN_PARTS = re.compile(r"(?<![\w.,\-])\d{2,}(?:[\s\-]\d+){2,}(?![\w\-]|[.,]\d)")
_DECIMAL = re.compile(r"(?<![\w.,])(\d+)[.,](\d+)(?![\w]|[.,]\d)")
_NEGATIVE = re.compile(r"(?:^|(?<=[\s(\[=:~≈≤≥<>]))-(\d+)(?:[.,](\d+))?(?![\w]|-\d|[.,]\d)")
_DATE = re.compile(r"(?<![\w.])(\d{1,4})([./\-])(\d{1,2})\2(\d{2,4})(?!\d|\2\d)")
_COMPACT_DATE = re.compile(r"(?<!\d)(20\d\d)(0[1-9]|1[0-2])([0-2]\d|3[01])(?!\d)")
_MONTH_OF_YEAR = re.compile(
    r"(?<![\w.,/\-])(?:(0?[1-9]|1[0-2])[./]((?:19|20)\d\d)|((?:19|20)\d\d)-(0[1-9]|1[0-2]))(?![^\W\dг]|\d|[.,/\-]\d)"
)
_DAY_OF_YEAR = re.compile(r"(?<![\w.,])(\d{1,2})\.(\d{2})(?!\w|[.,]\d)")
_NAME_OF_MONTH = f"({'|'.join(sorted(_MONTH, key=len, reverse=True))})"
_ORDINAL = "(?:-?(?:[ое]?го|[ое]?му|[оы]?м|[ое]?е|[ыи]?й)|st|nd|rd|th)?"
# Digits with the signs that a number may have within it.
_CHUNK = re.compile(r"\d[\d\s.,/()'_\-]*")
_OF_CARD = 12  # digits of the shortest number that is written in parts as cards' numbers are
_LONG = 10  # digits of the shortest number that is a phone number without any sign


@functools.cache
def _worded() -> re.Pattern[str]:
    """Days and years of months in words; compiled at its first use, because every search imports this module."""
    return re.compile(
        # The first and the last of several days: 8-10 ноября, с 8 по 10 ноября.
        rf"(?<![\w.,])(?:(\d{{1,2}}){_ORDINAL}(?:\s?-\s?|,?\s(?:по|и|to|and)\s))?"
        rf"(\d{{1,2}}){_ORDINAL}[»”\"]?[\s/\-]?(?:of\s)?{_NAME_OF_MONTH}(?![^\W\d_])\.?,?(?:[\s/\-]?(\d{{4}})(?!\d))?"
        rf"|(?<!\w){_NAME_OF_MONTH}\.?\s?(\d{{1,2}})(?:st|nd|rd|th)?(?!\w)(?:,?\s(\d{{4}})(?!\w))?"
        rf"|(?<!\w){_NAME_OF_MONTH}\.?,?\s((?:19|20)\d\d)(?![^\W\dг]|\d)",
        re.IGNORECASE,
    )


def forms(text: str, *, worded: bool = True) -> Iterator[tuple[int, int, str]]:
    """Begin, end and form of every number in a folded text that has a form beside its digits.

    Args:
        text: the text.
        worded: whether to look for months in words.
    """
    for chunk in _CHUNK.finditer(text):
        begin, digits = chunk.start(), chunk[0].rstrip(" .,/()'_-\n\t")
        signed = begin > 0 and text[begin - 1] in "+-("
        if len(digits) < _LONG and not signed and digits.isdigit() and not _COMPACT_DATE.fullmatch(digits):
            continue
        where = text, max(0, begin - 1), min(len(text), begin + len(digits) + 2)
        for match in _NEGATIVE.finditer(*where):
            yield match.start(), match.end(), "-" + _number(match[1], match[2])
        yield from _phones(*where)
        yield from _sums(*where)
        yield from _dates(*where)
        if "20" in digits or "19" in digits:
            for match in _MONTH_OF_YEAR.finditer(*where):
                yield match.start(), match.end(), f"{match[2] or match[3]}-{int(match[1] or match[4]):02}"
    if worded:
        for match in _worded().finditer(text):
            if match[8] is not None:
                yield match.start(), match.end(), f"{match[9]}-{_MONTH[match[8].lower()]:02}"
                continue
            first, day, name, year = match.group(1, 2, 3, 4)
            if name is None:
                name, day, year = match.group(5, 6, 7)
            month = str(_MONTH[name.lower()])
            for form in _date_forms(year, month, day):
                yield match.start(2) if first else match.start(), match.end(), form
            for form in _date_forms(year, month, first) if first else ():
                yield match.start(1), match.end(1), form


def _phones(*where: Any) -> Iterator[tuple[int, int, str]]:
    for match in _RUSSIAN_PHONE.finditer(*where):
        yield match.start(), match.end(), _digits(match[0])[-10:]
    for pattern in (_PHONE, _LOCAL_PHONE):
        for match in pattern.finditer(*where):
            yield match.start(), match.end(), _digits(match[0])


def _sums(*where: Any) -> Iterator[tuple[int, int, str]]:
    for match in _GROUPS.finditer(*where):
        fraction = match[2]
        whole = match[0][: -len(fraction) - 1] if fraction else match[0]
        yield match.start(), match.end(), _number(_digits(whole), None)
        if fraction and fraction.strip("0"):
            yield match.start(), match.end(), _number(_digits(whole), fraction)
    for match in _IN_PARTS.finditer(*where):
        if len(digits := _digits(match[0])) >= _OF_CARD:
            yield match.start(), match.end(), digits
    for match in _DECIMAL.finditer(*where):
        yield match.start(), match.end(), _number(match[1], match[2])


def _dates(*where: Any) -> Iterator[tuple[int, int, str]]:
    for match in _DATE.finditer(*where):
        first, sign, second, third = match.groups()
        if len(first) > 2:
            orders = [(first, second, third)]
        elif sign == "/":
            orders = [(third, second, first), (third, first, second)]  # 24/11/2026, and 11/24/2026 in America
        else:
            orders = [(third, second, first)]
        for order in orders:
            for form in _date_forms(*order):
                yield match.start(), match.end(), form
    for match in _COMPACT_DATE.finditer(*where):
        for form in _date_forms(*match.groups()):
            yield match.start(), match.end(), form
    for match in _DAY_OF_YEAR.finditer(*where):
        for form in _date_forms(None, match[2], match[1]):
            yield match.start(), match.end(), form


def _date_forms(year: str | None, month: str, day: str) -> Iterator[str]:
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return
    if year is not None:
        if len(year) not in (2, 4):
            return
        century = "" if len(year) == 4 else "20" if int(year) < 70 else "19"
        yield f"{century}{year}-{int(month):02}-{int(day):02}"
    yield f"--{int(month):02}-{int(day):02}"


def _number(whole: str, fraction: str | None) -> str:
    whole, fraction = whole.lstrip("0") or "0", (fraction or "").rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole


def _digits(text: str) -> str:
    return "".join(letter for letter in text if letter.isdigit())
